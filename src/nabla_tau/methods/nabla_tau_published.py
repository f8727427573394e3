"""∇τ by the published image recipe, frozen: it never changes again, so that results stay comparable."""

import time
from collections.abc import Iterator

import torch

from nabla_tau.errors import NotApplicable
from nabla_tau.facts import RETAIN, VALIDATION, Facts, described
from nabla_tau.objective import PassMeans, descend
from nabla_tau.problem import Epoch, Problem

# The recipe of the authors' notebooks for CIFAR-10 and CIFAR-100 (dnl-trpp/Nabla-Tau, 1012093).
ALPHA_PER_FORGET_FRACTION = 5 / 3
RETAIN_PASSES = 6
REFRESH_EVERY = 5
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
LAST_LEARNING_RATE_FACTOR = 0.1


@described(
    Facts(
        reference="Trippa et al., ∇τ, arXiv:2403.14339 (2024), the image recipe of the authors' notebooks",
        needs=(RETAIN, VALIDATION),
        passes="E × D_f and as many batches of D_r, D_v every fifth; E = int(6 n_r / (2 n_f))",
        mode="eval",
        forgets="any rows, as far as the mean loss of unseen data",
        keeps="single rows (α is too small), and sets beyond what its formulas allow",
        accumulates=True,
    )
)
def nabla_tau_published(problem: Problem) -> Iterator[Epoch]:
    """∇τ exactly as its image recipe was published.

    With n_f, n_r batches and ρ = |D_f| / (|D_f| + |D_r|):

        α₀ = 5/3 · ρ,   E = int(6 n_r / (2 n_f)),   α ← α − α₀/E after every epoch,

    τ measured before epochs 0, 5, 10, …; AdamW, lr 1e-3 falling linearly to a tenth over E epochs, weight decay 1e-2;
    each forget batch paired with the next retain batch; a new retain pass every ⌊n_r/n_f⌋ epochs; batch norm frozen
    and dropout off.

    Args:
        problem: the request; its model is changed.

    Yields:
        An `Epoch` per pass over the forget set.

    Raises:
        ValueError: if the formulas have no answer: n_f > n_r, or E = 0.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), and the authors' notebooks.

    Example:
        >>> import torch, nabla_tau
        >>> x, y = 128 * torch.eye(100), torch.arange(100) % 2  # every row has a feature of its own: pure memory
        >>> model = torch.nn.Linear(100, 2, bias=False)
        >>> weights = torch.nn.functional.one_hot(y, 2).T * (torch.arange(100) < 80) / 32
        >>> _ = model.load_state_dict({"weight": weights})
        >>> unlearned = nabla_tau.unlearn(
        ...     model, forget=(x[:8], y[:8]), retain=(x[8:80], y[8:80]), validation=(x[80:], y[80:]), batch_size=8,
        ...     method=nabla_tau.methods.nabla_tau_published, device="cpu"
        ... )
        >>> unlearned.settings["epochs"], round(unlearned.settings["first_alpha"], 3)
        (27, 0.167)
    """
    forget_batches, retain_batches = problem.forget.batches, problem.retain.batches
    epochs = int(RETAIN_PASSES * retain_batches / (2 * forget_batches))
    if forget_batches > retain_batches or epochs == 0:
        raise NotApplicable(
            f"Expected no more forget than retain batches, got {forget_batches} and {retain_batches}: the published "
            "recipe has no answer there; method=methods.nabla_tau has."
        )
    forget_fraction = problem.forget.size / (problem.forget.size + problem.retain.size)
    first_alpha = alpha = ALPHA_PER_FORGET_FRACTION * forget_fraction
    restart_every = retain_batches // forget_batches
    problem.settings.update(
        forget_fraction=forget_fraction,
        first_alpha=first_alpha,
        epochs=epochs,
        steps=epochs * forget_batches,
        optimizer="AdamW",
        learning_rate=LEARNING_RATE,
        last_learning_rate_factor=LAST_LEARNING_RATE_FACTOR,
        weight_decay=WEIGHT_DECAY,
        refresh_target_every=REFRESH_EVERY,
        target_refreshes=-(-epochs // REFRESH_EVERY),
        restart_retain_every=restart_every,
    )
    problem.announce(epochs * forget_batches)
    optimizer = problem.adamw(LEARNING_RATE, WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, total_iters=epochs)
    forget_order, retain_order = problem.generator(0), problem.generator(1)
    for epoch in range(epochs):
        started = time.perf_counter()
        if epoch % REFRESH_EVERY == 0:
            target_loss = problem.mean_loss(problem.validation)
        if epoch % restart_every == 0:
            retain = problem.one_pass(problem.retain, retain_order)
        means = PassMeans()
        for forget_batch in problem.one_pass(problem.forget, forget_order):
            step = descend(problem, optimizer, forget_batch, next(retain), alpha=alpha, target_loss=target_loss)
            means.add(step)
        yield means.epoch(alpha, target_loss, time.perf_counter() - started)
        alpha -= first_alpha / epochs
        schedule.step()
