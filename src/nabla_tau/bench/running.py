"""Runs the cells that are missing: in sequence, on worker processes, or on a Ray cluster."""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from nabla_tau.bench.cells import Bench, Cell, measure_slice
from nabla_tau.bench.data import verified
from nabla_tau.bench.provenance import measuring_code
from nabla_tau.bench.storing import Json, write_json
from nabla_tau.bench.suites import files_of
from nabla_tau.errors import InvalidRequest, Problems

Say = Callable[[Cell, Json], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        found: cells that were finished before.
        statuses: status -> how many cells, all of them.
        other_code: finished cells that another version of the code measured.
    """

    found: int
    statuses: dict[str, int]
    other_code: int


def run_cells(
    cells: list[Cell],
    results: Path,
    bench: Bench,
    *,
    workers: int = 1,
    ray_address: str | None = None,
    retry_failed: bool = False,
    say: Say = lambda cell, record: None,
) -> Outcome:
    """Measure what is missing and write each cell as soon as it is finished.

    Killed at any moment and started again, it goes on with the cells, and the trained models, that are not there.

    Args:
        cells: what is wanted.
        results: folder of the JSON files.
        bench: where to measure.
        workers: local processes of one thread each; a slice, that is one task and seed, is never divided.
        ray_address: of a Ray cluster that takes the slices instead; `auto` finds a local one.
        retry_failed: measure cells again that failed.
        say: called for each cell that was measured.

    Raises:
        InvalidRequest: if data is missing or damaged, or the folder holds cells of another recipe or data.

    Example:
        >>> import tempfile
        >>> from nabla_tau.bench.suites import cells_of
        >>> cells = cells_of("smoke", methods=("original",), seeds=(0,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bench = Bench(Path(folder) / "models", torch.device("cpu"))
        ...     first = run_cells(cells[:1], Path(folder), bench)
        ...     again = run_cells(cells[:1], Path(folder), bench)
        >>> first.statuses, first.found, again.found
        ({'done': 1}, 0, 1)
    """
    problems = Problems()
    for name in files_of(cells):
        with problems.gathered("data", "a file that can be read", "see docs/benchmark.md."):
            verified(name, bench.data)
    finished = {cell: record for cell in cells if (record := read_cell(results / cell.path)) is not None}
    others = [str(cell.path) for cell, record in finished.items() if record["key"] != cell.key]
    if others:
        problems.append(
            f"results: expected cells of the same recipe and data in {results}, got {len(others)} others (first "
            f"{others[0]}): choose another --output."
        )
    problems.refuse()
    if retry_failed:
        finished = {cell: record for cell, record in finished.items() if record["status"] != "failed"}
    missing = [cell for cell in cells if cell not in finished]
    statuses = [record["status"] for record in finished.values()]
    for path, record in _measured(_slices(missing), bench, workers, ray_address):
        write_json(results / path, record, indent=1 if "cell" in record else None)
        if "cell" in record:
            statuses.append(record["status"])
            say(Cell(**record["cell"]), record)
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    other_code = sum(record["code"] != measuring_code() for record in finished.values())
    return Outcome(len(finished), counts, other_code)


def read_cell(path: Path) -> Json | None:
    """A finished cell; None where there is none.

    Raises:
        InvalidRequest: if the file is no cell.

    Example:
        >>> read_cell(Path("nowhere.json")) is None
        True
    """
    if not path.is_file():
        return None
    try:
        record: Json = json.loads(path.read_text(encoding="utf-8"))
        record["cell"], record["key"], record["status"], record["code"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            [f"results: expected a cell in {path}, got something else ({error}): remove it."]
        ) from None
    return record


def _slices(cells: list[Cell]) -> list[list[Cell]]:
    key = lambda cell: (cell.scale, cell.task, cell.seed)  # noqa: E731
    return [list(group) for _, group in groupby(cells, key=key)]


def _measured(
    slices: list[list[Cell]], bench: Bench, workers: int, ray_address: str | None
) -> Iterator[tuple[Path, Json]]:
    if ray_address is not None:
        from nabla_tau.bench.on_ray import measure_on_ray

        yield from measure_on_ray(slices, bench, ray_address)
    elif workers == 1 or len(slices) < 2:
        for cells in slices:
            yield from measure_slice(cells, bench)
    else:
        yield from _on_workers(slices, bench, workers)


def _on_workers(slices: list[list[Cell]], bench: Bench, workers: int) -> Iterator[tuple[Path, Json]]:
    """Workers send each cell as soon as they have it; only this process writes."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(workers, context, initializer=_one_thread) as pool:
        queue: Any = manager.Queue()
        waiting = [pool.submit(_send, cells, bench, queue) for cells in slices]
        for _ in waiting:
            yield from iter(queue.get, None)
        for future in as_completed(waiting):
            future.result()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _send(cells: list[Cell], bench: Bench, queue: Any) -> None:
    try:
        for path, record in measure_slice(cells, bench):
            queue.put((path, record))
    finally:
        queue.put(None)


def described(cells: list[Cell]) -> list[Json]:
    """Cells as JSON takes them.

    Example:
        >>> described([Cell("quick", "cifar10", 0, "class", "ssd")])[0]["method"]
        'ssd'
    """
    return [asdict(cell) for cell in cells]
