"""How often the audit alarms on models that never saw the forget set: Location-30, split and trained anew each time.

    python benchmarks/audit_false_alarms.py --models 100 --output results/location30_false_alarms.json

Every run draws its own forget, retain and test set, trains an original model on forget and retain set and another on
the retain set alone, and gives both to `audit()`, the second as the unlearned one. Its forget and test samples are then
two random parts of the rows that it never saw: whatever alarms is a false alarm, and the runs are independent given the
rows. The same audit tells whether the original, as if it were the result, would have been found out.

The output is written after every run; started again, the script goes on after the last one. The data is the file
location30/data.parquet below the folder in the environment variable NABLA_TAU_DATA.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from nabla_tau import audit
from nabla_tau.auditing.rates import exact_rate
from nabla_tau.auditing.verdict import KINDS, LEVEL, decide
from nabla_tau.bench.data import location30
from step_report import load, machine

SIZES = {"forget": 1000, "retain": 2510, "test": 1500}  # all 5,010 rows
EPOCHS, BATCH, RATE = 40, 128, 1e-3

Rows = tuple[torch.Tensor, torch.Tensor]
Json = dict[str, Any]


def split(rows: Rows, seed: int) -> dict[str, Rows]:
    order = np.random.default_rng([1, seed]).permutation(len(rows[1]))  # no stream that the audit uses
    parts = np.split(order, np.cumsum(list(SIZES.values()))[:-1])
    return {name: (rows[0][part], rows[1][part]) for name, part in zip(SIZES, parts, strict=True)}


def trained(rows: Rows, seed: int) -> nn.Module:
    """A perceptron that fits its training set."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(446, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 30))
    inputs, targets = rows
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(targets)).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs[batch]), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def one_run(rows: Rows, seed: int) -> Json:
    """Split, train twice, audit: what the report says of the model that never saw the forget set, and of the other."""
    sets = split(rows, seed)
    forget, retain, test = (sets[name] for name in ("forget", "retain", "test"))
    everything = torch.cat([forget[0], retain[0]]), torch.cat([forget[1], retain[1]])
    original, retrained = trained(everything, 2 * seed), trained(retain, 2 * seed + 1)
    report = audit(retrained, original=original, forget=forget, retain=retain, test=test, seed=seed, device="cpu").data
    measured = {model["name"]: model for model in report["models"]}
    nothing_done = decide(measured["original"], report["controls"], (SIZES["forget"], SIZES["test"]))
    return {
        "seed": seed,
        "verdict": report["verdict"]["kind"],
        "verdict_if_nothing_is_done": nothing_done["kind"],
        "margin": report["verdict"]["margin"],
        "controls": {
            name: {"p": one["p"], "alarm": one["alarm"]}
            for name, one in report["controls"].items()
            if one is not None and "p" in one
        },
        "smallest_detectable_fraction": report["power"]["smallest_fraction"],
        "never_saw": said_of(measured["unlearned"]),
        "original": said_of(measured["original"]),
    }


def said_of(model: Json) -> Json:
    primary = next(attack for attack in model["attacks"] if attack["primary"])
    family = {attack["score"]: attack for attack in model["attacks"] if not attack["primary"]}
    family |= {name: model[name] for name in ("boosted", "ks", "energy", "over_forgetting")}
    return {
        "accuracy": {name: utility["accuracy"]["value"] for name, utility in model["utility"].items()},
        "primary": {"score": primary["score"], "auc": primary["auc"], "p": primary["p"]},
        "family": {name: {"p": one["p"], "p_adjusted": one["p_adjusted"]} for name, one in family.items()},
        "paper_attacks": model["paper_attacks"],
        "residual_fraction": model["residual"]["fraction"],
    }


