"""One cell: task × method × forget set × seed at a scale, measured into what its JSON file holds."""

import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nabla_tau.auditing.audit import audit
from nabla_tau.auditing.predictions import js_divergence
from nabla_tau.bench.alpha import STUDY
from nabla_tau.bench.data import Pool, Positions, Rows, files_of
from nabla_tau.bench.provenance import provenance, training_code
from nabla_tau.bench.storing import Json, Models, Trained, digest, rows_digest
from nabla_tau.bench.tasks import TASKS, Recipe, Split, Task, forget_requests, split_rows
from nabla_tau.bench.training import trained
from nabla_tau.errors import InvalidRequest, UnlearningWarning, told
from nabla_tau.facts import facts_of, task_problems
from nabla_tau.losses import classification, name_of, regression
from nabla_tau.methods import METHODS
from nabla_tau.tuning import tune
from nabla_tau.unlearning import Request, unlearn

FORMAT = 1
DONE, FAILED, NOT_APPLICABLE = "done", "failed", "not applicable"

ORIGINAL = "original"
RETRAINED = ("retrained-1", "retrained-2")
REFERENCES = (ORIGINAL, *RETRAINED)
"""Rows of every table: doing nothing, and two trainings without the forget set, whose difference is the floor."""

UNLEARNING = {name: method for name, method in METHODS.items() if name != "retrain"}
"""The methods that are compared, at their published settings."""

TUNED = {f"{name}+tuned": name for name, method in UNLEARNING.items() if facts_of(method).settings}  # type: ignore[union-attr]
"""The same, their settings searched on forget, retain and validation set; the search counts as cost."""


@dataclass(frozen=True, order=True)
class Cell:
    """Names one measurement.

    Example:
        >>> Cell("quick", "location30", 0, "class", "scrub").path
        PosixPath('quick/location30/seed-0/class/scrub.json')
    """

    scale: str
    task: str
    seed: int
    forget: str
    method: str

    @property
    def path(self) -> Path:
        """Below the folder of results."""
        return self.folder / f"{self.method}.json"

    @property
    def folder(self) -> Path:
        """Of this forget set."""
        return Path(self.scale, self.task, f"seed-{self.seed}", self.forget)


@dataclass(frozen=True)
class Bench:
    """Where a slice is measured.

    Attributes:
        models: trained models, shared by all methods.
        device: of training, unlearning and audit.
        data: folder of the data sets; None is `NABLA_TAU_DATA`.
    """

    models: Path
    device: torch.device
    data: Path | None = None


def key_of(cell: Cell, bench: Bench) -> str:
    """Digest of what is measured, apart from the code: the recipe, and which files of data.

    Example:
        >>> bench = Bench(Path("models"), torch.device("cpu"), data=Path("data"))
        >>> one, other = (Cell("quick", "location30", seed, "class", "scrub") for seed in (0, 1))
        >>> key_of(one, bench) == key_of(other, bench)
        True
    """
    task = TASKS[cell.task]
    files = files_of(task.data_set, bench.data) if task.data_set else ()
    return digest({"format": FORMAT, "recipe": asdict(task.recipes[cell.scale]), "files": files})


def measure_slice(cells: list[Cell], bench: Bench) -> Iterator[tuple[Path, Json]]:
    """Measure cells of one task, scale and seed; the original is trained once, the retrained once per forget set.

    Args:
        cells: of one task, scale and seed.
        bench: where.

    Yields:
        Path below the folder of results and content: the numbers of the rows, then each cell. A cell that fails
        holds its error.

    Example:
        >>> import tempfile
        >>> cell = Cell("quick", "noisy_digits", 0, "random-0.15", "original")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = dict(measure_slice([cell], Bench(Path(folder), torch.device("cpu"))))
        >>> [path.name for path in found], found[cell.path]["status"]
        (['rows.json', 'rows.json', 'original.json'], 'done')
        >>> found[cell.path]["audit"]["paper_attacks"]["losses"]["accuracy"] > 0.6  # it has memorised its rows
        True
    """
    try:
        setting = _Setting(cells[0], bench)
    except Exception as error:
        yield from _all_failed(cells, bench, error)
        return
    yield cells[0].folder.parent / "rows.json", setting.rows()
    for forget in dict.fromkeys(cell.forget for cell in cells):
        wanted = [cell for cell in cells if cell.forget == forget]
        try:
            request = _Request(setting, forget)
        except Exception as error:
            yield from _all_failed(wanted, bench, error)
            continue
        yield wanted[0].folder / "rows.json", {"forget": [rows.tolist() for rows in request.parts]}
        for cell in wanted:
            yield cell.path, _measured(cell, request, bench)


