"""Cells, measured into what their JSON files hold."""

import os
import platform
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nabla_tau.bench.alpha import STUDY
from nabla_tau.bench.cells import (
    DONE,
    FAILED,
    FORMAT,
    NOT_APPLICABLE,
    ORIGINAL,
    REFERENCES,
    TUNED,
    UNLEARNING,
    Bench,
    Cell,
    key_of,
)
from nabla_tau.bench.clock import clock
from nabla_tau.bench.peak import peak_memory
from nabla_tau.bench.processors import processor_kind
from nabla_tau.bench.provenance import method_code, provenance
from nabla_tau.bench.slices import ForgetSet, Setting
from nabla_tau.bench.storing import Json
from nabla_tau.bench.tasks import TASKS
from nabla_tau.errors import InvalidRequest, NotApplicable, UnlearningWarning, told
from nabla_tau.facts import task_problems
from nabla_tau.losses import name_of


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
        setting = Setting(cells[0], bench)
    except Exception as error:
        yield from _all_failed(cells, bench, error)
        return
    yield cells[0].folder.parent / "rows.json", setting.rows()
    for forget in dict.fromkeys(cell.forget for cell in cells):
        wanted = [cell for cell in cells if cell.forget == forget]
        try:
            request = ForgetSet(setting, forget)
        except Exception as error:
            yield from _all_failed(wanted, bench, error)
            continue
        yield wanted[0].folder / "rows.json", {"forget": [rows.tolist() for rows in request.parts]}
        for cell in wanted:
            yield cell.path, _measured(cell, request, bench)


def _measured(cell: Cell, request: ForgetSet, bench: Bench) -> Json:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnlearningWarning)  # they are in the record
            model, took = _reference(cell, request) if cell.method in REFERENCES else _unlearned(cell, request, bench)
        request.retrained  # noqa: B018  (trained before the clock starts)
        seconds = clock(bench.device)
        started = seconds()
        audited, divergence = request.audited(model), request.divergence(model, cell.method)
        return _record(
            cell,
            bench,
            DONE,
            **took,
            retraining_seconds=float(np.mean([one.seconds for one in request.retrained.values()])),
            audit_seconds=seconds() - started,
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


def _reference(cell: Cell, request: ForgetSet) -> tuple[nn.Module, Json]:
    kept = request.setting.original if cell.method == ORIGINAL else request.retrained[cell.method]
    seconds = 0.0 if cell.method == ORIGINAL else kept.seconds
    return kept.model, {"seconds": seconds, "training_seconds": kept.seconds, "steps": None, "peak_bytes": None}


def _unlearned(cell: Cell, request: ForgetSet, bench: Bench) -> tuple[nn.Module, Json]:
    method, tuned = _method(cell), TUNED.get(cell.method)
    if refusal := task_problems(method, name_of(request.setting.task.loss)):
        raise _Refused(*refusal)
    request.setting.original  # noqa: B018  (trained before the clock starts)
    seconds = clock(bench.device)
    with peak_memory(bench.device) as peak:
        started = seconds()
        try:
            model, done = request.unlearn(method, tuned)
        except NotApplicable as error:
            raise _Refused(*told(error)) from error
        took = seconds() - started
    steps = sum(part["settings"]["steps_done"] + part.get("tuning", {"steps": 0})["steps"] for part in done)
    return model, {"seconds": took, "steps": steps, "peak_bytes": peak[0], "unlearning": done}


def _method(cell: Cell) -> Callable[..., Any]:
    known: dict[str, Callable[..., Any]] = {**UNLEARNING, **STUDY}
    return known[TUNED.get(cell.method, cell.method)]


def modules_of(cell: Cell) -> tuple[str, ...]:
    """Where the method of a cell is defined; a search of settings begins with the default, which sets its floor.

    Raises:
        LookupError: if there is no such method.

    Example:
        >>> modules_of(Cell("quick", "cifar10", 0, "class", "scrub+tuned"))
        ('nabla_tau.methods.scrub', 'nabla_tau.methods.nabla_tau')
    """
    method = _method(cell)
    own = str(getattr(method, "func", method).__module__)  # a method with fixed settings is a partial
    return (own, UNLEARNING["nabla_tau"].__module__) if cell.method in TUNED else (own,)


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
        "method_code": None if cell.method in REFERENCES else method_code(*modules_of(cell)),
        "device": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU",
        "processor": platform.processor() or platform.machine(),
        "processor_kind": processor_kind(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "recipe": recipe,
        **found,
    }
