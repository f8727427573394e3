"""∇τ with one rule for every domain and every share of the data: the default."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from nabla_tau.batches import Batch
from nabla_tau.objective import PassMeans, descend
from nabla_tau.problem import Epoch, Problem

# The published rule for α, inside the range of forget fractions that it was published for.
ALPHA_PER_FORGET_FRACTION = 5 / 3
PUBLISHED_FORGET_FRACTIONS = (0.03, 0.30)

# Length: the published three passes' worth of the larger set, with the cap of the paper's study of α and ρ, and no
# fewer steps than AdamW needs to get anywhere.
PASSES = 3
MOST_EPOCHS = 80
LEAST_STEPS = 160

# The target is measured every fifth epoch as published, but no more often than over 80 epochs.
REFRESH_EVERY = 5
MOST_REFRESHES = 16
WEIGHT_DECAY = 1e-2
LAST_LEARNING_RATE_FACTOR = 0.1

# The published learning rate, or the first lower one that the model survives.
LEARNING_RATES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
TRIAL_STEPS = 20
JUDGED_STEPS = 5


@dataclass(frozen=True)
class Settings:
    """What follows from the sizes of the sets: ρ, α₀, E, E · n_f, and how often τ is measured."""

    forget_fraction: float
    first_alpha: float
    epochs: int
    steps: int
    refresh_target_every: int
    target_refreshes: int


def derive(problem: Problem) -> Settings:
    """Settings from the sizes of the sets.

        α₀ = 5/3 · ρ, with ρ held within [0.03, 0.30],    E = ⌈max(min(3 max(n_r, n_f), 80 n_f), 160) / n_f⌉

    ρ = |D_f| / (|D_f| + |D_r|); n_f and n_r are batches.

    Args:
        problem: the request, of which only the sizes of forget and retain set are read.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), for 5/3 · ρ and the three passes; the bounds are ours.

    Example:
        >>> from types import SimpleNamespace as Sizes
        >>> problem = Sizes(forget=Sizes(size=7500, batches=30), retain=Sizes(size=42500, batches=167))  # 15 %
        >>> settings = derive(problem)
        >>> settings.first_alpha, settings.epochs, settings.steps
        (0.25, 17, 510)
    """
    forget, retain = problem.forget, problem.retain
    forget_fraction = forget.size / (forget.size + retain.size)
    low, high = PUBLISHED_FORGET_FRACTIONS
    first_alpha = ALPHA_PER_FORGET_FRACTION * min(max(forget_fraction, low), high)
    published = min(PASSES * max(retain.batches, forget.batches), MOST_EPOCHS * forget.batches)
    epochs = math.ceil(max(published, LEAST_STEPS) / forget.batches)
    every = max(REFRESH_EVERY, math.ceil(epochs / MOST_REFRESHES))
    return Settings(
        forget_fraction=forget_fraction,
        first_alpha=first_alpha,
        epochs=epochs,
        steps=epochs * forget.batches,
        refresh_target_every=every,
        target_refreshes=math.ceil(epochs / every),
    )


def nabla_tau(problem: Problem) -> Iterator[Epoch]:
    """∇τ without hyperparameters, for any domain and any share of the data.

    The objective of the paper under one rule. With ρ = |D_f| / (|D_f| + |D_r|) and n_f, n_r batches:

        α₀ = 5/3 · ρ, with ρ held within the published [0.03, 0.30];   α = α₀ · (1 − e/E) in epoch e
        E = ⌈max(min(3 max(n_r, n_f), 80 n_f), 160) / n_f⌉ passes over the forget set

    AdamW with weight decay 1e-2 and a learning rate that falls linearly to a tenth; retain batches follow one another,
    pass after pass; τ is measured before every fifth epoch, at most 16 times; batch norm frozen, dropout off.
    It stops early once no step between two measurements of τ had anything to push.

    The learning rate is the published 1e-3 or the first of 3e-4, 1e-4, 3e-5, 1e-5 that suits the model: 20 trial steps,
    undone afterwards, must leave the retain loss nearer to where it was than to τ (a higher rate breaks the model) and
    the forget loss below τ (a higher rate rushes past it).

    Inside the published range this is the published recipe up to the learning rate's trial, the retain order and, for
    small sets, more passes; outside it the published formulas push almost nothing (one row) or break down (ρ ≥ ½).

    Args:
        problem: the request; its model is changed.

    Yields:
        An `Epoch` per pass over the forget set.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), for objective, α₀ and optimiser; the bounds and the trial are ours.

    Example:
        >>> import torch, nabla_tau
        >>> x, y = 200 * torch.eye(100), torch.arange(100) % 2  # every row has a feature of its own: pure memory
        >>> model = torch.nn.Linear(100, 2, bias=False)
        >>> weights = 0.02 * torch.nn.functional.one_hot(y, 2).T * (torch.arange(100) < 80)
        >>> _ = model.load_state_dict({"weight": weights})
        >>> unlearned = nabla_tau.unlearn(
        ...     model, forget=(x[:8], y[:8]), retain=(x[8:80], y[8:80]), validation=(x[80:], y[80:]), device="cpu"
        ... )
        >>> unlearned.reached_target, unlearned.settings["epochs"], round(unlearned.settings["first_alpha"], 3)
        (True, 160, 0.167)
    """
    settings = derive(problem)
    problem.settings.update(
        vars(settings),
        optimizer="AdamW",
        weight_decay=WEIGHT_DECAY,
        last_learning_rate_factor=LAST_LEARNING_RATE_FACTOR,
    )
    problem.announce(settings.steps)
    learning_rate = settle_learning_rate(problem, settings)
    optimizer = problem.adamw(learning_rate, WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, settings.epochs)
    forget_order, retain = problem.generator(0), retain_batches(problem)
    at_rest = False  # whether no step since τ was last measured had anything to push
    for epoch in range(settings.epochs):
        started = time.perf_counter()
        if epoch % settings.refresh_target_every == 0:
            if at_rest:
                break
            at_rest = True
            target_loss = problem.mean_loss(problem.validation)
        alpha = settings.first_alpha * (1 - epoch / settings.epochs)
        means = PassMeans()
        for forget_batch in problem.one_pass(problem.forget, forget_order):
            means.add(descend(problem, optimizer, forget_batch, next(retain), alpha=alpha, target_loss=target_loss))
        done = means.epoch(alpha, target_loss, time.perf_counter() - started)
        yield done
        at_rest = at_rest and done.ascent_weight == 0
        schedule.step()


def settle_learning_rate(problem: Problem, settings: Settings) -> float:
    """The first learning rate of the list that neither breaks the model nor rushes past the target.

    A few steps from the original weights, undone afterwards. Their last ones must find the retain loss below the middle
    between what it was and what unseen data costs, and the forget loss still below its target. The lowest rate is taken
    untried.

    Args:
        problem: the request; its settings take the rate and what each trial found.
        settings: from `derive`.

    Returns:
        One of 1e-3, 3e-4, 1e-4, 3e-5 and 1e-5.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = 200 * torch.eye(100), torch.arange(100) % 2  # every row has a feature of its own: pure memory
        >>> model = torch.nn.Linear(100, 2, bias=False)
        >>> weights = 0.02 * torch.nn.functional.one_hot(y, 2).T * (torch.arange(100) < 80)
        >>> _ = model.load_state_dict({"weight": weights})
        >>> request = Request(model, (x[:8], y[:8]), (x[8:80], y[8:80]), (x[80:], y[80:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     settle_learning_rate(problem, derive(problem))  # 1e-3 rushes past the target
        0.0003
    """
    target_loss = problem.mean_loss(problem.validation)
    trials: dict[str, dict[str, float]] = {}
    chosen = LEARNING_RATES[-1]
    for rate in LEARNING_RATES[:-1]:
        trial = _trial(problem, settings, rate, target_loss)
        trials[f"{rate:g}"] = vars(trial)
        kept = trial.retain_loss <= max((trial.retain_loss_before + target_loss) / 2, trial.retain_loss_before)
        if kept and trial.forget_loss < target_loss:
            chosen = rate
            break
    problem.settings.update(learning_rate=chosen, learning_rate_trials=trials)
    return chosen


def forget_batches(problem: Problem) -> Iterator[Batch | None]:
    """Forget batches without end, pass after pass, in an order of their own.

    Yields:
        This process's share of the next batch; None where it has no part in it.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(8), torch.arange(8) % 2
        >>> sets = (x[:3], y[:3]), (x[3:6], y[3:6]), (x[6:], y[6:])  # three rows to forget, two a batch
        >>> with Request(torch.nn.Linear(8, 2), *sets, batch_size=2, device="cpu").prepared() as problem:
        ...     [len(targets) for _, targets in islice(forget_batches(problem), 5)]
        [2, 1, 2, 1, 2]
    """
    order = problem.generator(2)
    while True:
        yield from problem.one_pass(problem.forget, order)


def retain_batches(problem: Problem) -> Iterator[Batch | None]:
    """Retain batches without end, pass after pass.

    Yields:
        This process's share of the next batch; None where it has no part in it.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(8), torch.arange(8) % 2
        >>> sets = (x[:2], y[:2]), (x[2:6], y[2:6]), (x[6:], y[6:])  # four rows to keep, three a batch
        >>> with Request(torch.nn.Linear(8, 2), *sets, batch_size=3, device="cpu").prepared() as problem:
        ...     [len(targets) for _, targets in islice(retain_batches(problem), 5)]
        [3, 1, 3, 1, 3]
    """
    order = problem.generator(1)
    while True:
        yield from problem.one_pass(problem.retain, order)


@dataclass(frozen=True)
class Trial:
    """Losses of a trial: before its first step, and means over its last ones."""

    retain_loss_before: float
    retain_loss: float
    forget_loss: float


def _trial(problem: Problem, settings: Settings, rate: float, target_loss: float) -> Trial:
    optimizer = problem.adamw(rate, WEIGHT_DECAY)
    retain = retain_batches(problem)
    with problem.undone():
        steps = [
            descend(problem, optimizer, batch, next(retain), alpha=settings.first_alpha, target_loss=target_loss)
            for batch in islice(forget_batches(problem), TRIAL_STEPS)
        ]
    retain_losses = [float(step.retain_loss) for step in steps]
    forget_losses = [step.forget_loss for step in steps[-JUDGED_STEPS:]]
    return Trial(
        retain_loss_before=retain_losses[0],
        retain_loss=sum(retain_losses[-JUDGED_STEPS:]) / JUDGED_STEPS,
        forget_loss=sum(forget_losses) / JUDGED_STEPS,
    )
