"""What keeping checkpoints costs a run, at the default interval: at most 3 % of its time is the target.

    python benchmarks/checkpoint_cost.py --output results/checkpoint_cost.json

Two parts, added: the share of a run's time that goes into saving, measured within the run, so that what else the
machine does meets both sides alike; and what writing down each mean takes, over the time of a step.
"""

import argparse
import math
import tempfile
import timeit
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nabla_tau import methods, unlearn
from nabla_tau.bench.networks import resnet18
from nabla_tau.bench.storing import write_json
from nabla_tau.engine import start_engine
from nabla_tau.journal import Journal
from nabla_tau.storage import Unlearned
from nabla_tau.timetable import Timetable
from step_report import load, machine

TARGET = 0.03
CASES: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "MLP, 10⁴ parameters": (nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), (64,), 64),
    "MLP, 10⁶ parameters": (nn.Sequential(nn.Linear(64, 12800), nn.ReLU(), nn.Linear(12800, 10)), (64,), 64),
    "ResNet-18, 10⁷ parameters": (resnet18(64, 10)[1:], (3, 32, 32), 32),
}
"""Name -> model, shape of a sample, samples per batch."""


def run(name: str, steps: int, folder: Path | None = None) -> Unlearned:
    """So many steps of the published recipe, three per retain batch, on random data."""
    model, shape, batch = CASES[name]
    generator = torch.Generator().manual_seed(0)

    def rows(batches: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = batches * batch
        return torch.randn(size, *shape, generator=generator), torch.randint(10, (size,), generator=generator)

    sets: dict[str, Any] = {"forget": rows(1), "retain": rows(math.ceil(steps / 3)), "validation": rows(1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return unlearn(
            model, **sets, method=methods.nabla_tau_published, batch_size=batch, device="cpu", checkpoint=folder
        )


def seconds_of(unlearned: Unlearned) -> float:
    return sum(epoch.seconds for epoch in unlearned.epochs)


def saving(name: str, seconds: float) -> dict[str, Any]:
    """The share of a run of about so many seconds that goes into saving."""
    few = run(name, 30)
    steps = max(30, round(seconds / seconds_of(few) * few.settings["steps_done"]))
    with tempfile.TemporaryDirectory() as folder:
        unlearned = run(name, steps, Path(folder))
    kept = unlearned.settings["checkpoints"]
    return {
        "seconds": seconds_of(unlearned),
        "steps": unlearned.settings["steps_done"],
        "saved": kept["saved"],
        "seconds_per_save": kept["seconds"] / max(kept["saved"], 1),
        "seconds_between": kept["every_seconds"],
        "share_of_saving": kept["seconds"] / seconds_of(unlearned),
    }


def writing_down() -> float:
    """Seconds that a step of two means spends on the journal and on asking whether it is time to save."""
    timetable, journal = Timetable(start_engine("cpu"), 1e9, 0), Journal(kept=True)
    value = torch.zeros((), dtype=torch.float64)

    def step() -> None:
        for _ in range(2):
            if not journal.repeating:
                journal.tell(value, 64)
        journal.step()
        timetable.due()

    return timeit.timeit(step, number=100_000) / 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240, help="of each run (default: 240)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(torch.device("cpu")), "target": TARGET, "cases": {}}
    for name, (model, _, _) in CASES.items():
        one = saving(name, options.seconds)
        journal = writing_down() * one["steps"] / one["seconds"]
        overhead = one["share_of_saving"] + journal
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found["cases"][name] = {
            "parameters": parameters,
            **one,
            "share_of_the_journal": journal,
            "overhead": overhead,
            "met": overhead <= TARGET,
        }
        print(
            f"{name}: {100 * overhead:.2f} % ({one['saved']} saves of {one['seconds_per_save']:.2f} s in "
            f"{one['seconds']:.0f} s; the journal {100 * journal:.2f} %)",
            flush=True,
        )
    found["machine"]["load_at_end"] = load()
    if options.output is not None:
        write_json(options.output, found)


if __name__ == "__main__":
    main()
