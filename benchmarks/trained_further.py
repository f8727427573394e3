"""What comes back when a model is trained on after unlearning: the default and others, beside retrained models.

    NABLA_TAU_DATA=DIR python benchmarks/trained_further.py --models MODELS --output results/trained_further.json

A model in production is trained again, on what is left. If unlearning has only covered what was memorised, that brings
it back. 15 % of three tasks of the benchmark at `quick` are forgotten; then each model is trained on the retain set, in
the batches of its own training, by AdamW at a tenth of the first rate. What a retrained model becomes by that is the
measure. Prints a table in Markdown: the primary AUC and the gap to retrained models, in points, at once and after one
and ten passes; means over seeds with 95 % intervals.
"""

import argparse
import copy
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nabla_tau.bench.cells import ORIGINAL, RETRAINED, UNLEARNING, Bench, Cell
from nabla_tau.bench.comparing import mean_of
from nabla_tau.bench.gap import gap, values
from nabla_tau.bench.markdown import table
from nabla_tau.bench.slices import ForgetSet, Setting
from nabla_tau.bench.storing import write_json
from nabla_tau.errors import UnlearningWarning
from nabla_tau.randomness import seeded
from side_by_side import measured
from step_report import machine

TASKS = ("cifar10", "location30", "spoken_digits")
METHODS = ("nabla_tau", "nabla_tau_published", "neggrad_plus", "l1_sparse", "scrub_small")
SEEDS = range(5, 10)
"""Those of the benchmark's table, so that models trained for it are used again."""

PASSES = (0, 1, 10)
RATE_FACTOR = 0.1
COLUMNS = ("primary AUC", "gap")


def trained_further(request: ForgetSet, model: nn.Module, passes: int) -> nn.Module:
    setting, recipe = request.setting, request.setting.recipe
    inputs, targets = setting.take(request.retained(request.forgotten))
    model = copy.deepcopy(model).train()
    rate = RATE_FACTOR * recipe.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=recipe.weight_decay)
    with seeded(setting.seed):
        for _ in range(passes):
            order = torch.randperm(len(targets))
            for rows in torch.split(order, recipe.batch_size)[:-1]:  # the last may be of a few rows
                optimizer.zero_grad()
                setting.task.loss(model, (inputs[rows], targets[rows])).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return model.eval()


def one_seed(task: str, seed: int, bench: Bench) -> list[dict[str, Any]]:
    request = ForgetSet(Setting(Cell("quick", task, seed, "random-0.15", ORIGINAL), bench), "random-0.15")
    retrained = [measured(request, request.retrained[name].model, name) for name in RETRAINED]
    models = {ORIGINAL: request.setting.original.model, RETRAINED[0]: request.retrained[RETRAINED[0]].model}
    models.update((name, request.unlearn(UNLEARNING[name], None)[0]) for name in METHODS)
    runs = []
    for name, model in models.items():
        for passes in PASSES:
            record = measured(request, trained_further(request, model, passes), name)
            found = {**values(record), "gap": gap(record, retrained), "audit": record["audit"]["verdict"]["kind"]}
            runs.append({"task": task, "seed": seed, "model": name, "passes": passes, **found})
    return runs


def rows_of(runs: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each task and model: means over seeds."""
    rows = []
    for task, model in dict.fromkeys((run["task"], run["model"]) for run in runs):
        row = {"task": task, "model": model}
        for column in COLUMNS:
            for passes in PASSES:
                alike = (run for run in runs if (run["task"], run["model"], run["passes"]) == (task, model, passes))
                mean = mean_of([run[column] for run in alike], within=(0.0, 100.0))
                row[f"{column}: {f'after {passes}' if passes else 'at once'}"] = str(mean)
        rows.append(row)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", type=Path, required=True, help="trained models, to be used again")
    arguments.add_argument("--output", type=Path)
    arguments.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    arguments.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnlearningWarning)
    bench = Bench(options.models, torch.device("cpu"), Path(os.environ["NABLA_TAU_DATA"]))
    runs = [run for task in options.tasks for seed in options.seeds for run in one_seed(task, seed, bench)]
    rows = rows_of(runs)
    print("\n".join(table(list(rows[0]), (list(row.values()) for row in rows))))
    if options.output is not None:
        write_json(options.output, {"machine": machine(bench.device), "rows": rows, "runs": runs})


if __name__ == "__main__":
    main()
