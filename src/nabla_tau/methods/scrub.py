"""SCRUB: a student that disobeys its teacher on the forget set and obeys it on the retain set."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch
from nabla_tau.descent import descend_over
from nabla_tau.distillation import DISTRIBUTIONS, answers, divergence, frozen_copy, studied
from nabla_tau.facts import (
    LEARNING_RATE,
    MOMENTUM,
    RETAIN,
    SECOND_MODEL,
    WEIGHT_DECAY,
    Facts,
    Range,
    described,
)
from nabla_tau.problem import BatchLoss, Epoch, Problem

# After the third and after the fifth epoch the rate is a tenth of what it was.
MILESTONES, DECAY = (3, 5), 0.1

SETTINGS = {
    "epochs": Range(1, whole=True, search=(2, 10)),
    "max_epochs": Range(0, whole=True, search=(1, 5)),
    "learning_rate": LEARNING_RATE,
    "temperature": Range(0, above=True, search=(1, 8)),
    "distillation_weight": Range(0, search=(0.01, 1)),
    "clip": Range(0, above=True),
    "momentum": MOMENTUM,
    "weight_decay": WEIGHT_DECAY,
}


@described(
    Facts(
        reference="Kurmanji et al., SCRUB, arXiv:2302.09880 (2023), eq. 3",
        needs=(RETAIN, SECOND_MODEL),
        passes="3 × D_f, 6 × D_r; the teacher reads them too",
        mode="train",
        forgets="any rows; best whole classes",
        keeps="at published settings it hardly moves small sets; it can go past “unseen”",
        tasks=DISTRIBUTIONS,
        settings=SETTINGS,
        not_sharded="its teacher is whole",
    )
)
def scrub(
    problem: Problem,
    *,
    epochs: int = 6,
    max_epochs: int = 3,
    learning_rate: float = 5e-4,
    temperature: float = 4.0,
    distillation_weight: float = 0.5,
    clip: float = 0.2,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[Epoch]:
    """SCRUB: passes that push the student from its teacher on D_f, and passes that pull it back on D_r.

        min_θ  L_r(θ) + α/N_r Σ_r d(x; θ) − 1/N_f Σ_f d(x; θ),    d = T² · KL(p_teacher ‖ p_θ) at temperature T

    The teacher is the original, in eval mode. A pass over D_f on the last term comes first (max steps, in the first
    epochs alone), then one over D_r on the other two (min steps). SGD in train mode, gradients clipped to a norm, the
    learning rate a tenth after epochs 3 and 5.

    Args:
        problem: the request; its model is changed.
        epochs: passes over the retain set.
        max_epochs: how many of them a pass over the forget set precedes.
        learning_rate: of SGD, above 0.
        temperature: T > 0.
        distillation_weight: α ≥ 0.
        clip: largest norm of a gradient, above 0.
        momentum: of SGD, in [0, 1].
        weight_decay: of SGD.

    Yields:
        An `Epoch` per pass over the retain set.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Kurmanji, Triantafillou, Hayes, Triantafillou, Towards Unbounded Machine Unlearning, arXiv:2302.09880 (2023),
        equation 3 and its alternation of steps; T² as in Hinton et al., arXiv:1503.02531 (2015). Settings: those of the
        comparison in Trippa et al., ∇τ, arXiv:2403.14339 (2024); those of its authors for small sets are `scrub_small`.

    Deviations:
        Gradients are clipped, by norm: the comparison names the value, the paper no clipping. With labels that are no
        single class, KL is averaged over labels or tokens. The batch size is the request's.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(scrub(problem))
        ...     [epoch.forget_loss is not None for epoch in epochs]  # which passes over D_f precede
        [True, True, True, False, False, False]
    """
    problem.settings.update(
        optimizer="SGD", learning_rate=learning_rate, clip=clip, momentum=momentum, weight_decay=weight_decay
    )
    parameters = problem.trainable()
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum, weight_decay=weight_decay)

    def clip_gradients(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, clip)

    optimizer.register_step_pre_hook(clip_gradients)
    yield from alternating_passes(
        problem, optimizer, MILESTONES, epochs, max_epochs, temperature=temperature, weight=distillation_weight
    )


def alternating_passes(
    problem: Problem,
    optimizer: torch.optim.Optimizer,
    milestones: Sequence[int],
    epochs: int,
    max_epochs: int,
    *,
    temperature: float,
    weight: float,
) -> Iterator[Epoch]:
    """The passes of SCRUB, with an optimiser of the caller's, whose rate falls to a tenth after some epochs.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     sgd = torch.optim.SGD(problem.trainable(), lr=0.1)
        ...     epochs = list(alternating_passes(problem, sgd, (1,), 2, 1, temperature=4.0, weight=0.5))
        >>> round(sgd.param_groups[0]["lr"], 4), problem.settings["steps"]
        (0.01, 3)
    """
    max_epochs = min(max_epochs, epochs)
    steps = max_epochs * problem.forget.batches + epochs * problem.retain.batches
    problem.settings.update(
        epochs=epochs,
        max_epochs=max_epochs,
        steps=steps,
        learning_rate_factor=DECAY,
        learning_rate_milestones=list(milestones),
        temperature=temperature,
        distillation_weight=weight,
        teachers=1,
        forget_passes=max_epochs,
        retain_passes=epochs,
    )
    problem.announce(steps)
    teacher = frozen_copy(problem)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, DECAY)

    def away(batch: Batch | None) -> tuple[Tensor, BatchLoss]:
        apart, loss = compared(problem, teacher, batch, temperature)
        return -apart.local, loss

    def back(batch: Batch | None) -> tuple[Tensor, BatchLoss]:
        apart, loss = compared(problem, teacher, batch, temperature)
        return loss.local + weight * apart.local, loss

    forget_order, retain_order = problem.generator(0), problem.generator(1)
    for epoch in range(epochs):
        started = time.perf_counter()
        forget_loss = None
        with problem.training():
            if epoch < max_epochs:
                forget_loss = descend_over(problem, problem.forget, forget_order, optimizer, away)
            retain_loss = descend_over(problem, problem.retain, retain_order, optimizer, back)
        yield Epoch(forget_loss=forget_loss, retain_loss=retain_loss, seconds=time.perf_counter() - started)
        schedule.step()


def compared(
    problem: Problem, teacher: nn.Module, batch: Batch | None, temperature: float
) -> tuple[BatchLoss, BatchLoss]:
    """Means over a global batch of the student's divergence from its teacher, and of its loss: one forward pass each.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     apart, loss = compared(problem, frozen_copy(problem), (x[:2], y[:2]), temperature=4.0)
        >>> abs(float(apart.value)) < 1e-6, loss.size  # a student that is still its teacher
        (True, 2)
    """
    if batch is None:
        nothing = torch.zeros(0, device=problem.engine.device)
        return problem.mean(nothing), problem.mean(nothing)
    batch, logits, losses = studied(problem, batch)
    apart = divergence(problem.loss, batch, logits, answers(problem, teacher, batch), temperature)
    return problem.mean(apart), problem.mean(losses)
