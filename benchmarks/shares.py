"""The default method from one row to nineteen twentieths of the data, beside doing nothing and retraining.

    python benchmarks/shares.py --output results/shares.json

Three small tasks that are fitted by memory: the demo's network on noisy digits, an MLP with batch norm and dropout on
them, and an MLP on Location-30 (the folder in the environment variable NABLA_TAU_DATA). One row and eight are asked for
several times, with other rows, each with a retrained model of its own. Prints a table in Markdown: accuracy on forget,
retain and test set in percent, and the AUC of the loss, forget against test: of one row, the share of test rows that
cost more.
"""

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from nabla_tau import split, unlearn
from nabla_tau.bench import data
from nabla_tau.bench.storing import write_json
from nabla_tau.demo import noisy_digits, train_network
from nabla_tau.randomness import seeded
from step_report import machine

SMALL = {1: 8, 8: 4}
"""Rows of a small request -> how many such requests for each seed."""

SHARES = (0.01, 0.15, 0.3, 0.6, 0.95)
Rows = tuple[torch.Tensor, torch.Tensor]
Train = Callable[[Rows, int], nn.Module]


def digits(seed: int) -> tuple[tuple[Rows, ...], Train]:
    return noisy_digits(seed), train_network


def mlp(seed: int) -> tuple[tuple[Rows, ...], Train]:
    def network() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10),
        )  # fmt: skip

    return noisy_digits(seed), lambda rows, seed: train(network, rows, seed, epochs=60)


def location30(seed: int) -> tuple[tuple[Rows, ...], Train]:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(446, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 30))

    features, labels = data.location30().rows
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    cuts = [3006, 1002, 1002]
    parts = zip(torch.split(features[order], cuts), torch.split(labels[order], cuts), strict=True)
    return tuple(parts), lambda rows, seed: train(network, rows, seed, epochs=30)


TASKS = {"digits": digits, "MLP": mlp, "Location-30": location30}


def train(network: Callable[[], nn.Module], rows: Rows, seed: int, epochs: int) -> nn.Module:
    with seeded(seed):
        model = network().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(rows[1])), 64):
                if len(batch) > 1:  # batch norm needs two
                    optimizer.zero_grad()
                    loss = functional.cross_entropy(model(rows[0][batch]), rows[1][batch])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
    return model


def measure(model: nn.Module, sets: dict[str, Rows]) -> dict[str, float]:
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        outputs = {name: model(rows[0]) for name, rows in sets.items()}
    found = {name: 100 * float((outputs[name].argmax(1) == sets[name][1]).float().mean()) for name in sets}
    losses = {
        name: functional.cross_entropy(outputs[name], sets[name][1], reduction="none").double().numpy() for name in sets
    }
    members = np.repeat([True, False], [len(losses["forget"]), len(losses["test"])])
    area = float(roc_auc_score(members, -np.concatenate([losses["forget"], losses["test"]])))
    means = {"forget_loss": float(losses["forget"].mean()), "unseen_loss": float(losses["test"].mean())}
    return {**found, **means, "auc": area}


def requests(size: int, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """What is asked for, in words, and the rows to forget."""
    for count, times in SMALL.items():
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        for number in range(times):
            yield f"{count} row{'s' * (count > 1)}", order[number * count : (number + 1) * count]
    for share in SHARES:
        yield f"{100 * share:g} %", torch.tensor(split(range(size), fraction=share, seed=seed).forget.indices)


def one_request(
    model: nn.Module, rows: tuple[Rows, ...], train: Train, gone: torch.Tensor, seed: int
) -> dict[str, Any]:
    training, validation, test = rows
    stays = torch.ones(len(training[1]), dtype=torch.bool)
    stays[gone] = False
    forget, retain = ((training[0][which], training[1][which]) for which in (gone, stays))
    unlearned = unlearn(model, forget=forget, retain=retain, validation=validation, seed=seed, device="cpu")
    models = {"original": model, "unlearned": unlearned.model, "retrained": train(retain, seed + 1)}
    sets = {"forget": forget, "retain": retain, "test": test}
    settings = unlearned.settings
    return {
        **{name: measure(one, sets) for name, one in models.items()},
        "reached_target": unlearned.reached_target,
        "damaged": settings["damaged"],
        "learning_rate": settings["learning_rate"],
        "steps": settings["steps_done"],
    }


def shown(found: dict[str, float]) -> str:
    return " / ".join(f"{found[name]:.0f}" for name in ("forget", "retain", "test")) + f", {found['auc']:.2f}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--output", type=Path)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    runs = []
    for name, task in TASKS.items():
        for seed in options.seeds:
            rows, train_one = task(seed)
            original = train_one(rows[0], seed)
            for share, gone in requests(len(rows[0][1]), seed):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = one_request(original, rows, train_one, gone, seed)
                runs.append({"task": name, "seed": seed, "share": share, **found})
    print("| share | task | original | unlearned | retrained | reached | damaged |\n" + "| --- " * 7 + "|")
    for share in dict.fromkeys(run["share"] for run in runs):
        for name in TASKS:
            same = [run for run in runs if run["task"] == name and run["share"] == share]
            cells = [
                shown({key: sum(run[model][key] for run in same) / len(same) for key in same[0][model]})
                for model in ("original", "unlearned", "retrained")
            ]
            counts = [f"{sum(run[key] for run in same)} of {len(same)}" for key in ("reached_target", "damaged")]
            print(f"| {share} | {name} | {' | '.join([*cells, *counts])} |")
    if options.output is not None:
        write_json(options.output, {"machine": machine(torch.device("cpu")), "runs": runs})


if __name__ == "__main__":
    main()
