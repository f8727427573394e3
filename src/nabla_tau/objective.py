"""The objective of ∇τ and one step of it.

    L(θ) = α · ReLU(τ − L_f(θ))² + (1 − α) · L_r(θ)

    ∇L   = −w · ∇L_f + (1 − α) · ∇L_r,        w = 2α · ReLU(τ − L_f)

Trippa, Campagnano, Bucarelli, Tolomei, Silvestri: ∇τ, arXiv:2403.14339 (2024).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nabla_tau.batches import Batch
from nabla_tau.problem import BatchLoss, Epoch, Problem, finite

WeightOf = Callable[[BatchLoss], float]
"""Mean loss of a forget batch -> w."""


@dataclass(frozen=True)
class Step:
    """What one step did: losses of its two global batches before it, their sizes, and w."""

    forget_loss: float
    retain_loss: Tensor
    forget_size: int
    retain_size: int
    ascent_weight: float


def ascent_weight(forget_loss: float, target_loss: float, alpha: float, unit: float = 1.0) -> float:
    """What ∇L_f is multiplied by: w = 2α · ReLU(τ − L_f) / u.

    Large while the forget set is remembered, 0 as soon as it costs what unseen data costs. It needs the value of the
    global mean alone, so that processes and micro-batches agree on it by one reduced number.

    Args:
        forget_loss: mean loss L_f of the forget batch.
        target_loss: target loss τ.
        alpha: forget weight α in [0, 1].
        unit: u, what a difference of losses is measured in; 1 as published.

    Returns:
        w ≥ 0.

    Reference:
        The gradient of the objective of Trippa et al., ∇τ, arXiv:2403.14339 (2024); the unit is ours.

    Example:
        >>> ascent_weight(forget_loss=0.5, target_loss=2.0, alpha=0.25)
        0.75
        >>> ascent_weight(forget_loss=2.5, target_loss=2.0, alpha=0.25)
        0.0
    """
    return 2 * alpha * max(target_loss - forget_loss, 0.0) / unit


@dataclass
class RunningMean:
    """Mean loss of a set as its batches tell, the last one with share β: L̄ ← L̄ + β (L − L̄).

    Batches scatter about the mean of their set. A push that looks at each by itself answers those below the target and
    never those above, and drives the set past it, the further the longer the run.

    Attributes:
        value: L̄.
        share: β in (0, 1]; 1 is the last batch alone.

    Example:
        >>> mean = RunningMean(1.0, share=0.25)
        >>> mean.add(3.0)
        >>> mean.value
        1.5
    """

    value: float
    share: float

    def after(self, loss: float) -> float:
        """L̄ once this loss is added."""
        return self.value + self.share * (loss - self.value)

    def add(self, loss: float) -> None:
        """Take one batch in."""
        self.value = self.after(loss)


def descend(
    problem: Problem,
    optimizer: torch.optim.Optimizer,
    forget_batch: Batch | None,
    retain_batch: Batch | None,
    *,
    alpha: float,
    target_loss: float,
    largest_weight: float = math.inf,
    retain_weight: float | None = None,
    unit: float = 1.0,
    running: RunningMean | None = None,
    around_retain: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Step:
    """One step of ∇τ on a pair of batches: the optimiser is given ∇L = −w · ∇L_f + (1 − α) · ∇L_r.

    Where w is 0, the forget batch costs no backward pass; in micro-batches, from the second such step on. A bound on w
    makes the square of the objective linear from there on, as in Huber's loss: far from the target the pull no longer
    grows.

    Args:
        problem: model, loss and processes.
        optimizer: over the model's trainable parameters.
        forget_batch: this process's share of the forget batch.
        retain_batch: this process's share of the retain batch.
        alpha: forget weight α.
        target_loss: target loss τ, a constant of the gradient.
        largest_weight: bound on w; none as published.
        retain_weight: what ∇L_r is multiplied by; 1 − α as published.
        unit: u of w.
        running: what w is taken from in place of this batch alone; the batch is added to it.
        around_retain: entered around the passes over the retain batch.

    Returns:
        Losses and sizes of both global batches, and w, all before the step.

    Raises:
        NonFiniteLoss: if L_f is not finite.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024).

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> forget, retain, validation = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> with Request(model, forget, retain, validation, device="cpu").prepared() as problem:
        ...     sgd = torch.optim.SGD(problem.trainable(), lr=0.1)
        ...     step = descend(problem, sgd, forget, retain, alpha=0.5, target_loss=9.0)
        ...     problem.mean_loss(problem.forget) > step.forget_loss
        True
    """

    def weight_of(forget: BatchLoss) -> float:
        forget_loss = finite(float(forget.value), "a forget batch")
        forget_loss = forget_loss if running is None else running.after(forget_loss)
        return min(ascent_weight(forget_loss, target_loss, alpha, unit), largest_weight)

    ascend = _ascend if problem.micro_batch_size is None else _ascend_in_parts
    made = False
    while not made:  # a step that overflows in fp16 is made again: nothing counts it
        forget, weight = ascend(problem, forget_batch, weight_of)
        with around_retain():
            retain = problem.accumulate(retain_batch, 1 - alpha if retain_weight is None else retain_weight)
        made = problem.update(optimizer)
    if running is not None:
        running.add(float(forget.value))
    return Step(float(forget.value), retain.value, forget.size, retain.size, weight)


def _ascend(problem: Problem, batch: Batch | None, weight_of: WeightOf) -> tuple[BatchLoss, float]:
    """Add −w · ∇L_f: one forward pass gives w, and its graph the gradient."""
    forget = problem.batch_loss(batch, problem.largest_loss)
    if (weight := weight_of(forget)) > 0:
        problem.backward(-weight * forget.local)
    return replace(forget, local=forget.local.detach()), weight  # without its graph, before the next one is built


def _ascend_in_parts(problem: Problem, batch: Batch | None, weight_of: WeightOf) -> tuple[BatchLoss, float]:
    """Add −w · ∇L_f: w is known only after the last micro-batch, so ∇L_f is accumulated as it is, then scaled.

    Where the step before needed no push, the batch is first looked at without gradients: another such step costs no
    backward pass. The look decides on nothing but that, so that its cost is all that depends on the step before.
    """
    if problem.resting:
        with torch.no_grad():
            seen = problem.batch_loss(batch, problem.largest_loss)
        if weight_of(seen) == 0:
            return seen, 0.0
    forget = problem.accumulate(batch, largest=problem.largest_loss)
    weight = weight_of(forget)
    problem.scale_gradients(-weight)
    problem.resting = weight == 0
    return forget, weight


@dataclass
class PassMeans:
    """Running means over the steps b of one pass, samples weighted alike: L = Σ_b n_b L_b / Σ_b n_b.

    Attributes:
        forget: Σ n_b L_f of the forget batches.
        forget_size: their samples Σ n_b.
        retain: n_b L_r of each retain batch, on its device.
        retain_size: their samples Σ n_b.
        weight: Σ w.
        steps: number of steps.

    Example:
        >>> means = PassMeans()
        >>> for loss, size in ((1.0, 3), (2.0, 1)):
        ...     means.add(Step(loss, torch.tensor(loss), size, size, ascent_weight=0.5))
        >>> means.epoch(alpha=0.1, target_loss=2.0, seconds=0.2).forget_loss
        1.25
    """

    forget: float = 0.0
    forget_size: int = 0
    retain: list[Tensor] = field(default_factory=list)
    retain_size: int = 0
    weight: float = 0.0
    steps: int = 0

    def add(self, step: Step) -> None:
        """Take one step in; its retain loss stays on its device, so that nothing waits for it here."""
        self.forget += step.forget_loss * step.forget_size
        self.forget_size += step.forget_size
        self.retain.append(step.retain_loss * step.retain_size)
        self.retain_size += step.retain_size
        self.weight += step.ascent_weight
        self.steps += 1

    def epoch(self, alpha: float, target_loss: float, seconds: float) -> Epoch:
        """The pass as it is reported.

        Raises:
            NonFiniteLoss: if the retain loss is not finite.
        """
        retain_loss = float(torch.stack(self.retain).sum()) / max(self.retain_size, 1)
        return Epoch(
            alpha=alpha,
            target_loss=target_loss,
            forget_loss=self.forget / max(self.forget_size, 1),
            retain_loss=finite(retain_loss, "the retain batches of a pass"),
            ascent_weight=self.weight / self.steps,
            seconds=seconds,
        )
