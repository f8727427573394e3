"""Runs the cells that are missing: in sequence, on worker processes, or on a Ray cluster."""

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.process import BaseProcess
from pathlib import Path

import safetensors
import torch

from nabla_tau.bench.cells import REFERENCES, Bench, Cell, key_of
from nabla_tau.bench.files import files_of, verified
from nabla_tau.bench.measuring import measure_slice, modules_of
from nabla_tau.bench.provenance import measuring_code, method_code
from nabla_tau.bench.reading import whole_cell
from nabla_tau.bench.records import ROWS, original_of, read_cell
from nabla_tau.bench.storing import Json, write_json
from nabla_tau.bench.tasks import TASKS
from nabla_tau.bench.versions import Versions, read_versions
from nabla_tau.bench.warming import warm_up
from nabla_tau.errors import InvalidRequest, Problems


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        found: cells that were finished before.
        statuses: status -> how many cells, all of them.
        other_code: finished cells that other measuring code measured, which was not shown to give the same numbers.
        other_method: finished cells of a method in another version, likewise.
    """

    found: int
    statuses: dict[str, int]
    other_code: int
    other_method: int


def run_cells(
    cells: list[Cell],
    results: Path,
    bench: Bench,
    *,
    workers: int = 1,
    ray_address: str | None = None,
    retry_failed: bool = False,
    begin: Callable[[int, int], None] = lambda missing, found: None,
    say: Callable[[Json], None] = lambda record: None,
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
        begin: called with (cells to measure, cells that are finished) before the first is measured.
        say: called for each cell that was measured.

    Raises:
        InvalidRequest: if data is missing, data or a stored model is damaged, a folder cannot be written to, or the
            folder holds cells of another recipe or data, of another original model, references by other code, or
            cells of another version of a method that is to be measured on the same task.
        OSError: if a worker was killed.

    Example:
        >>> run_cells([], Path("results"), Bench(Path("models"), torch.device("cpu")))
        Outcome(found=0, statuses={}, other_code=0, other_method=0)
    """
    problems = Problems()
    data_sets = dict.fromkeys(TASKS[cell.task].data_set for cell in cells)
    for name in [file for data_set in data_sets if data_set for file in files_of(data_set, bench.data)]:
        with problems.gathered("data", "a file that can be read", "see docs/benchmark.md."):
            verified(name, bench.data)
    problems[:] = dict.fromkeys(problems)  # a folder that is not there is one problem
    problems += [
        f"{name}: expected a folder that can be made and written to, got {folder}: name another."
        for name, folder in (("output", results), ("models", bench.models))
        if not _writable(folder)
    ]
    for path in sorted(one for one in bench.models.glob("*.safetensors") if one.is_file()):
        with problems.gathered("models", f"weights in {path}", "remove it."), safetensors.safe_open(path, "pt"):
            pass
    known = _known(cells, results, problems)
    others = [path for path, record in known.items() if record["key"] != key_of(Cell(**record["cell"]), bench)]
    if others:
        problems.append(
            f"results: expected cells of the same recipe and data in {results}, got {len(others)} others (first "
            f"{others[0].relative_to(results)}): choose another --output."
        )
    versions = read_versions(results, problems)
    finished = {cell: known[path] for cell in cells if (path := results / cell.path) in known}
    if retry_failed:
        finished = {cell: record for cell, record in finished.items() if record["status"] != "failed"}
    missing = [cell for cell in cells if cell not in finished]
    problems += _other_references(missing, known.values(), versions)
    problems += _other_versions(missing, known.values(), versions)
    problems.refuse()
    statuses = [record["status"] for record in finished.values()]
    begin(len(missing), len(finished))
    with _one_thread(bench.device):
        for record in _measured(_slices(missing), results, bench, workers, ray_address):
            statuses.append(record["status"])
            say(record)
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    other_code = sum(not _is_current(record, versions, "code") for record in finished.values())
    other_method = sum(not _is_current(record, versions, "method_code") for record in finished.values())
    return Outcome(len(finished), counts, other_code, other_method)


def _other_references(missing: list[Cell], known: Iterable[Json], versions: Versions) -> list[str]:
    """Retrained models by other code: a cell that is measured now would have nothing to be set against."""
    wanted = {(cell.scale, cell.task, cell.seed, cell.forget) for cell in missing}
    others = Counter(
        record["cell"]["task"]
        for record in known
        if record["cell"]["method"] in REFERENCES and record["status"] == "done"
        if tuple(record["cell"][name] for name in ("scale", "task", "seed", "forget")) in wanted
        if not _is_current(record, versions, "code")
    )
    return [
        f"results: expected originals and retrained models of {task} by the code that is here, got {count} cells by "
        "other code, which a new one cannot be set against: choose another --output; where both give the same "
        "numbers, show it with nabla-tau bench same."
        for task, count in sorted(others.items())
    ]


