"""What can be forgotten through an adapter alone, beside all weights: measured, on a text encoder and on a table.

    python benchmarks/adapters.py --output results/adapters.json

GoEmotions on the first two layers of MiniLM, whose weights are pre-trained (400 rows, 20 tokens, one seed), and
Location-30 on an MLP (3,000 rows, three seeds); the folder of both is in the environment variable NABLA_TAU_DATA. 15 %
of the rows are to be forgotten. What was memorised lies either in all weights (the usual training) or in an adapter
(only that was trained, on pre-trained weights). Prints a table in Markdown: the AUC of the loss, forget against test
set (0.5 is guessing, and what the retrained model shows is what is to be reached), with the adapter and, where there is
one, without it; mean losses; and what the optimiser and the saved file take.
"""

import argparse
import copy
import json
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from nabla_tau import UnlearningWarning, unlearn
from nabla_tau.adapters import is_adapted
from nabla_tau.auditing.ranks import auc
from nabla_tau.bench.data import Rows
from nabla_tau.bench.tasks import TASKS, Recipe, Task, split_rows
from nabla_tau.bench.training import trained
from nabla_tau.memory import describe
from step_report import machine

SHARE, RANKS = 0.15, (1, 8, 64)


@dataclass(frozen=True)
class Setting:
    """A task, how it is trained, and which layers get an adapter and which are trained beside one."""

    task: Task
    recipe: Recipe
    layers: list[str]
    head: list[str]
    seeds: int
    inputs: int | None = None  # columns of the inputs that are read
    pre_trained: bool = False


_TEXT, _TABLE = TASKS["go_emotions"], TASKS["location30"]
_TEXT_RECIPE = replace(
    _TEXT.recipes["quick"], train=400, test=400, validation=400, epochs=20, batch_size=32, unlearning_batch_size=32
)
SETTINGS = {
    "Location-30, MLP": Setting(_TABLE, _TABLE.recipes["quick"], ["0", "2"], ["4"], seeds=3),
    "GoEmotions, MiniLM": Setting(
        _TEXT, _TEXT_RECIPE, ["query", "key", "value", "dense"], ["head"], seeds=1, inputs=20, pre_trained=True
    ),
}


def with_adapter(setting: Setting, model: nn.Module, rank: int, *, train_head: bool = False) -> nn.Module:
    """A copy of the model with a fresh adapter, which changes nothing yet."""
    torch.manual_seed(0)
    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=[*setting.layers, *([] if train_head else setting.head)],
        modules_to_save=setting.head if train_head else None,
    )
    return get_peft_model(copy.deepcopy(model), settings)


def losses_of(setting: Setting, model: nn.Module, rows: Rows) -> Any:
    with torch.no_grad():
        batches = zip(*(torch.split(column, 250) for column in rows), strict=True)
        parts = [setting.task.loss(model.eval(), batch) for batch in batches]
    return torch.cat(parts).numpy()


def measured(setting: Setting, model: nn.Module, sets: dict[str, Rows]) -> dict[str, float]:
    found = {name: losses_of(setting, model, rows) for name, rows in sets.items()}
    return {
        "auc": auc(-found["forget"], -found["test"]).value,
        **{f"{name}_loss": float(np.mean(values)) for name, values in found.items()},
    }


def unlearned(setting: Setting, model: nn.Module, sets: dict[str, Rows]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        parts: dict[str, Any] = {name: sets[name] for name in ("forget", "retain", "validation")}
        result = unlearn(
            model, **parts, loss=setting.task.loss, batch_size=setting.recipe.unlearning_batch_size, device="cpu"
        )
    found: dict[str, Any] = measured(setting, result.model, sets)
    if is_adapted(result.model):
        with result.model.disable_adapter():  # type: ignore[operator]
            found["auc_without_adapter"] = measured(setting, result.model, sets)["auc"]
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in result.save(Path(folder) / "run").iterdir() if path.suffix == ".safetensors"]
        found["saved_bytes"] = sum(path.stat().st_size for path in files)
    known = {**result.settings, "reached_target": result.reached_target}
    names = ("trainable_parameters", "parameters", "state_bytes", "reached_target", "damaged", "learning_rate")
    return {**found, **{name: known[name] for name in names}}


def measure(setting: Setting, seed: int) -> dict[str, Any]:
    task, recipe = setting.task, setting.recipe
    pool = task.read()
    split = split_rows(pool, recipe, seed)
    forget, retain = np.split(np.random.default_rng(seed).permutation(split.train), [round(SHARE * recipe.train)])
    positions = {"forget": forget, "retain": retain, "validation": split.validation, "test": split.test}
    inputs, targets = pool.rows
    sets = {name: (inputs[rows][:, : setting.inputs], targets[rows]) for name, rows in positions.items()}
    both = torch.cat([sets["forget"][0], sets["retain"][0]]), torch.cat([sets["forget"][1], sets["retain"][1]])

    def adapted_network(width: int) -> nn.Module:
        return with_adapter(setting, task.network(width), RANKS[-1], train_head=True)

    networks = {"all weights": task.network}
    if setting.pre_trained:  # an adapter on random weights would learn little
        networks[f"an adapter of rank {RANKS[-1]} and the head"] = adapted_network
    found: dict[str, Any] = {}
    for place, network in networks.items():
        original, retrained = (
            trained(replace(task, network=network), recipe, rows, seed, torch.device("cpu"))
            for rows in (both, sets["retain"])
        )
        found[place] = {
            "nothing (original)": measured(setting, original, sets),
            "nothing (retrained)": measured(setting, retrained, sets),
        }
        if is_adapted(original):
            changed = {"that adapter": original}
        else:
            changed = {"all weights": original}
            changed |= {f"a new adapter of rank {rank}": with_adapter(setting, original, rank) for rank in RANKS}
        for name, model in changed.items():
            found[place][name] = unlearned(setting, model, sets)
            print(place, name, json.dumps(found[place][name]), flush=True)
    return found


def table(found: dict[str, list[Any]]) -> str:
    lines = [
        "| task | memorised in | changed | AUC | AUC without the adapter | forget, retain, test loss "
        "| trained | optimiser | saved |",
        f"| {' | '.join(['---'] * 9)} |",
    ]
    for task, seeds in found.items():
        for place, name in [(place, name) for place, rows in seeds[0].items() for name in rows]:
            lines.append(row([task, place, name], [seed[place][name] for seed in seeds]))
    return "\n".join(lines)


def row(names: list[str], runs: list[dict[str, Any]]) -> str:
    def mean(key: str) -> float:
        return float(np.mean([run[key] for run in runs]))

    losses = " / ".join(f"{mean(f'{part}_loss'):.3f}" for part in ("forget", "retain", "test"))
    without = f"{mean('auc_without_adapter'):.2f}" if "auc_without_adapter" in runs[0] else "–"
    sizes = ["–", "–", "–"]
    if "saved_bytes" in runs[0]:
        share = mean("trainable_parameters") / mean("parameters")
        sizes = [f"{share:.1%}", *(describe(mean(f"{what}_bytes")) for what in ("state", "saved"))]
    cells = [*names, f"{mean('auc'):.2f}", without, losses, *sizes]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    where, found = machine(torch.device("cpu")), {}
    for name, setting in SETTINGS.items():
        found[name] = [measure(setting, seed) for seed in range(setting.seeds)]
        args.output.write_text(json.dumps({"benchmark": "adapters", "machine": where, "tasks": found}, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
