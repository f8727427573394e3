"""Whether a linear probe finds again what was removed, in the features of the default and of retrained models.

    NABLA_TAU_DATA=DIR python benchmarks/probe.py --models MODELS --output results/probe.json

Tasks of the benchmark at `quick`, with a class, subclass or group removed. The probe is a logistic regression on what a
model's last layer reads; it tells the held-out rows that carry what was removed from those that do not, and is judged
by its AUC over five folds of them: none of the models saw any of these rows. A model that was retrained knows something
of what it never met, so it is the measure; *difference* is the default's AUC less the mean of two retrained models',
paired by seed, in points. Prints a table in Markdown: means over seeds with 95 % intervals.
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from nabla_tau.bench.cells import ORIGINAL, RETRAINED, Bench, Cell
from nabla_tau.bench.comparing import mean_of
from nabla_tau.bench.slices import ForgetSet, Setting
from nabla_tau.bench.storing import write_json
from nabla_tau.errors import UnlearningWarning
from nabla_tau.methods import nabla_tau
from step_report import machine

CASES = {
    ("location30", "class"): range(5, 10),
    ("cifar10", "class"): range(5, 10),
    ("cifar100", "class"): range(3, 8),
    ("cifar100", "subclass"): range(3, 8),
    ("spoken_digits", "class"): range(5, 10),
    ("spoken_digits", "group"): range(5, 10),
}
"""Task and forget set -> seeds, those of the benchmark's table, so that models trained for it are used again."""

FOLDS = 5
COLUMNS = ("original", "nabla_tau", "retrained", "difference", "between retrained")


def features(model: nn.Module, inputs: torch.Tensor) -> np.ndarray[Any, Any]:
    """What the last linear layer reads, shape (N, d)."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    read: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        with torch.no_grad():
            for part in torch.split(inputs, 500):
                model.eval()(part)
    finally:
        hook.remove()
    return torch.cat(read).numpy()


def probed(model: nn.Module, inputs: torch.Tensor, carries: np.ndarray[Any, Any], seed: int) -> float:
    """AUC of the probe, in points."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(probe, features(model, inputs), carries, cv=folds, method="decision_function")
    return 100 * float(roc_auc_score(carries, scores))


def measured(task: str, forget: str, seed: int, bench: Bench) -> dict[str, float]:
    setting = Setting(Cell("quick", task, seed, forget, ORIGINAL), bench)
    request = ForgetSet(setting, forget)
    groups = setting.pool.groups[forget]
    held_out = np.concatenate([setting.split.validation, setting.split.test])
    carries = groups[held_out] == groups[request.forgotten[0]]
    inputs, _ = setting.take(held_out)
    unlearned, _ = request.unlearn(nabla_tau, None)
    models = {"original": setting.original.model, "nabla_tau": unlearned}
    models.update((name, request.retrained[name].model) for name in RETRAINED)
    found = {name: probed(model, inputs, carries, seed) for name, model in models.items()}
    one, other = (found.pop(name) for name in RETRAINED)
    retrained = (one + other) / 2
    return {
        **found,
        "retrained": retrained,
        "difference": found["nabla_tau"] - retrained,
        "between retrained": abs(one - other),
        "rows": int(carries.sum()),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", type=Path, required=True, help="trained models, to be used again")
    arguments.add_argument("--output", type=Path)
    arguments.add_argument("--tasks", nargs="+", choices=sorted({task for task, _ in CASES}))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnlearningWarning)
    bench = Bench(options.models, torch.device("cpu"), Path(os.environ["NABLA_TAU_DATA"]))
    report: dict[str, Any] = {"machine": machine(bench.device), "cases": []}
    print("| task | forget set | rows | " + " | ".join(COLUMNS) + " |\n" + "| --- " * (len(COLUMNS) + 3) + "|")
    for (task, forget), seeds in CASES.items():
        if options.tasks and task not in options.tasks:
            continue
        found = [measured(task, forget, seed, bench) for seed in seeds]
        report["cases"].append({"task": task, "forget": forget, "seeds": found})
        rows = sorted(one["rows"] for one in found)
        within = {"difference": (-100.0, 100.0)}
        means = [str(mean_of([one[name] for one in found], within=within.get(name, (0.0, 100.0)))) for name in COLUMNS]
        print(f"| {task} | {forget} | {rows[0]:.0f} to {rows[-1]:.0f} | {' | '.join(means)} |", flush=True)
    if options.output is not None:
        write_json(options.output, report)


if __name__ == "__main__":
    main()
