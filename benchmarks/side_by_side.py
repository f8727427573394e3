"""Methods on the same models of a task of the benchmark at `quick`, as rows of one table."""

import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from nabla_tau.bench.cells import ORIGINAL, RETRAINED, Bench, Cell
from nabla_tau.bench.comparing import mean_of
from nabla_tau.bench.gap import COMPONENTS, gap, values
from nabla_tau.bench.slices import ForgetSet, Setting
from nabla_tau.bench.tasks import TASKS
from nabla_tau.errors import UnlearningWarning, told
from nabla_tau.problem import Method

Row = dict[str, Any]
Found = tuple[dict[str, float], float]
"""Components of one model, and its gap."""

SCALE = "side-by-side"


def compare(
    methods: Mapping[str, Method], task: str, forget: str, seeds: list[int], models: Path, passes: int | None = None
) -> str:
    """A row for each method: the components of the gap to retrained, in points, as means over seeds, and the gap.

    The gap has its 95 % interval where there are several seeds. A method that fails has its error below the table, and
    the others go on; what the runs themselves said stands there, too.

    Args:
        methods: by the names they get in the table.
        task: of the benchmark.
        forget: a forget set of the task.
        seeds: of splits, models and methods.
        models: folder of trained models, each trained once.
        passes: of training; as many as at quick if left out.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnlearningWarning)  # they are told of below the table
    recipes = TASKS[task].recipes
    recipes[SCALE] = replace(recipes["quick"], epochs=passes or recipes["quick"].epochs)  # type: ignore[index]
    bench, rows, said = Bench(models, torch.device("cpu")), defaultdict[str, list[Found]](list), list[str]()
    for seed in dict.fromkeys(seeds):
        request = ForgetSet(Setting(Cell(SCALE, task, seed, forget, ORIGINAL), bench), forget)
        references = [measured(request, request.retrained[name].model, name) for name in RETRAINED]
        records = [(ORIGINAL, measured(request, request.setting.original.model, ORIGINAL))]
        records += [("retrained", reference) for reference in references]
        for name, one in methods.items():
            try:
                model, done = request.unlearn(one, None)
                records.append((name, measured(request, model, name)))
            except Exception as error:
                said.append(f"{name}, seed {seed}: {'; '.join(told(error))}")
                continue
            said += [f"{name}, seed {seed}: {remark}" for part in done for remark in part["warnings"]]
            print(f"seed {seed}, {name}: gap {gap(records[-1][1], references):.1f}", file=sys.stderr, flush=True)
        for name, record in records:
            rows[name].append((values(record), gap(record, references)))
    return "\n".join([*_table(rows), "", *said]).rstrip()


def _table(rows: Mapping[str, list[Found]]) -> list[str]:
    names = [component.name for component in COMPONENTS if component.name in rows[ORIGINAL][0][0]]
    lines = ["| method | " + " | ".join([*names, "gap"]) + " |", "| --- " * (len(names) + 2) + "|"]
    for method, found in rows.items():
        by_seed = [distance for _, distance in found]
        if method == "retrained":  # two of a seed are no two seeds
            by_seed = [fmean(pair) for pair in zip(by_seed[::2], by_seed[1::2], strict=True)]
        cells = [f"{fmean(one[name] for one, _ in found):.1f}" for name in names]
        lines.append(f"| {method} | " + " | ".join([*cells, str(mean_of(by_seed, within=(0.0, math.inf)))]) + " |")
    return lines


def measured(request: ForgetSet, model: nn.Module, name: str) -> Row:
    return {
        "cell": {"method": name},
        "audit": request.audited(model),
        "js_to_retrained": request.divergence(model, name),
    }
