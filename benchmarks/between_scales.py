"""∇τ on CIFAR-10 between the scales of the benchmark, by the recipe of `full` in all but size.

    python benchmarks/between_scales.py --scale middle --models MODELS --output results/middle_scale.json
    python benchmarks/between_scales.py --scale narrow --models MODELS --output results/narrow_scale.json
    python benchmarks/between_scales.py --scale narrow --forget random-0.50 --methods nabla_tau --models MODELS

`middle` is 15,000 images and half of the width in batches of 128; `narrow` is all 50,000 images in the published
batches of 256, with a quarter of the width alone. One forget set, 15 % at random unless another is named, one seed. At
`quick` a network has learned its images by heart in 15 passes; here it is trained as the paper trains, 50 passes with
crops and flips, and knows little more of them than of others, so that what unlearning costs beside retraining, and what
it leaves, are nearer to those of `full`.
Trains three models, some seventy minutes of one core, and prints a row for each model: the components of the gap to
retrained, in points, the gap, seconds of the processor and their share of retraining's, steps, and what the audit says.
The data lie below `NABLA_TAU_DATA`.
"""

import argparse
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from nabla_tau.bench.cells import ORIGINAL, RETRAINED, UNLEARNING, Bench, Cell
from nabla_tau.bench.clock import clock
from nabla_tau.bench.gap import gap, values
from nabla_tau.bench.slices import ForgetSet, Setting
from nabla_tau.bench.storing import write_json
from nabla_tau.bench.tasks import TASKS
from nabla_tau.errors import UnlearningWarning
from nabla_tau.problem import Method
from side_by_side import measured
from step_report import machine

TASK, SEED = "cifar10", 0
SIZES: Mapping[str, Mapping[str, Any]] = {
    "middle": {"train": 15_000, "width": 32, "batch_size": 128, "unlearning_batch_size": 128},
    "narrow": {"width": 16},
}

METHODS: Mapping[str, Method] = {
    name: UNLEARNING[name] for name in ("nabla_tau", "nabla_tau_published", "amnesiac", "finetune", "scrub")
}


def setting(scale: str, forget: str, bench: Bench) -> Setting:
    recipes = TASKS[TASK].recipes
    recipes[scale] = replace(recipes["full"], **SIZES[scale])  # type: ignore[index]
    return Setting(Cell(scale, TASK, SEED, forget, ORIGINAL), bench)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--scale", choices=SIZES, required=True)
    arguments.add_argument("--forget", default="random-0.15", help="a forget set of the benchmark")
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments.add_argument("--models", type=Path, required=True, help="trained models, to be used again")
    arguments.add_argument("--output", type=Path)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnlearningWarning)
    bench = Bench(options.models, torch.device("cpu"), Path(os.environ["NABLA_TAU_DATA"]))
    report: dict[str, Any] = {"machine": machine(bench.device), "rows": []}
    request, seconds = ForgetSet(setting(options.scale, options.forget, bench), options.forget), clock(bench.device)
    references = [measured(request, request.retrained[name].model, name) for name in RETRAINED]
    retraining = fmean(request.retrained[name].seconds for name in RETRAINED)
    rows = report["rows"]

    def add(name: str, model: nn.Module, took: float | None = None, steps: int | None = None) -> None:
        record = measured(request, model, name)
        found = {key: round(value, 2) for key, value in values(record).items()}
        if not rows:
            print("| model | " + " | ".join([*found, "gap", "seconds", "% of retraining", "steps", "audit"]) + " |")
            print("| --- " * (len(found) + 6) + "|")
        share = None if took is None else round(100 * took / retraining, 1)
        row = {**found, "gap": round(gap(record, references), 2), "seconds": took and round(took, 1), "share": share}
        row.update(steps=steps, audit=record["audit"]["verdict"]["kind"])
        rows.append({"model": name, **row})
        cells = " | ".join("–" if value is None else str(value) for value in row.values())
        print(f"| {name} | {cells} |", flush=True)

    add(ORIGINAL, request.setting.original.model)
    for name in RETRAINED:
        add(name, request.retrained[name].model, request.retrained[name].seconds)
    for name in options.methods:
        started = seconds()
        model, done = request.unlearn(METHODS[name], None)
        add(name, model, seconds() - started, sum(one["settings"]["steps_done"] for one in done))
    if options.output is not None:
        write_json(options.output, report)


if __name__ == "__main__":
    main()
