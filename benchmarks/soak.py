"""Runs that are killed over and over, on one process and on two: do they end at the bits of an undisturbed one?

    python benchmarks/soak.py --output results/soak.json

Each run keeps its state after every step and is killed (SIGKILL) 50 times: while it is taken up, while it works, and
while a checkpoint is being written. Of two processes, chance names the one that is killed. Then it is left alone, and
its weights are compared with those of a run without checkpoints.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from killing import Run, killed, names, result_of
from nabla_tau.bench.storing import write_json
from nabla_tau.checkpoint import newest
from step_report import machine

METHODS = {"nabla_tau": 700, "neggrad_plus": 400}
"""Method -> rows of the retain set, so many that 50 kills do not last until its end."""


def soak(run: Run, kills: int, seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder, result = Path(place) / "kept", Path(place) / "result.safetensors"
        expected = result_of(run, None, Path(place) / "expected.safetensors")
        done = killed(run, folder, result, random.Random(seed), kills)
        saved, damaged = newest(folder)
        found = result_of(run, folder, result)
        left = sorted(names(folder))
    same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    return {
        "method": run.method,
        "processes": run.processes,
        "kills": len(done),
        "within_a_write": sum(one.half_written for one in done),
        "by_moment": dict(Counter(one.moment for one in done)),
        "by_rank": dict(Counter(str(one.rank) for one in done)),
        "continued": len(saved.facts["kept"]["continued_after_steps"]) if saved is not None else 0,
        "steps_when_left_alone": saved.step if saved is not None else 0,
        "damaged_checkpoints": damaged,
        "left_in_the_folder": left,
        "same_bits": same,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each run (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and ranks (default: 0)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(torch.device("cpu")), "runs": []}
    for method, rows in METHODS.items():
        for processes in (1, 2):
            one = soak(Run(method, rows, processes), options.kills, options.seed)
            found["runs"].append(one)
            print(json.dumps(one), flush=True)
    if options.output is not None:
        write_json(options.output, found)


if __name__ == "__main__":
    main()
