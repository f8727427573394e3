"""A request a month for a year: twelve small ones, each on what the last left, beside a model trained on the rest.

    NABLA_TAU_DATA=DIR python benchmarks/many_requests.py --models MODELS --output results/many_requests.json

50 of 4,000 images of CIFAR-10 at `quick` are forgotten twelve times, by the default and by the default with batch norm
that always follows the retain set. Prints a table in Markdown: accuracy in percent on what stays, on unseen images, on
the request just done and on all rows that were forgotten so far, after some of the requests; means over seeds with 95 %
intervals. *retrained* never saw any of the 600.
"""

import argparse
import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ablations import without
from nabla_tau import unlearn
from nabla_tau.bench.cells import ORIGINAL, Bench, Cell
from nabla_tau.bench.comparing import mean_of
from nabla_tau.bench.data import Positions
from nabla_tau.bench.markdown import table
from nabla_tau.bench.slices import Setting
from nabla_tau.bench.storing import write_json
from nabla_tau.errors import UnlearningWarning
from nabla_tau.problem import Method
from step_report import machine

REQUESTS, ROWS = 12, 50
SHOWN = (1, 4, 8, 12)
METHODS = {"nabla_tau": without(), "batch norm always follows": without(LARGEST_SHIFT=np.inf)}
COLUMNS = ("retain", "test", "this request", "all requests")


def accuracy(setting: Setting, model: nn.Module, rows: Positions) -> float:
    inputs, targets = setting.take(rows)
    with torch.no_grad():
        return 100 * float((model.eval()(inputs).argmax(1) == targets).float().mean())


def a_year(setting: Setting, parts: list[Positions], method: Method) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """The model after each request, and what the run says of itself."""
    request = partial(unlearn, loss=setting.task.loss, seed=setting.seed, method=method, device="cpu")
    request = partial(request, batch_size=setting.recipe.unlearning_batch_size)
    model, validation = setting.original.model, setting.take(setting.split.validation)
    for number, rows in enumerate(parts, 1):
        stays = setting.take(np.setdiff1d(setting.split.train, np.concatenate(parts[:number])))
        unlearned = request(model, forget=setting.take(rows), retain=stays, validation=validation)
        model = unlearned.model
        named = "learning_rate", "shrinking", "following_batch_norms", "steps_done", "damaged"
        yield model, {name: unlearned.settings[name] for name in named}


def one_seed(seed: int, bench: Bench) -> list[dict[str, Any]]:
    setting = Setting(Cell("quick", "cifar10", seed, "random-0.15", ORIGINAL), bench)
    order = np.random.default_rng(seed).permutation(setting.split.train)
    parts = np.split(order[: REQUESTS * ROWS], REQUESTS)

    def found(model: nn.Module, number: int) -> dict[str, float]:
        gone = np.concatenate(parts[:number])
        of = np.setdiff1d(setting.split.train, gone), setting.split.test, parts[number - 1], gone
        return dict(zip(COLUMNS, (accuracy(setting, model, rows) for rows in of), strict=True))

    retrained = setting.model(np.setdiff1d(setting.split.train, np.concatenate(parts)), 1000 + seed).model
    runs = [{"seed": seed, "model": "retrained", "requests": REQUESTS, **found(retrained, REQUESTS)}]
    for name, method in METHODS.items():
        for number, (model, settings) in enumerate(a_year(setting, parts, method), 1):
            runs.append({"seed": seed, "model": name, "requests": number, **found(model, number), **settings})
    return runs


def rows_of(runs: list[dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for model, number in dict.fromkeys((run["model"], run["requests"]) for run in runs):
        if number in SHOWN:
            alike = [run for run in runs if (run["model"], run["requests"]) == (model, number)]
            means = {name: str(mean_of([run[name] for run in alike], within=(0.0, 100.0))) for name in COLUMNS}
            rows.append({"model": model, "requests": str(number), **means})
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", type=Path, required=True, help="trained models, to be used again")
    arguments.add_argument("--output", type=Path)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnlearningWarning)
    bench = Bench(options.models, torch.device("cpu"), Path(os.environ["NABLA_TAU_DATA"]))
    runs = [run for seed in options.seeds for run in one_seed(seed, bench)]
    rows = rows_of(runs)
    print("\n".join(table(list(rows[0]), (list(row.values()) for row in rows))))
    if options.output is not None:
        write_json(options.output, {"machine": machine(bench.device), "rows": rows, "runs": runs})


if __name__ == "__main__":
    main()
