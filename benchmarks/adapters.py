"""What can be forgotten through an adapter alone, beside all weights: measured on Location-30.

    python benchmarks/adapters.py --output results/adapters.json

An MLP (the folder of the data is in the environment variable NABLA_TAU_DATA) that was trained whole; 15 % of its 3,000
rows are to be forgotten, by changing all weights or those of a new adapter. Prints a table in Markdown: the AUC of the
loss, forget against test set (0.5 is guessing, and what the retrained model shows is what is to be reached), with the
adapter and without it; mean losses; and what the optimiser and the saved file take. Means over the seeds.
"""

import argparse
import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from nabla_tau import UnlearningWarning, unlearn
from nabla_tau.adapters import is_adapted
from nabla_tau.auditing.ranks import auc
from nabla_tau.batches import Batch, cut
from nabla_tau.bench.storing import write_json
from nabla_tau.bench.tasks import TASKS, split_rows
from nabla_tau.bench.training import trained
from nabla_tau.losses import PerSampleLoss
from nabla_tau.memory import describe
from step_report import machine

SHARE, RANKS, SEEDS = 0.15, (1, 8, 64), 3
TASK = TASKS["location30"]
RECIPE = TASK.recipes["quick"]
LAYERS = ["0", "2", "4"]  # of its MLP: all of them


def with_adapter(model: nn.Module, rank: int, layers: str | list[str]) -> nn.Module:
    """A copy of the model with a fresh adapter, which changes nothing yet."""
    torch.manual_seed(0)
    return get_peft_model(copy.deepcopy(model), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers))


def losses_of(model: nn.Module, rows: Batch, loss: PerSampleLoss) -> Any:
    with torch.no_grad():
        return torch.cat([loss(model.eval(), part) for part in cut(rows, 250)]).numpy()


def measured(model: nn.Module, sets: dict[str, Batch], loss: PerSampleLoss) -> dict[str, float]:
    found = {name: losses_of(model, rows, loss) for name, rows in sets.items()}
    return {
        "auc": auc(-found["forget"], -found["test"]).value,
        **{f"{name}_loss": float(np.mean(values)) for name, values in found.items()},
    }


def unlearned(model: nn.Module, sets: dict[str, Batch], loss: PerSampleLoss, batch_size: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        parts: dict[str, Any] = {name: sets[name] for name in ("forget", "retain", "validation")}
        result = unlearn(model, **parts, loss=loss, batch_size=batch_size, device="cpu")
    found: dict[str, Any] = measured(result.model, sets, loss)
    if is_adapted(result.model):
        with result.model.disable_adapter():  # type: ignore[operator]
            found["auc_without_adapter"] = measured(result.model, sets, loss)["auc"]
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in result.save(Path(folder) / "run").iterdir() if path.suffix == ".safetensors"]
        found["saved_bytes"] = sum(path.stat().st_size for path in files)
    known = {**result.settings, "reached_target": result.reached_target}
    names = (
        "trainable_parameters",
        "parameters",
        "state_bytes",
        "reached_target",
        "damaged",
        "learning_rate",
        "steps_done",
    )
    return {**found, **{name: known[name] for name in names}}


def measure(seed: int) -> dict[str, Any]:
    pool = TASK.read()
    split = split_rows(pool, RECIPE, seed)
    forget, retain = np.split(np.random.default_rng(seed).permutation(split.train), [round(SHARE * RECIPE.train)])
    positions = {"forget": forget, "retain": retain, "validation": split.validation, "test": split.test}
    inputs, targets = pool.rows
    sets = {name: (inputs[rows], targets[rows]) for name, rows in positions.items()}
    both = torch.cat([sets["forget"][0], sets["retain"][0]]), torch.cat([sets["forget"][1], sets["retain"][1]])
    original, retrained = (trained(TASK, RECIPE, rows, seed, torch.device("cpu")) for rows in (both, sets["retain"]))
    how: dict[str, Any] = {"loss": TASK.loss, "batch_size": RECIPE.unlearning_batch_size}
    found: dict[str, Any] = {
        "nothing (original)": measured(original, sets, TASK.loss),
        "nothing (retrained)": measured(retrained, sets, TASK.loss),
        "all weights": unlearned(original, sets, **how),
    }
    for rank in RANKS:
        found[f"a new adapter of rank {rank}"] = unlearned(with_adapter(original, rank, LAYERS), sets, **how)
    return found


def table(seeds: list[dict[str, Any]]) -> str:
    lines = [
        "| changed | AUC | AUC without the adapter | forget, retain, test loss | trained | optimiser | saved |",
        f"| {' | '.join(['---'] * 7)} |",
    ]
    return "\n".join([*lines, *(row(name, [seed[name] for seed in seeds]) for name in seeds[0])])


def row(name: str, runs: list[dict[str, Any]]) -> str:
    def mean(key: str) -> float:
        return float(np.mean([run[key] for run in runs]))

    losses = " / ".join(f"{mean(f'{part}_loss'):.3f}" for part in ("forget", "retain", "test"))
    without = f"{mean('auc_without_adapter'):.2f}" if "auc_without_adapter" in runs[0] else "–"
    sizes = ["–", "–", "–"]
    if "saved_bytes" in runs[0]:
        share = mean("trainable_parameters") / mean("parameters")
        sizes = [f"{share:.1%}", *(describe(mean(f"{what}_bytes")) for what in ("state", "saved"))]
    cells = [name, f"{mean('auc'):.2f}", without, losses, *sizes]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    where = machine(torch.device("cpu"))
    found = [measure(seed) for seed in range(SEEDS)]
    print(table(found))
    write_json(args.output, {"benchmark": "adapters", "machine": where, "seeds": found})


if __name__ == "__main__":
    main()
