"""Runs that are started in processes of their own, killed from outside, and started again.

A server that has imported everything forks them, so that a start costs no import.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nabla_tau import methods, unlearn
from tests.conftest import clusters

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.killing"])


def request():
    """Some hundred steps, with batch norm and dropout that each process has for itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.Dropout(0.2), nn.ReLU(), nn.Linear(64, 3))
    sets = {"forget": clusters(15, 1), "retain": clusters(100, 2), "validation": clusters(40, 3)}
    return {"model": model, **sets, "method": methods.neggrad_plus, "batch_size": 4, "device": "cpu"}


def work(folder, result, rank, processes, port):
    """One process of a run that keeps its state after every step."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    if processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(processes))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    warnings.simplefilter("ignore")
    unlearned = unlearn(**request(), checkpoint=folder, checkpoint_every=0)
    if rank == 0:
        save_file(unlearned.model.state_dict(), f"{result}.part")
        os.replace(f"{result}.part", result)


@dataclass
class Kills:
    """What became of a run that was killed over and over."""

    done: int = 0
    in_writing: int = 0
    ranks: list[int] = field(default_factory=list)


def start(folder, result, processes=1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        CONTEXT.Process(target=work, args=(folder, result, rank, processes, port), daemon=True)
        for rank in range(processes)
    ]
    for process in running:
        process.start()
    return running


def end(running, rank=0):
    """Kill one process; the others, which may wait for it, as a launcher does then."""
    for process in (running[rank], *running):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for process in running:
        process.join()


def result_of(folder, result, processes=1):
    """The weights of a run that nothing disturbs from here on."""
    running = start(folder, result, processes)
    for process in running:
        process.join(120)
        assert process.exitcode == 0
    return load_file(result)


def writing(folder):
    """Whether a checkpoint is being written, or an old one removed."""
    return folder.is_dir() and any(name.startswith((".new-", ".old-")) for name in os.listdir(folder))


def kill_when(folder, running, rank, chance):
    """Kill at a moment that chance names: after some time, or within a write.

    Returns:
        Whether it was alive, and whether a checkpoint was half written then.
    """
    while not any(path.name.startswith("step-") for path in folder.glob("*")) and running[0].is_alive():
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.25))
    if chance.random() < 0.5:
        deadline = time.monotonic() + 5
        while not writing(folder) and running[0].is_alive() and time.monotonic() < deadline:
            pass
        time.sleep(chance.uniform(0, 0.004))
    alive = running[rank].is_alive()
    end(running, rank)
    return alive, alive and writing(folder)


def killed(folder, result, chance, times, processes=1):
    """Start a run and kill it, so many times or until it comes to its end before."""
    folder, kills = Path(folder), Kills()
    while kills.done < times and not Path(result).exists():
        running = start(folder, result, processes)
        rank = chance.randrange(processes)
        alive, in_writing = kill_when(folder, running, rank, chance)
        kills.done += alive
        kills.in_writing += in_writing
        kills.ranks.append(rank)
    return kills
