"""What the cells of a slice share: rows, the original, and for each forget set the retrained models."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nabla_tau.auditing.audit import audit
from nabla_tau.auditing.predictions import js_divergence
from nabla_tau.bench.cells import RETRAINED, UNLEARNING, Bench, Cell
from nabla_tau.bench.clock import clock
from nabla_tau.bench.data import Pool, Positions, Rows
from nabla_tau.bench.provenance import training_code
from nabla_tau.bench.storing import Json, Models, Trained, rows_digest
from nabla_tau.bench.tasks import TASKS, Recipe, Split, Task, forget_requests, split_rows
from nabla_tau.bench.training import trained
from nabla_tau.losses import classification, regression
from nabla_tau.tuning import tune
from nabla_tau.unlearning import Request, unlearn


class Setting:
    """Data, split and original of one task, scale and seed."""

    def __init__(self, cell: Cell, bench: Bench) -> None:
        self.bench, self.seed = bench, cell.seed
        self.task_name, self.task = cell.task, TASKS[cell.task]
        self.recipe: Recipe = self.task.recipes[cell.scale]
        task: Task = self.task
        self.pool: Pool = task.read(bench.data) if task.data_set else task.read()
        self.split: Split = split_rows(self.pool, self.recipe, cell.seed)
        self.inputs, self.targets = (column.to(bench.device) for column in self.pool.rows)

    def rows(self) -> Json:
        """Row numbers of the split."""
        return {name: rows.tolist() for name, rows in vars(self.split).items()}

    def take(self, positions: Positions) -> Rows:
        """Inputs and targets of some rows, on the device."""
        where = torch.as_tensor(positions, device=self.bench.device)
        return self.inputs[where], self.targets[where]

    def model(self, rows: Positions, seed: int) -> Trained:
        """A model trained on some rows, or the one that was."""
        decided_by = {
            "task": self.task_name,
            "recipe": asdict(self.recipe),
            "data": self.pool.checksum,
            "rows": rows_digest(rows),
            "seed": seed,
            "device": self.bench.device.type,
            "torch": torch.__version__,
            "code": training_code(),
        }
        found = Models(self.bench.models).get(
            decided_by,
            lambda: trained(self.task, self.recipe, self.take(rows), seed, self.bench.device),
            self.task.network(self.recipe.width),
            clock(self.bench.device),
        )
        return Trained(found.model.to(self.bench.device), found.seconds)

    @cached_property
    def original(self) -> Trained:
        """The original model."""
        return self.model(self.split.train, self.seed)


@dataclass
class ForgetSet:
    """A forget set and the models that belong to it."""

    setting: Setting
    forget: str
    parts: list[Positions] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = forget_requests(self.forget, self.setting.pool, self.setting.split.train, self.setting.seed)
        self.forgotten = np.sort(np.concatenate(self.parts))

    def retained(self, gone: Positions) -> Positions:
        """Training rows that are left."""
        return np.setdiff1d(self.setting.split.train, gone)

    @cached_property
    def retrained(self) -> dict[str, Trained]:
        """Models that never saw the forget set, each with a training seed of its own."""
        seeds = {name: 1000 * number + self.setting.seed for number, name in enumerate(RETRAINED, 1)}
        rows = self.retained(self.forgotten)
        return {name: self.setting.model(rows, seed) for name, seed in seeds.items()}

    def unlearn(self, method: Callable[..., Any], tuned: str | None) -> tuple[nn.Module, list[Json]]:
        """One request after the other, each on what the last left."""
        setting, model, done = self.setting, self.setting.original.model, []
        for number, rows in enumerate(self.parts, 1):
            kept = self.retained(np.concatenate(self.parts[:number]))
            arguments: dict[str, Any] = {
                "forget": setting.take(rows),
                "retain": setting.take(kept),
                "validation": setting.take(setting.split.validation),
                "loss": setting.task.loss,
                "seed": setting.seed,
                "batch_size": setting.recipe.unlearning_batch_size,
                "device": setting.bench.device,
            }
            searched = {}
            if tuned is not None:
                search = tune(tuned, Request(model, **arguments))
                method = partial(UNLEARNING[tuned], **search.settings)
                searched = {"tuning": {"trials": len(search.trials), **without(search.record(), "trials")}}
            result = unlearn(model, method=method, **arguments)
            model = result.model
            done.append({**without(result.record(), "epochs"), **searched})
        return model, done

    def audited(self, model: nn.Module) -> Json:
        """What the audit finds on a model, without its curves."""
        setting = self.setting
        report = audit(
            model,
            forget=setting.take(self.forgotten),
            retain=setting.take(self.retained(self.forgotten)),
            test=setting.take(setting.split.test),
            loss=setting.task.loss,
            seed=setting.seed,
            batch_size=setting.recipe.unlearning_batch_size,
            device=setting.bench.device,
        ).data
        row = without(report["models"][0], "name", "histogram", "roc", "per_class")
        return {
            "verdict": report["verdict"],
            "warnings": report["warnings"],
            **row,
        }

    def divergence(self, model: nn.Module, besides: str) -> dict[str, float]:
        """Mean JS divergence on the forget set to the retrained models, in bits; none for a regression."""
        if self.setting.task.loss is regression:
            return {}
        ours = self.predictions(model)
        others = {name: one.model for name, one in self.retrained.items() if name != besides}
        return {name: float(js_divergence(ours, self.predictions(other)).mean()) for name, other in others.items()}

    def predictions(self, model: nn.Module) -> Any:
        """Class probabilities on the forget set, or label by label (yes, no), each row a distribution."""
        inputs, _ = self.setting.take(self.forgotten)
        with torch.no_grad():
            logits = torch.cat([model.eval()(part) for part in torch.split(inputs, 1000)]).double()
        if self.setting.task.loss is classification:
            return logits.softmax(1).cpu().numpy()
        yes = logits.sigmoid().flatten()
        return torch.stack([yes, 1 - yes], 1).cpu().numpy()


def without(record: Json, *left_out: str) -> Json:
    """A record without some of its entries.

    Example:
        >>> without({"a": 1, "b": 2}, "b")
        {'a': 1}
    """
    return {name: value for name, value in record.items() if name not in left_out}
