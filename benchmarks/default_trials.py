"""Trials towards the default method: what a change to its objective buys. See docs/design/default-method.md.

    NABLA_TAU_DATA=DIR python benchmarks/default_trials.py location30 random-0.15 --seeds 0 1 --models MODELS

Classification tasks of the benchmark at `quick`; models are trained once into MODELS. Prints a row for each variant:
the components of the gap to retrained, in points, as means over seeds, and the gap.
"""

import argparse
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch, target_of
from nabla_tau.bench.cells import ORIGINAL, RETRAINED, Bench, Cell
from nabla_tau.bench.gap import COMPONENTS, gap, values
from nabla_tau.bench.slices import ForgetSet, Setting
from nabla_tau.errors import UnlearningWarning
from nabla_tau.methods.nabla_tau import (
    LARGEST_RISE,
    LAST_LEARNING_RATE_FACTOR,
    WEIGHT_DECAY,
    derive,
    nabla_tau,
    retain_batches,
    settle_learning_rate,
)
from nabla_tau.problem import Epoch, Problem

Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """∇τ with targets by sample: mean over a batch of ReLU(τ_i − ℓ_i)², τ_i a quantile of the validation losses.

    Attributes:
        by_sample: whether targets are quantiles at the ranks in the batch; else each is the mean.
        entropies: whether entropies are matched in the same way.
        stops_at_mean: no push where the mean of the batch is that of its targets.
        last_alpha: α falls from α₀ to this times α₀.
        rate: learning rate; None for the default's trial.
        price: for a class that is removed, targets are −log p(c | x) over validation rows of other classes.
        two_sided: whether what went past its target is pulled back.
    """

    by_sample: bool = True
    entropies: bool = True
    stops_at_mean: bool = True
    last_alpha: float = 0.0
    rate: float | None = None
    price: bool = False
    two_sided: bool = False

    def __call__(self, problem: Problem) -> Iterator[Epoch]:
        """As `methods.nabla_tau`, but for what the attributes say; it never stops early."""
        settings = derive(problem)
        problem.announce(settings.steps)
        first = self.unseen(problem)
        trial, _ = settle_learning_rate(problem, problem.mean_loss(problem.validation))
        optimizer = problem.adamw(self.rate or trial, WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, settings.epochs)
        order, retain = problem.generator(0), retain_batches(problem)
        for epoch in range(settings.epochs):
            if epoch % settings.refresh_target_every == 0:
                unseen = self.unseen(problem)
                unseen[:, 0] *= min(1.0, LARGEST_RISE * float(first[:, 0].mean()) / float(unseen[:, 0].mean()))
            alpha = settings.first_alpha * (1 - (1 - self.last_alpha) * epoch / settings.epochs)
            pushed = 0.0
            for batch in problem.one_pass(problem.forget, order):
                columns = self.columns(*_answers(problem, batch))
                weights = self.push(columns.detach(), unseen, alpha)
                pushed += float(weights.abs().mean())
                problem.backward(-(weights * columns).sum() / len(columns))
                problem.backward((1 - alpha) * problem.batch_loss(next(retain)).local)
                problem.update(optimizer)
            yield Epoch(alpha=alpha, target_loss=float(unseen[:, 0].mean()), ascent_weight=pushed, seconds=0.0)
            schedule.step()

    def columns(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses and, where they count, entropies: shape (n, 1 or 2)."""
        log_shares = logits.log_softmax(1)
        losses = -log_shares.gather(1, targets.long()[:, None])
        if not self.entropies:
            return losses
        return torch.cat([losses, -(log_shares.exp() * log_shares).sum(1, keepdim=True)], 1)

    def unseen(self, problem: Problem) -> Tensor:
        """The columns of the validation set under the current model."""
        with torch.no_grad():
            answers = [_answers(problem, batch) for batch in problem.in_order(problem.validation)]
        logits, targets = (torch.cat(parts) for parts in zip(*answers, strict=True))
        if self.price:
            removed = target_of(next(iter(problem.in_order(problem.forget))))[0]
            logits, targets = logits[targets != removed], targets[targets != removed]
            targets = torch.full_like(targets, int(removed))
        return self.columns(logits, targets)

    def push(self, ours: Tensor, unseen: Tensor, alpha: float) -> Tensor:
        """What each gradient is multiplied by, shape of `ours`."""
        weights = torch.zeros_like(ours)
        for column in range(ours.shape[1]):
            own, theirs = ours[:, column], unseen[:, column]
            targets = at_ranks(theirs, own) if self.by_sample else theirs.mean().expand_as(own)
            if self.stops_at_mean and own.mean() >= targets.mean() and not self.two_sided:
                continue
            below = targets - own if self.by_sample else (targets - own.mean()).expand_as(own)
            low = alpha - 1 if self.two_sided else 0.0
            weights[:, column] = (2 * alpha * below).clamp(low, 1 - alpha)
        return weights


def at_ranks(reference: Tensor, ours: Tensor) -> Tensor:
    """The quantiles of one sample at the ranks of another, (rank + ½) / n."""
    shares = torch.empty(len(ours), dtype=reference.dtype)
    shares[ours.argsort(stable=True)] = (torch.arange(len(ours), dtype=reference.dtype) + 0.5) / len(ours)
    return torch.quantile(reference, shares)


def _answers(problem: Problem, batch: Batch | None) -> tuple[Tensor, Tensor]:
    return problem.logits(batch), target_of(batch)


VARIANTS: dict[str, Callable[[Problem], Iterator[Epoch]]] = {
    "default": nabla_tau,
    "mean, for comparison": Variant(by_sample=False, entropies=False),
    "quantiles": Variant(entropies=False, stops_at_mean=False),
    "quantiles, entropies": Variant(stops_at_mean=False),
    "…, stop at the mean": Variant(),
    "…, α to α₀/2": Variant(last_alpha=0.5),
    "…, α constant": Variant(last_alpha=1.0),
    "…, rate 3e-3": Variant(rate=3e-3),
    "…, two-sided": Variant(two_sided=True),
}
PRICED: dict[str, Callable[[Problem], Iterator[Epoch]]] = {
    "…, price of the class": Variant(price=True),
    "…, price without entropies": Variant(price=True, entropies=False),
    "…, price, two-sided": Variant(price=True, entropies=False, two_sided=True),
}


def measured(request: ForgetSet, model: nn.Module, name: str) -> Row:
    return {
        "cell": {"method": name},
        "audit": request.audited(model),
        "js_to_retrained": request.divergence(model, name),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("task")
    arguments.add_argument("forget")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--models", type=Path, required=True)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnlearningWarning)
    bench = Bench(options.models, torch.device("cpu"), Path(os.environ["NABLA_TAU_DATA"]))
    variants = {**VARIANTS, **PRICED} if options.forget == "class" else VARIANTS
    rows: dict[str, list[tuple[dict[str, float], float]]] = {}
    for seed in options.seeds:
        request = ForgetSet(Setting(Cell("quick", options.task, seed, options.forget, ORIGINAL), bench), options.forget)
        references = [measured(request, request.retrained[name].model, name) for name in RETRAINED]
        records = [(ORIGINAL, measured(request, request.setting.original.model, ORIGINAL))]
        records += [("retrained", reference) for reference in references]
        records += [(name, measured(request, request.unlearn(one, None)[0], name)) for name, one in variants.items()]
        for name, record in records:
            rows.setdefault(name, []).append((values(record), gap(record, references)))
    names = [component.name for component in COMPONENTS]
    print("| variant | " + " | ".join([*names, "gap"]) + " |\n" + "| --- " * (len(names) + 2) + "|")
    for variant, found in rows.items():
        cells = [f"{fmean(one[name] for one, _ in found):.1f}" for name in names]
        print(f"| {variant} | " + " | ".join([*cells, f"{fmean(distance for _, distance in found):.1f}"]) + " |")


if __name__ == "__main__":
    main()
