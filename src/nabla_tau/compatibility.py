"""Whether a run can be kept in a folder, and whether the one that is kept there is its own beginning."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from nabla_tau.checkpoint import KEPT, Checkpoint, newest
from nabla_tau.errors import InvalidRequest
from nabla_tau.facts import Range, continuing_problems, unwrapped
from nabla_tau.memory import describe
from nabla_tau.own_code import code_of
from nabla_tau.problem import Method, Problem
from nabla_tau.storage import require_writable

MICRO_BATCH_SIZE = "micro-batch size"
FINGERPRINTS = ("model", "forget set", "retain set", "validation set")
"""What of an identity says nothing to a reader."""

CODE = "code"

FOLLOWS = ("loss of the original", "batches of ")
"""What differs because something else does: told only where nothing else is."""


def identity(problem: Problem, method: Method, losses: Mapping[str, float]) -> dict[str, Any]:
    """What a run must have in common with the one that a checkpoint was saved by, to be its continuation.

    Args:
        problem: the request.
        method: how to unlearn.
        losses: mean losses of the original, by what they are of: they tell a loss or a transform from another.

    Example:
        >>> from nabla_tau import methods
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> sets = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> request = Request(torch.nn.Linear(6, 2), *sets, device="cpu")
        >>> with request.prepared() as problem:
        ...     found = identity(problem, methods.nabla_tau, {"forget": 0.5})
        >>> found["method"], found["samples of retain"], found["seed"]
        ('nabla_tau', 2, 0)
    """
    settings = problem.settings
    method, given = unwrapped(method)
    on_gpu = problem.engine.device.type == "cuda"
    return {
        "model": settings["original_fingerprint"],
        **{f"{name} set": content for name, content in problem.fingerprints.items()},
        **{f"{name} loss of the original": value for name, value in losses.items()},
        **{f"{name} of the method": str(value) for name, value in given.items()},
        **{
            f"{what.replace('_', ' ')} of {name}": value
            for what in ("samples", "batch_size", "batches")
            for name, value in settings[what].items()
        },
        **{f"version of {name}": value for name, value in settings["versions"].items()},
        **{name: settings[name] for name in ("method", "loss", "seed", "processes", "threads")},
        MICRO_BATCH_SIZE: settings["micro_batch_size"],
        "mixed precision": settings["mixed_precision"],
        CODE: code_of(method),
        "device": problem.engine.device.type,
        "processor": torch.cuda.get_device_name() if on_gpu else torch.backends.cpu.get_cpu_capability(),
    }


def find(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """What a folder holds, and what of it is damaged.

    Raises:
        InvalidRequest: if all that it holds is damaged.

    Example:
        >>> find(Path("runs/that-never-was"))
        (None, [])
    """
    try:
        return newest(folder)
    except ValueError as error:
        advice = "restore a file, or remove the folder to begin anew"
        raise InvalidRequest(
            [f"checkpoint: expected a whole one in {folder}, got damaged ones only ({error}): {advice}."]
        ) from error


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> list[str]:
    """In what a checkpoint is another request's than the one at hand, a sentence each; other code, if nothing else.

    Example:
        >>> differences({"threads": 1, "seed": 0}, {"threads": 2, "seed": 0}, Path("runs/17"))
        ['checkpoint: expected threads 1, as of the run kept in runs/17, got 2: make the same call, or name ...']
    """
    names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    causes = [name for name in names if not any(part in name for part in FOLLOWS)]
    if set(causes) >= {"forget set"} and {"retain set", "validation set"} & set(causes):
        causes.remove("forget set")  # its key is the content of the others
    if any(name == "method" or name.startswith("version of ") for name in causes):
        causes = [name for name in causes if name != CODE]  # it differs because of these
    told = []
    for name in causes or names:
        was, got = str(found.get(name)), str(wanted.get(name))
        if name in FINGERPRINTS:
            was, got = "", "another"
        if name == CODE:
            told.append(
                f"checkpoint: expected the code of nabla_tau that began the run kept in {folder}, got another under "
                "the same version: go back to it, or name another folder to begin anew."
            )
            continue
        told.append(
            f"checkpoint: expected {f'{name} {was}'.strip()}, as of the run kept in {folder}, got {got}: make the same "
            "call, or name another folder to begin anew."
        )
    return told


def checkpoint_problems(method: Any, folder: Any, every: Any) -> list[str]:
    """What is wrong with the arguments about checkpoints, if anything.

    Example:
        >>> from nabla_tau import methods
        >>> checkpoint_problems(methods.nabla_tau, None, 60)
        ['checkpoint_every: expected a folder in checkpoint= as well, got none.']
        >>> checkpoint_problems(methods.nabla_tau, "runs/17", -1)
        ['checkpoint_every: expected a finite number of seconds, 0 or more, got -1.']
    """
    if folder is None:
        return [] if every is None else ["checkpoint_every: expected a folder in checkpoint= as well, got none."]
    problems = continuing_problems(method) if callable(method) else []
    if every is not None and every not in Range(0):
        problems.append(f"checkpoint_every: expected a finite number of seconds, 0 or more, got {every!r}.")
    if not isinstance(folder, str | os.PathLike):
        return [*problems, f"checkpoint: expected a folder, got {folder!r}."]
    if Path(folder) == Path():  # an empty name, of a shell variable that is not set, is this one too
        return [*problems, "checkpoint: expected a folder of its own, got the current one: name another."]
    try:
        require_writable(Path(folder))
    except OSError as error:
        problems.append(f"checkpoint: {str(error)[0].lower()}{str(error)[1:]}")
    return problems


def require_room(folder: Path, size: int) -> None:
    """Make sure that there is room for those that are kept and the one being written, as far as it can be foreseen.

    Args:
        folder: of all checkpoints of a run.
        size: bytes of one.

    Raises:
        InvalidRequest: if there is not.

    Example:
        >>> require_room(Path("runs/that-never-was"), 2**60)
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. checkpoint: expected room for three checkpoints of 1048576.0 TiB in runs/that-never-was, got ...
    """
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    kept = (file for place in ("step-*", "finished") for file in folder.glob(f"{place}/*"))
    held = sum(file.stat().st_size for file in kept)
    free = shutil.disk_usage(place).free + held
    if free < (KEPT + 1) * size:
        raise InvalidRequest(
            [
                f"checkpoint: expected room for three checkpoints of {describe(size)} in {folder}, got "
                f"{describe(free)}: free space, or choose another folder."
            ]
        )


def kept_batch_size(folder: Path, sets: Mapping[str, Any]) -> int | None:
    """The batch size of the run that a folder keeps: free memory may be another today, the result may not.

    Example:
        >>> kept_batch_size(Path("runs/that-never-was"), {}) is None
        True
    """
    request = _kept_request(folder)
    sizes = (request.get(f"batch size of {name}") for name, data in sets.items() if not isinstance(data, DataLoader))
    return next(sizes, None)


def kept_micro_batch_size(folder: Path, share: int) -> int | None:
    """Likewise the micro-batch size of the run that a folder keeps, for a share of so many samples.

    Example:
        >>> kept_micro_batch_size(Path("runs/that-never-was"), 256) is None
        True
    """
    request = _kept_request(folder)
    return (request[MICRO_BATCH_SIZE] or share) if MICRO_BATCH_SIZE in request else None


def _kept_request(folder: Path) -> dict[str, Any]:
    try:
        found, _ = find(folder)
    except InvalidRequest:  # which is told when the run is to be taken up
        return {}
    request = None if found is None else found.facts.get("request")
    return request if isinstance(request, dict) else {}
