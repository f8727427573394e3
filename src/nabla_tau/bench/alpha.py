"""The paper's study of α₀ × ρ: ∇τ's published loop with an α₀ of one's choice."""

import time
from collections.abc import Iterator
from functools import partial

import torch

from nabla_tau.methods.nabla_tau_published import (
    LAST_LEARNING_RATE_FACTOR,
    LEARNING_RATE,
    REFRESH_EVERY,
    RETAIN_PASSES,
    WEIGHT_DECAY,
)
from nabla_tau.objective import PassMeans, descend
from nabla_tau.problem import Epoch, Problem

MOST_EPOCHS = 80
ALPHAS = (0.01, 0.05, 0.1, 0.25, 0.5)
FRACTIONS = (0.01, 0.05, 0.15, 0.3, 0.5)


def nabla_tau_with_alpha(problem: Problem, *, first_alpha: float) -> Iterator[Epoch]:
    """∇τ by the published recipe but for α₀; as in the study, in train mode and at most 80 epochs.

        E = max(1, min(int(6 n_r / (2 n_f)), 80)),    α = α₀ (1 − e/E) in epoch e

    Retain batches follow one another, pass after pass.

    Args:
        problem: the request; its model is changed.
        first_alpha: α₀, in (0, 1).

    Yields:
        An `Epoch` per pass over the forget set.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), robustness study.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(8), torch.arange(8) % 2
        >>> request = Request(torch.nn.Linear(8, 2), (x[:1], y[:1]), (x[1:6], y[1:6]), (x[6:], y[6:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     [round(epoch.alpha, 2) for epoch in nabla_tau_with_alpha(problem, first_alpha=0.3)]  # E = 3
        [0.3, 0.2, 0.1]
    """
    forget_batches = problem.forget.batches
    epochs = max(1, min(int(RETAIN_PASSES * problem.retain.batches / (2 * forget_batches)), MOST_EPOCHS))
    problem.settings.update(first_alpha=first_alpha, epochs=epochs, steps=epochs * forget_batches)
    problem.announce(epochs * forget_batches)
    optimizer = problem.adamw(LEARNING_RATE, WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, total_iters=epochs)
    forget_order, retain = problem.generator(0), problem.pass_after_pass(problem.retain, problem.generator(1))
    for epoch in range(epochs):
        started = time.perf_counter()
        if epoch % REFRESH_EVERY == 0:
            target_loss = problem.mean_loss(problem.validation)
        alpha, means = first_alpha * (1 - epoch / epochs), PassMeans()
        with problem.training():
            for batch in problem.one_pass(problem.forget, forget_order):
                means.add(descend(problem, optimizer, batch, next(retain), alpha=alpha, target_loss=target_loss))
        yield means.epoch(alpha, target_loss, time.perf_counter() - started)
        schedule.step()


STUDY = {f"alpha-{alpha:g}": partial(nabla_tau_with_alpha, first_alpha=alpha) for alpha in ALPHAS}
"""The columns of the grid, as methods."""