class _Setting:
    """What all cells of a slice share."""

    def __init__(self, cell: Cell, bench: Bench) -> None:
        self.bench, self.seed = bench, cell.seed
        self.task_name, self.task = cell.task, TASKS[cell.task]
        self.recipe: Recipe = self.task.recipes[cell.scale]
        task: Task = self.task
        self.pool: Pool = task.read(bench.data) if task.data_set else task.read()
        self.split: Split = split_rows(self.pool, self.recipe, cell.seed)
        self.inputs, self.targets = (column.to(bench.device) for column in self.pool.rows)

    def rows(self) -> Json:
        return {name: rows.tolist() for name, rows in vars(self.split).items()}

    def take(self, positions: Positions) -> Rows:
        where = torch.as_tensor(positions, device=self.bench.device)
        return self.inputs[where], self.targets[where]

    def model(self, rows: Positions, seed: int) -> Trained:
        decided_by = {
            "task": self.task_name,
            "recipe": asdict(self.recipe),
            "data": self.pool.checksum,
            "rows": rows_digest(rows),
            "seed": seed,
            "device": self.bench.device.type,
            "torch": torch.__version__,
            "code": training_code(),
        }
        found = Models(self.bench.models).get(
            decided_by,
            lambda: trained(self.task, self.recipe, self.take(rows), seed, self.bench.device),
            self.task.network(self.recipe.width),
        )
        return Trained(found.model.to(self.bench.device), found.seconds)

    @cached_property
    def original(self) -> Trained:
        return self.model(self.split.train, self.seed)


@dataclass
class _Request:
    """A forget set and the models that belong to it."""

    setting: _Setting
    forget: str
    parts: list[Positions] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = forget_requests(self.forget, self.setting.pool, self.setting.split.train, self.setting.seed)
        self.forgotten = np.sort(np.concatenate(self.parts))

    def retained(self, gone: Positions) -> Positions:
        return np.setdiff1d(self.setting.split.train, gone)

    @cached_property
    def retrained(self) -> dict[str, Trained]:
        seeds = {name: 1000 * number + self.setting.seed for number, name in enumerate(RETRAINED, 1)}
        rows = self.retained(self.forgotten)
        return {name: self.setting.model(rows, seed) for name, seed in seeds.items()}

    def unlearn(self, method: Callable[..., Any], tuned: str | None) -> tuple[nn.Module, list[Json]]:
        """One request after the other, each on what the last left."""
        setting, model, done = self.setting, self.setting.original.model, []
        for number, rows in enumerate(self.parts, 1):
            kept = self.retained(np.concatenate(self.parts[:number]))
            arguments: dict[str, Any] = {
                "forget": setting.take(rows),
                "retain": setting.take(kept),
                "validation": setting.take(setting.split.validation),
                "loss": setting.task.loss,
                "seed": setting.seed,
                "batch_size": setting.recipe.unlearning_batch_size,
                "device": setting.bench.device,
            }
            searched = {}
            if tuned is not None:
                search = tune(tuned, Request(model, **arguments))
                method = partial(UNLEARNING[tuned], **search.settings)
                searched = {"tuning": {"trials": len(search.trials), **_without(search.record(), "trials")}}
            result = unlearn(model, method=method, **arguments)
            model = result.model
            done.append({**_without(result.record(), "epochs"), **searched})
        return model, done

    def audited(self, model: nn.Module) -> Json:
        setting = self.setting
        report = audit(
            model,
            forget=setting.take(self.forgotten),
            retain=setting.take(self.retained(self.forgotten)),
            test=setting.take(setting.split.test),
            loss=setting.task.loss,
            seed=setting.seed,
            batch_size=setting.recipe.unlearning_batch_size,
            device=setting.bench.device,
        ).data
        row = _without(report["models"][0], "name", "histogram", "roc", "per_class")
        return {
            "verdict": report["verdict"],
            "warnings": report["warnings"],
            **row,
        }

    def divergence(self, model: nn.Module, besides: str) -> dict[str, float]:
        """Mean JS divergence on the forget set to the retrained models, in bits; none for a regression."""
        if self.setting.task.loss is regression:
            return {}
        ours = self.predictions(model)
        others = {name: one.model for name, one in self.retrained.items() if name != besides}
        return {name: float(js_divergence(ours, self.predictions(other)).mean()) for name, other in others.items()}

    def predictions(self, model: nn.Module) -> Any:
        inputs, _ = self.setting.take(self.forgotten)
        with torch.no_grad():
            logits = torch.cat([model.eval()(part) for part in torch.split(inputs, 1000)]).double()
        if self.setting.task.loss is classification:
            return logits.softmax(1).cpu().numpy()
        yes = logits.sigmoid().flatten()
        return torch.stack([yes, 1 - yes], 1).cpu().numpy()


