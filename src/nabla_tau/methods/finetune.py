"""Finetune: go on with the retain set alone, and let what is no longer seen fade."""

import time
from collections.abc import Iterator

import torch

from nabla_tau.descent import descend_over, own_loss
from nabla_tau.facts import EPOCHS, LEARNING_RATE, RETAIN, WEIGHT_DECAY, Facts, described
from nabla_tau.problem import Epoch, Problem

LAST_LEARNING_RATE_FACTOR = 0.1


@described(
    Facts(
        reference="Trippa et al., ∇τ, arXiv:2403.14339 (2024), “Finetune”",
        needs=(RETAIN,),
        passes="6 × D_r",
        mode="eval",
        forgets="a little, by drifting: the forget set is never read",
        keeps="what a well-fitted model has no reason to move away from",
        settings={"epochs": EPOCHS, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
    )
)
def finetune(
    problem: Problem, *, epochs: int = 6, learning_rate: float = 1e-3, weight_decay: float = 1e-2
) -> Iterator[Epoch]:
    """Finetune: ∇τ's loop with α = 0 and twice its epochs, so about six passes over the retain set.

        θ ← θ − η ∇L_r(θ)

    AdamW, with a learning rate that falls linearly to a tenth; batch norm frozen, dropout off, as in that loop.

    Args:
        problem: the request; its model is changed.
        epochs: passes over the retain set.
        learning_rate: of the first pass, above 0.
        weight_decay: of AdamW.

    Yields:
        An `Epoch` per pass over the retain set.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), the baseline Finetune, and the authors' notebooks.

    Deviations:
        The notebooks count 2 · int(6 n_r / (2 n_f)) epochs of n_f steps, 6 n_r steps but for rounding and none where
        the formula gives 0; these are whole passes, and the learning rate falls pass by pass.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(finetune(problem, learning_rate=0.1))
        ...     epochs[-1].retain_loss < epochs[0].retain_loss, epochs[0].forget_loss  # never read
        (True, None)
    """
    problem.settings.update(
        epochs=epochs,
        steps=epochs * problem.retain.batches,
        optimizer="AdamW",
        learning_rate=learning_rate,
        last_learning_rate_factor=LAST_LEARNING_RATE_FACTOR,
        weight_decay=weight_decay,
        forget_passes=0,
        retain_passes=epochs,
    )
    problem.announce(epochs * problem.retain.batches)
    optimizer = problem.adamw(learning_rate, weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, total_iters=epochs)
    order = problem.generator(1)
    for _ in range(epochs):
        started = time.perf_counter()
        loss = descend_over(problem, problem.retain, order, optimizer, own_loss(problem))
        yield Epoch(retain_loss=loss, seconds=time.perf_counter() - started)
        schedule.step()
