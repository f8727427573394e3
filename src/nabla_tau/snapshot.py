"""The state of a run between two steps: what is written of it into a checkpoint, and put back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nabla_tau.checkpoint import Checkpoint
from nabla_tau.journal import Journal, States
from nabla_tau.problem import Problem
from nabla_tau.sets import generators_of
from nabla_tau.state import (
    copy_into,
    load_optimizer_state,
    load_process_state,
    optimizer_state,
    process_state,
    trainable,
    writer,
)
from nabla_tau.stream_log import StreamLog

MODEL, OPTIMIZER, JOURNAL = "model.safetensors", "optimizer.safetensors", "journal.safetensors"

Writers = dict[str, Callable[[Path], None]]
"""Name of a file -> what writes it."""


def taken(problem: Problem, optimizer: torch.optim.Optimizer) -> tuple[Writers, dict[str, Any]]:
    """What is to be kept after a step: files, and what is no tensor. All processes take part.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(torch.nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     files, facts = taken(problem, problem.adamw(1e-3, 0.0))
        >>> sorted(files), sorted(facts)
        (['journal.safetensors', 'model.safetensors', 'optimizer.safetensors', 'process-0.safetensors'],
         ['optimizer', 'scaler', 'streams'])
    """
    journal = problem.journal
    values, sizes = journal.rows()
    starts = {
        f"pass {number} {place}": state
        for number, states in journal.starts.items()
        for place, state in enumerate(states)
    }
    own = process_state(problem.model, _generators(problem))
    states = problem.engine.gather(safetensors.torch.save({**own, **starts}))
    tensors, plain = optimizer_state(optimizer)
    files = {
        MODEL: writer(trainable(problem.model)),
        OPTIMIZER: writer(tensors),
        JOURNAL: writer({"values": values, "sizes": sizes}),
        **{_of_process(rank): _bytes_writer(state) for rank, state in enumerate(states)},
    }
    facts = {
        "optimizer": plain,
        "scaler": {} if problem.scaler is None else problem.scaler.state_dict(),
        "streams": {
            "read": {str(number): digest.hex() for number, digest in journal.streams.read().items()},
            "lengths": {str(number): length for number, length in journal.streams.lengths.items()},
        },
    }
    return files, facts


def journal_of(saved: Checkpoint | None, problem: Problem) -> Journal:
    """What is to be told again of a run that was cut off; a new one of none.

    Example:
        >>> journal_of(None, None).repeating
        False
    """
    if saved is None:
        return Journal(kept=True)
    told, own = saved.tensors(JOURNAL), saved.tensors(_of_process(problem.engine.share[0]))
    starts: dict[int, States] = {}
    for name in sorted(name for name in own if name.startswith("pass ")):
        starts.setdefault(int(name.split()[1]), []).append(own[name])
    streams = saved.facts["streams"]
    log = StreamLog(
        {int(number): bytes.fromhex(digest) for number, digest in streams["read"].items()},
        {int(number): (batches, rows) for number, (batches, rows) in streams["lengths"].items()},
        kept=True,
    )
    return Journal(told["values"].tolist(), told["sizes"].tolist(), starts, log, kept=True)


def put_back(saved: Checkpoint, problem: Problem, optimizer: torch.optim.Optimizer) -> None:
    """Have everything where it was when a checkpoint was saved.

    Raises:
        ValueError: if it is of another model.

    Example:
        >>> import tempfile
        >>> from nabla_tau.checkpoint import newest, write
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(torch.nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with tempfile.TemporaryDirectory() as folder, request.prepared() as problem:
        ...     optimizer = problem.adamw(1e-3, 0.0)
        ...     _ = write(Path(folder), "step-0000000007", *taken(problem, optimizer))
        ...     before = problem.model.bias.tolist()
        ...     _ = problem.model.bias.data.zero_()
        ...     put_back(newest(Path(folder))[0], problem, optimizer)
        ...     problem.model.bias.tolist() == before
        True
    """
    copy_into(trainable(problem.model), saved.tensors(MODEL))
    load_optimizer_state(optimizer, saved.tensors(OPTIMIZER), saved.facts["optimizer"])
    optimizer.zero_grad(set_to_none=True)
    if problem.scaler is not None:
        problem.scaler.load_state_dict(saved.facts["scaler"])
    own = saved.tensors(_of_process(problem.engine.share[0]))
    load_process_state(problem.model, _generators(problem), own)


def _generators(problem: Problem) -> list[torch.Generator]:
    return [generator for data in problem.sets.values() for generator in generators_of(data)]


def _of_process(rank: int) -> str:
    return f"process-{rank}.safetensors"


def _bytes_writer(content: bytes) -> Callable[[Path], None]:
    def fill(path: Path) -> None:
        path.write_bytes(content)

    return fill