def _measured(cell: Cell, request: _Request, bench: Bench) -> Json:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnlearningWarning)  # they are in the record
            model, took = _reference(cell, request) if cell.method in REFERENCES else _unlearned(cell, request, bench)
        started = time.perf_counter()
        audited, divergence = request.audited(model), request.divergence(model, cell.method)
        return _record(
            cell,
            bench,
            DONE,
            **took,
            retraining_seconds=float(np.mean([one.seconds for one in request.retrained.values()])),
            audit_seconds=time.perf_counter() - started,
            samples={
                "forget": len(request.forgotten),
                **{name: len(rows) for name, rows in vars(request.setting.split).items()},
            },
            audit=audited,
            js_to_retrained=divergence,
        )
    except _Refused as refusal:
        return _record(cell, bench, NOT_APPLICABLE, reason=list(refusal.args))
    except Exception as error:
        return _failed(cell, bench, error)


class _Refused(Exception):  # noqa: N818  (no error: the method said beforehand that it does not serve)
    """A method does not apply to a task."""


def _reference(cell: Cell, request: _Request) -> tuple[nn.Module, Json]:
    kept = request.setting.original if cell.method == ORIGINAL else request.retrained[cell.method]
    seconds = 0.0 if cell.method == ORIGINAL else kept.seconds
    return kept.model, {"seconds": seconds, "training_seconds": kept.seconds, "steps": None, "peak_bytes": None}


def _unlearned(cell: Cell, request: _Request, bench: Bench) -> tuple[nn.Module, Json]:
    tuned = TUNED.get(cell.method)
    known: dict[str, Callable[..., Any]] = {**UNLEARNING, **STUDY}
    method = known[tuned or cell.method]
    if refusal := task_problems(method, name_of(request.setting.task.loss)):
        raise _Refused(*refusal)
    request.setting.original  # noqa: B018  (trained before the clock starts)
    with peak_memory(bench.device) as peak:
        started = time.perf_counter()
        try:
            model, done = request.unlearn(method, tuned)
        except ValueError as error:
            if type(error) is ValueError:  # what `unlearn` raises where a method cannot work on these sets
                raise _Refused(*told(error)) from error
            raise
        seconds = time.perf_counter() - started
    steps = sum(part["settings"]["steps_done"] + part.get("tuning", {"steps": 0})["steps"] for part in done)
    return model, {"seconds": seconds, "steps": steps, "peak_bytes": peak[0], "unlearning": done}


def _all_failed(cells: list[Cell], bench: Bench, error: Exception) -> Iterator[tuple[Path, Json]]:
    for cell in cells:
        yield cell.path, _failed(cell, bench, error)


def _failed(cell: Cell, bench: Bench, error: Exception) -> Json:
    return _record(cell, bench, FAILED, reason=told(error) if isinstance(error, InvalidRequest) else [repr(error)])


def _record(cell: Cell, bench: Bench, status: str, **found: Any) -> Json:
    recipe = asdict(TASKS[cell.task].recipes[cell.scale])
    return {
        "format": FORMAT,
        "cell": asdict(cell),
        "status": status,
        "key": key_of(cell, bench),
        **provenance(),
        "device": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "recipe": recipe,
        **found,
    }


def _without(record: Json, *left_out: str) -> Json:
    return {name: value for name, value in record.items() if name not in left_out}


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Bytes in use at the peak above those at the start, in a list that is filled at the end.

    Example:
        >>> with peak_memory(torch.device("cpu")) as peak:
        ...     _ = torch.ones(20_000_000).sum()
        >>> peak[0] > 60_000_000
        True
    """
    peak: list[int] = [0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the process's peak so far is forgotten
    before = _resident("VmRSS")
    yield peak
    peak[0] = _resident("VmHWM") - before


def _resident(what: str) -> int:
    """Resident memory of this process in bytes: now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith(what)).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
