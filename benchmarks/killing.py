"""Runs in processes of their own that are killed from outside, at moments that chance names, and started again.

A server that has imported everything forks them, so that a start costs no import.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from nabla_tau import methods, unlearn

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nabla_tau.unlearning", "torch._dynamo"])  # the latter by any optimiser

MOMENTS = ("taken up", "at work", "at work", "writing", "writing")
LIMIT = 120  # seconds after which something hangs


@dataclass(frozen=True)
class Run:
    """What is unlearned, and on how many processes; its retain set has so many rows, read four at a time.

    Attributes:
        in_place: whether the model passed in is changed itself.
        streamed: whether the retain set is a stream.
    """

    method: str = "neggrad_plus"
    rows: int = 48
    processes: int = 1
    in_place: bool = False
    streamed: bool = False


class Stream(IterableDataset[tuple[Tensor, ...]]):
    """Rows in an order of their own in every pass."""

    def __init__(self, columns: tuple[Tensor, ...]) -> None:
        self.columns = columns

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (tuple(column[row] for column in self.columns) for row in torch.randperm(len(self.columns[0])).tolist())


@dataclass(frozen=True)
class Kill:
    """One kill: of which process, when it was meant to come, and whether a checkpoint was half written then."""

    rank: int
    moment: str
    half_written: bool


def rows(size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator)


def network(training: tuple[Tensor, Tensor]) -> nn.Module:
    """A network that knows its training set, with batch norm and dropout, which each process has for itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.Dropout(0.2), nn.ReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(training[0]), training[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def work(run: Run, folder: Path | None, result: Path, rank: int, port: int) -> None:
    """One process of a run; where it has a folder, it keeps its state there after every step."""
    torch.set_num_threads(1)
    if run.processes > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": run.processes}
        os.environ.update({name: str(value) for name, value in {**address, "RANK": rank, "LOCAL_RANK": rank}.items()})
    warnings.simplefilter("ignore")
    forget, retain = rows(15, 1), rows(run.rows, 2)
    kept = Stream(retain) if run.streamed else retain
    sets: dict[str, Any] = {"forget": forget, "retain": kept, "validation": rows(40, 3), "batch_size": 4}
    model = network((torch.cat([forget[0], retain[0]]), torch.cat([forget[1], retain[1]])))
    every = None if folder is None else 0
    how: dict[str, Any] = {"method": methods.METHODS[run.method], "in_place": run.in_place, "device": "cpu"}
    unlearned = unlearn(model, **sets, **how, checkpoint=folder, checkpoint_every=every)
    if rank == 0:
        part = result.with_suffix(".part")
        save_file(unlearned.model.state_dict(), part)
        part.replace(result)


def start(run: Run, folder: Path | None, result: Path) -> list[ForkServerProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        CONTEXT.Process(target=work, args=(run, folder, result, rank, port), daemon=True)
        for rank in range(run.processes)
    ]
    for process in running:
        process.start()
    return running


def end(running: list[ForkServerProcess], rank: int = 0) -> None:
    """Kill one process, then the others, which may wait for it, as a launcher does."""
    for process in (running[rank], *running):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGKILL)
    for process in running:
        process.join()


def result_of(run: Run, folder: Path | None, result: Path) -> dict[str, Tensor]:
    """The weights of a run that nothing disturbs from here on."""
    running = start(run, folder, result)
    for process in running:
        process.join(LIMIT)
    if any(process.exitcode != 0 for process in running):
        end(running)
        raise RuntimeError(f"Expected a run that ends, got exit codes {[process.exitcode for process in running]}.")
    return load_file(result)


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def half_written(names: set[str]) -> bool:
    return any(name.startswith((".new-", ".old-")) for name in names)


def kill(folder: Path, running: list[ForkServerProcess], chance: random.Random) -> Kill | None:
    """Kill one of the processes: while the run is taken up, while it works, or within a write. None if it had ended."""
    before, moment, rank = names(folder), chance.choice(MOMENTS), chance.randrange(len(running))
    deadline = time.monotonic() + LIMIT

    def wait_for(found: Callable[[set[str]], bool]) -> None:
        while not found(names(folder) - before) and running[rank].is_alive() and time.monotonic() < deadline:
            time.sleep(0.0005)

    if moment != "taken up":
        wait_for(lambda new: any(name.startswith("step-") for name in new))
    time.sleep(chance.uniform(0, 0.4))
    if moment == "writing":
        wait_for(half_written)
        time.sleep(chance.uniform(0, 0.004))
    alive = running[rank].is_alive()
    end(running, rank)
    return Kill(rank, moment, half_written(names(folder) - before)) if alive else None


def killed(run: Run, folder: Path, result: Path, chance: random.Random, times: int) -> list[Kill]:
    """Start a run and kill it, so many times or until it comes to its end before."""
    kills: list[Kill] = []
    while len(kills) < times and not result.exists():
        if (one := kill(folder, start(run, folder, result), chance)) is not None:
            kills.append(one)
    return kills