def summarised(runs: list[Json]) -> Json:
    """Counts of alarms with their exact 95 % intervals."""
    rates: dict[str, list[bool]] = {f"verdict {kind}": [run["verdict"] == kind for run in runs] for kind in KINDS}
    alarms = ("residual", "over_forgotten", "distinguishable")
    rates["verdict: any alarm"] = [run["verdict"] in alarms for run in runs]
    rates["primary attack"] = [run["never_saw"]["primary"]["p"] < LEVEL for run in runs]
    families = [run["never_saw"]["family"] for run in runs]
    least = [min(one["p_adjusted"] for one in each.values()) for each in families]
    rates["family, any of it after Holm"] = [p < LEVEL for p in least]
    for name in families[0]:
        rates[f"family, {name}, before Holm"] = [each[name]["p"] < LEVEL for each in families]
        rates[f"family, {name}, after Holm"] = [each[name]["p_adjusted"] < LEVEL for each in families]
    for name in runs[0]["controls"]:
        rates[f"control, {name}"] = [run["controls"][name]["alarm"] for run in runs]
    for name in ("losses", "entropies"):
        attacks = [run["never_saw"]["paper_attacks"][name] for run in runs]
        apart = [not one["low"] <= 0.5 <= one["high"] for one in attacks]
        rates[f"paper's attack, {name}, interval without 0.5"] = apart
    fractions = [run["never_saw"]["residual_fraction"] for run in runs]
    rates["residual fraction, interval above 0"] = [one is not None and one["low"] > 0 for one in fractions]
    rates["do nothing is found: residual"] = [run["verdict_if_nothing_is_done"] == "residual" for run in runs]
    return {name: described(alarmed) for name, alarmed in rates.items()}


def described(alarmed: list[bool]) -> Json:
    rate = exact_rate(sum(alarmed), len(alarmed))
    return {"count": rate.count, "of": rate.samples, "rate": rate.value, "low": rate.low, "high": rate.high}


def show(summary: Json) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table(title="Models that never saw the forget set, Location-30", title_justify="left")
    for heading in ("", "count", "of", "rate", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, rate in summary.items():
        interval = f"{rate['low']:.1%} to {rate['high']:.1%}"
        table.add_row(name, str(rate["count"]), str(rate["of"]), f"{rate['rate']:.1%}", interval)
    console.print(table, highlight=False)


def begun(output: Path, start: Json) -> list[Json]:
    """The runs that an earlier start left, made in the same way."""
    if not output.exists():
        return []
    found = json.loads(output.read_text(encoding="utf-8"))
    apart = {name for name in ("settings", "versions") if found[name] != start[name]}
    if apart:
        raise SystemExit(
            f"Expected {output} to have the {' and '.join(sorted(apart))} of this run: choose another file."
        )
    runs: list[Json] = found["runs"]
    return runs


def write(found: Json, runs: list[Json], output: Path) -> None:
    """One line for every run."""
    output.parent.mkdir(parents=True, exist_ok=True)
    staged = output.with_suffix(".part")
    head, lines = json.dumps(found, indent=1).removesuffix("\n}"), ",\n".join(map(json.dumps, runs))
    staged.write_text(f'{head},\n "runs": [\n{lines}\n]\n}}\n', encoding="utf-8")
    os.replace(staged, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100, help="how many runs in all (default: 100)")
    parser.add_argument("--at-most", type=int, help="how many of them now (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file, written after every run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("nabla-tau", "torch", "numpy", "scipy", "scikit-learn")
    found: Json = {
        "benchmark": "audit_false_alarms",
        "machine": machine(torch.device("cpu")),
        "versions": {name: version(name) for name in packages},
        "settings": {"sizes": SIZES, "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "level": LEVEL},
    }
    runs = begun(args.output, found)
    rows = location30().rows
    missing = sorted(set(range(args.models)) - {run["seed"] for run in runs})
    for seed in missing[: args.at_most]:
        started = time.perf_counter()
        runs = [*runs, {**one_run(rows, seed), "seconds": round(time.perf_counter() - started, 1)}]
        found["machine"]["load_at_end"] = load()
        write({**found, "summary": summarised(runs)}, runs, args.output)
    show(summarised(runs))


if __name__ == "__main__":
    main()
