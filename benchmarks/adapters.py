"""What can be forgotten through an adapter alone, beside all weights: measured, on a text encoder.

    python benchmarks/adapters.py --output results/adapters.json

GoEmotions (the folder in the environment variable NABLA_TAU_DATA) and the first two layers of MiniLM, whose weights
are pre-trained; 15 % of 1,000 rows are to be forgotten. What was memorised lies either in all weights (the usual
fine-tuning) or in an adapter (only that was trained). Prints a table in Markdown: the AUC of the loss, forget against
test set (0.5 is guessing, and what the retrained model shows is what is to be reached), with the adapter and, where
there is one, without it; mean losses; and what the optimiser and the saved file take.
"""

import argparse
import copy
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from nabla_tau import UnlearningWarning, methods, unlearn
from nabla_tau.adapters import is_adapted
from nabla_tau.auditing.ranks import auc
from nabla_tau.bench.data import Rows
from nabla_tau.bench.tasks import TASKS, split_rows
from nabla_tau.bench.training import trained
from step_report import machine

SHARE = 0.15
ATTENTION, ALL = ["query", "value"], ["query", "key", "value", "dense"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "rank 1, attention": {"r": 1, "target_modules": ATTENTION},
    "rank 8, attention": {"r": 8, "target_modules": ATTENTION},
    "rank 8, every layer": {"r": 8, "target_modules": ALL},
    "rank 64, every layer": {"r": 64, "target_modules": ALL},
}
TRAINED_ADAPTER = "rank 64, every layer"


def with_adapter(model: nn.Module, name: str, *, head: bool = False) -> nn.Module:
    """A copy of the model with a fresh adapter, which changes nothing yet."""
    torch.manual_seed(0)
    settings = LoraConfig(
        **ADAPTERS[name], lora_alpha=2 * ADAPTERS[name]["r"], modules_to_save=["head"] if head else None
    )
    return get_peft_model(copy.deepcopy(model), settings)


def losses_of(model: nn.Module, rows: Rows) -> Any:
    with torch.no_grad():
        batches = zip(*(torch.split(column, 250) for column in rows), strict=True)
        parts = [TASKS["go_emotions"].loss(model.eval(), batch) for batch in batches]
    return torch.cat(parts).numpy()


def measured(model: nn.Module, sets: dict[str, Rows]) -> dict[str, float]:
    found = {name: losses_of(model, rows) for name, rows in sets.items()}
    return {
        "auc": auc(-found["forget"], -found["test"]).value,
        **{f"{name}_loss": float(np.mean(values)) for name, values in found.items()},
    }


def unlearned(model: nn.Module, sets: dict[str, Rows]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        parts: dict[str, Any] = {name: sets[name] for name in ("forget", "retain", "validation")}
        result = unlearn(model, **parts, method=methods.nabla_tau, batch_size=128, device="cpu")
    found: dict[str, Any] = measured(result.model, sets)
    if is_adapted(result.model):
        with result.model.disable_adapter():  # type: ignore[operator]
            found["auc_without_adapter"] = measured(result.model, sets)["auc"]
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in result.save(Path(folder) / "run").iterdir() if path.suffix == ".safetensors"]
        found["saved_bytes"] = sum(path.stat().st_size for path in files)
    names = ("trainable_parameters", "parameters", "state_bytes", "reached_target", "damaged", "learning_rate")
    known = {**result.settings, "reached_target": result.reached_target}
    return {**found, "seconds_per_step": result.seconds / result.settings["steps_done"], **{n: known[n] for n in names}}


def measure(seed: int) -> dict[str, Any]:
    task, recipe = TASKS["go_emotions"], TASKS["go_emotions"].recipes["quick"]
    pool = task.read()
    split = split_rows(pool, recipe, seed)
    forget, retain = np.split(np.random.default_rng(seed).permutation(split.train), [round(SHARE * recipe.train)])
    positions = {"forget": forget, "retain": retain, "validation": split.validation, "test": split.test}
    sets: dict[str, Rows] = {name: tuple(column[rows] for column in pool.rows) for name, rows in positions.items()}  # type: ignore[misc]
    both: Rows = tuple(torch.cat(columns) for columns in zip(sets["forget"], sets["retain"], strict=True))  # type: ignore[assignment]

    def fit(network: Callable[[int], nn.Module], rows: Rows) -> nn.Module:
        return trained(replace(task, network=network), recipe, rows, seed, torch.device("cpu"))

    def adapted_network(width: int) -> nn.Module:
        return with_adapter(task.network(width), TRAINED_ADAPTER, head=True)

    found: dict[str, Any] = {}
    for place, network in (("all weights", task.network), (f"an adapter ({TRAINED_ADAPTER})", adapted_network)):
        original = fit(network, both)
        found[place] = {
            "original": measured(original, sets),
            "retrained": measured(fit(network, sets["retain"]), sets),
        }
        changed = {"all weights": partial(copy.deepcopy, original)}
        if is_adapted(original):
            changed = {"the adapter it was trained in": partial(copy.deepcopy, original)}
        else:
            changed |= {name: partial(with_adapter, original, name) for name in ADAPTERS}
        for name, model in changed.items():
            found[place][name] = unlearned(model(), sets)
            print(place, name, json.dumps(found[place][name]), flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    lines = [
        "| memorised in | changed | AUC | AUC without the adapter | forget, retain, test loss "
        "| trained | optimiser | saved |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for place, rows in next(iter(found.values())).items():
        for name in rows:
            runs = [seed[place][name] for seed in found.values()]

            def mean(key: str, runs: list[dict[str, Any]] = runs) -> float:
                return float(np.mean([run[key] for run in runs]))

            means = " / ".join(f"{mean(f'{part}_loss'):.3f}" for part in ("forget", "retain", "test"))
            without = f"{mean('auc_without_adapter'):.2f}" if "auc_without_adapter" in runs[0] else "–"
            sizes = ["–", "–", "–"]
            if "saved_bytes" in runs[0]:
                share = mean("trainable_parameters") / mean("parameters")
                sizes = [
                    f"{share:.1%}",
                    f"{mean('state_bytes') / 2**20:.1f} MiB",
                    f"{mean('saved_bytes') / 2**20:.1f} MiB",
                ]
            cells = [place, name, f"{mean('auc'):.2f}", without, means, *sizes]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    where = machine(torch.device("cpu"))
    found = {str(seed): measure(seed) for seed in range(args.seeds)}
    args.output.write_text(json.dumps({"benchmark": "adapters", "machine": where, "seeds": found}, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