def _other_versions(missing: list[Cell], known: Iterable[Json], versions: Versions) -> list[str]:
    """Methods that would stand on a task in two versions by one measuring code, which no table takes."""
    wanted = {(cell.task, cell.method) for cell in missing}
    others = Counter(
        (record["cell"]["task"], record["cell"]["method"])
        for record in known
        if record["status"] == "done" and (record["cell"]["task"], record["cell"]["method"]) in wanted
        if _is_current(record, versions, "code") and not _is_current(record, versions, "method_code")
    )
    return [
        f"results: expected cells of {method} on {task} by the code that is here, got {others[task, method]} by "
        "another version, and a table takes one: choose another --output; where both give the same numbers, show it "
        "with nabla-tau bench same."
        for task, method in sorted(others)
    ]


def _is_current(record: Json, versions: Versions, which: str) -> bool:
    """Whether the code that is here gives the numbers of a cell, as far as was shown."""
    cell = Cell(**record["cell"])
    here = {
        "code": measuring_code(),
        "method_code": None if cell.method in REFERENCES else method_code(*modules_of(cell)),
    }
    return bool(versions.newest(record)[which] == versions.newest({**record, **here})[which])


def _known(cells: list[Cell], results: Path, problems: Problems) -> dict[Path, Json]:
    """All finished cells of the tasks that are wanted; problems take those that are none."""
    found = {}
    for folder in dict.fromkeys(results / cell.scale / cell.task for cell in cells):
        for path in sorted(folder.glob("seed-*/*/*.json")):
            with problems.gathered("results", f"a cell in {path}", "remove it."):
                if path.name != ROWS:
                    found[path] = whole_cell(path)
    return found


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU sums depend on how many threads share them, so a cell is the same with workers and without."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _writable(folder: Path) -> bool:
    """Whether it can be written to or made, without making it."""
    place = next(one for one in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(one))
    return place.is_dir() and os.access(place, os.W_OK)


def _slices(cells: list[Cell]) -> list[list[Cell]]:
    key = lambda cell: (cell.scale, cell.task, cell.seed)  # noqa: E731
    return [list(group) for _, group in groupby(cells, key=key)]


def _measured(
    slices: list[list[Cell]], results: Path, bench: Bench, workers: int, ray_address: str | None
) -> Iterator[Json]:
    """Cells, each written before it is given."""
    if ray_address is not None:
        from nabla_tau.bench.on_ray import measure_on_ray

        yield from _written(measure_on_ray(slices, bench, ray_address), results)
    elif workers == 1 or len(slices) < 2:
        warm_up()
        for cells in slices:
            yield from _written(measure_slice(cells, bench), results)
    else:
        yield from _on_workers(slices, results, bench, workers)


def _written(found: Iterable[tuple[Path, Json]], results: Path) -> Iterator[Json]:
    versions = read_versions(results, Problems())  # what is wrong with them was told before
    for path, record in found:
        if "cell" in record:
            _check_original(results / path, record, versions)
        else:
            _check_rows(results / path, record)
        write_json(results / path, record, indent=1 if "cell" in record else None)
        if "cell" in record:
            yield record


def _check_rows(path: Path, rows: Json) -> None:
    """Cells that were there before must be about the same rows."""
    with suppress(FileNotFoundError):
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = None
        if known != rows:
            raise InvalidRequest(
                [
                    f"results: expected in {path} the numbers of the rows that are measured now, got others, or "
                    "something else: choose another --output, or, if the file alone was changed, remove it."
                ]
            )


def _check_original(path: Path, record: Json, versions: Versions) -> None:
    """Cells that were there before must be about the same original: other processors train other weights."""
    ours = original_of(record)
    if ours is None:
        return
    others = [read_cell(other) for other in path.parent.glob("*.json") if other.name != ROWS]
    code = versions.newest(record)["code"]
    known = {original_of(one) for one in others if one is not None and versions.newest(one)["code"] == code}
    if known - {None, ours}:
        raise InvalidRequest(
            [
                f"results: expected {path.stem} to start from the original model of the cells in {path.parent}, got "
                "another (kinds of processors and versions of torch train different ones): choose another --output, or "
                "take --models from where those were measured."
            ]
        )


def _on_workers(slices: list[list[Cell]], results: Path, bench: Bench, workers: int) -> Iterator[Json]:
    """Each worker writes its cells as it finishes them; they are told of here slice by slice."""
    spawned = multiprocessing.get_context("spawn")  # a fork would take over torch's threads
    others: set[BaseProcess] = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(workers, len(slices)), spawned, _start_worker) as pool:
        try:
            for future in as_completed([pool.submit(_work, cells, results, bench) for cells in slices]):
                yield from future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "Expected workers to finish, got one that was killed, perhaps for want of memory: finished cells are "
                "kept; start again, with fewer --workers."
            ) from error
        except BaseException:
            _stop(others)
            raise


def _stop(others: set[BaseProcess]) -> None:
    """End all workers but others: left to itself, the pool would first finish every slice."""
    for worker in set(multiprocessing.active_children()) - others:
        worker.terminate()


def _start_worker() -> None:
    torch.set_num_threads(1)
    warm_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; who started the workers ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Nobody would take the slices of a run that was killed, and the next run measures them again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(cells: list[Cell], results: Path, bench: Bench) -> list[Json]:
    return list(_written(measure_slice(cells, bench), results))
