"""∇τ with one rule for every domain and every share of the data: the default."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from nabla_tau.batch_norm import changing_batch_norms, followed
from nabla_tau.course import LAST_LEARNING_RATE_FACTOR, Course, Repair
from nabla_tau.facts import RETAIN, VALIDATION, Facts, described
from nabla_tau.objective import PassMeans, RunningMean, Step, descend
from nabla_tau.problem import Epoch, Problem, counted
from nabla_tau.target import memorised, reached
from nabla_tau.trials import (
    LARGEST_CHANGE,
    LEARNING_RATES,
    TRIAL_STEPS,
    WEIGHT_DECAY,
    judged_loss,
    settle,
    shrink,
)

# The published rule for α, inside the range of forget fractions that it was published for.
ALPHA_PER_FORGET_FRACTION = 5 / 3
PUBLISHED_FORGET_FRACTIONS = (0.03, 0.30)

# Length: the published three passes' worth of the larger set, with the cap of the paper's study of α and ρ, and no
# fewer steps than AdamW needs to get anywhere.
PASSES = 3
MOST_EPOCHS = 80
LEAST_STEPS = 160

# After the plan the run goes on while the retain set is not back: while the batches that judge a trial cost more than
# they did, by a hundredth of what was memorised. They are looked at after as many steps as a trial has. Steps that
# bring nothing back end it, and so do twice the planned.
REPAIRED = 1 / 100

# The target is measured every fifth epoch as published, but no more often than over 80 epochs.
REFRESH_EVERY = 5
MOST_REFRESHES = 16

# A loss counts up to one mean deviation above what unseen data costs the original: a mean is moved most easily by
# driving a few samples to absurd losses, and a model that is being damaged would raise its own target.
LARGEST_DEVIATION = 1
LEAST_DEVIATION = 0.25  # of that cost; where unseen losses are few or alike, every row would have to reach their mean

# Differences of losses are measured by a quarter of what the original memorised, so that the push of all but small
# requests is at its bound until most of the way is gone.
UNIT = 1 / 4

# Where the forget set is the larger, most of what the weights hold is its doing, and the plan passes over the retain
# set often enough to give back what that needs. There weights fade: to 1/e in two such passes at the first rate, where
# the retain set is small beside the forget set, and less as that becomes dearer, by a thirtieth of what was memorised.
# A model that does not come back from smaller weights, at a rate that is low for that, is left them.
FADING_PASSES = 2
HELD_UP = 1 / 30

# w follows the mean of about the last eight batches of either set, or of a pass over the forget set where that is
# shorter.
LAST_BATCH = 1 / 8


@dataclass(frozen=True)
class Settings:
    """What follows from the sizes of the sets.

    Attributes:
        forget_fraction: ρ.
        alpha: α.
        epochs: E, the passes that are planned.
        steps: of these, E · n_f.
        most_steps: where the run goes on after them, 2 E · n_f.
        refresh_target_every: passes from one measuring of τ to the next.
        target_refreshes: how often that is in E; as often again where the run goes on.
        look_every: passes from one look at the retain set to the next.
        fading: the share that a step at the first rate takes off the weights, besides weight decay; 0 in a model that
            does not come back from smaller weights.
    """

    forget_fraction: float
    alpha: float
    epochs: int
    steps: int
    most_steps: int
    refresh_target_every: int
    target_refreshes: int
    look_every: int
    fading: float


def derive(problem: Problem) -> Settings:
    """Settings from the sizes of the sets.

        α = 5/3 · ρ, with ρ held within [0.03, 0.30],    E = ⌈max(min(3 max(n_r, n_f), 80 n_f), 160) / n_f⌉
        fading = ½ ReLU(1 / n_r − 1 / n_f)

    ρ = |D_f| / (|D_f| + |D_r|); n_f and n_r are batches.

    Args:
        problem: the request, of which only the sizes of forget and retain set are read.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), for 5/3 · ρ and the three passes; the bounds are ours.

    Example:
        >>> from types import SimpleNamespace as Sizes
        >>> problem = Sizes(forget=Sizes(size=7500, batches=30), retain=Sizes(size=42500, batches=167))  # 15 %
        >>> settings = derive(problem)
        >>> settings.alpha, settings.epochs, settings.steps
        (0.25, 17, 510)
    """
    forget, retain = problem.forget, problem.retain
    forget_fraction = forget.size / (forget.size + retain.size)
    low, high = PUBLISHED_FORGET_FRACTIONS
    published = min(PASSES * max(retain.batches, forget.batches), MOST_EPOCHS * forget.batches)
    epochs = math.ceil(max(published, LEAST_STEPS) / forget.batches)
    every = max(REFRESH_EVERY, math.ceil(epochs / MOST_REFRESHES))
    return Settings(
        forget_fraction=forget_fraction,
        alpha=ALPHA_PER_FORGET_FRACTION * min(max(forget_fraction, low), high),
        epochs=epochs,
        steps=epochs * forget.batches,
        most_steps=2 * epochs * forget.batches,
        refresh_target_every=every,
        target_refreshes=math.ceil(epochs / every),
        look_every=math.ceil(TRIAL_STEPS / forget.batches),
        fading=max(1 / retain.batches - 1 / forget.batches, 0.0) / FADING_PASSES,
    )


@dataclass(frozen=True)
class Bounds:
    """What the original's losses say before the first step.

    Attributes:
        largest: c, what a loss of a forget or an unseen row counts at most.
        forget_loss: what the forget set costs, so counted.
        unseen_loss: what unseen data costs, so counted, without any price.
        memory: m, what was memorised of the forget set.
        way: how far a removed label has to go to its price; 0 where there is none.
    """

    largest: float
    forget_loss: float
    unseen_loss: float
    memory: float
    way: float


def bounds_of(problem: Problem) -> Bounds:
    """Measure the original; its settings take what was found.

        c = T + max(mean |ℓ_v − T|, T / 4),    m = max(U − F, U / 10)

    with T what unseen data costs, its price included, ℓ_v the losses of unseen rows, U what they cost without any price
    and F what the forget set costs, both counted up to c.

    Args:
        problem: the request; its model is the original still.

    Raises:
        NonFiniteLoss: if a loss is NaN or infinite.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6, 1), 0.5)  # f(x) = x, so errors are x − ½
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     bounds = bounds_of(problem)  # unseen rows cost 12.25 and 20.25
        >>> bounds.largest, bounds.forget_loss, bounds.unseen_loss, bounds.memory
        (20.3125, 0.25, 16.25, 16.0)
    """
    with problem.standing_still():
        target_loss = problem.target_loss()
        deviation = problem.target_loss(lambda losses: (losses - target_loss).abs())
        largest = target_loss + LARGEST_DEVIATION * max(deviation, LEAST_DEVIATION * abs(target_loss))
        problem.largest_loss = largest
        bounded = partial(counted, largest=largest)
        forget_loss = problem.mean_loss(problem.forget, of=bounded)
        unseen_loss = problem.unseen_loss(bounded)
    memory = memorised(unseen_loss, forget_loss)
    problem.settings.update(largest_loss=largest, counted_forget_loss_before=forget_loss, loss_unit=UNIT * memory)
    way = target_loss - forget_loss if problem.priced else 0.0
    return Bounds(largest, forget_loss, unseen_loss, memory, way)


@described(
    Facts(
        reference="Trippa et al., ∇τ, arXiv:2403.14339 (2024); what bounds, smooths and tries is ours",
        needs=(RETAIN, VALIDATION),
        passes="E × D_f, 2E at most, and as many batches of D_r, up to 140 more in trials; D_v some 40 times, more "
        "where a plan may end soon; E follows from the sizes",
        mode="eval",
        forgets="any rows, as far as the mean loss of unseen data; whole classes and labels, as far as their price",
        keeps="rows that cost as much as unseen data from the start; groups inside a class; a single row goes too far",
        accumulates=True,
        prices=True,
    )
)
def nabla_tau(problem: Problem) -> Iterator[Epoch]:
    """∇τ without hyperparameters, for any domain and any share of the data.

        L(θ) = α · ReLU(τ − L_f)² / u + (1 − α) · L_r,    where the pull on L_f never outweighs 1 − α
        τ = what unseen data costs the current model; for a label that no retain row carries, that label's price
        it ends soon after L_f has come to τ and L_r is back at what it was, or after what the sizes of the sets allow

    The objective of the paper in the model's own units: u is a quarter of what it memorised of the forget set, and no
    loss counts beyond a bound, so that a mean is not met by a few absurd rows. The ascent is strong while the forget
    set is remembered, yields as the retain set becomes dearer, and is 0 where the forget set costs what unseen data
    costs. The descent gives back what the ascent takes from the retain set, at the highest rate that the model was
    seen to come back from, and what the retain set does not repeat fades with it. All else follows from the sizes of
    the sets.

    In full, with ρ = |D_f| / (|D_f| + |D_r|) and n_f, n_r batches:

        α = 5/3 · ρ, with ρ held within the published [0.03, 0.30]
        E = ⌈max(min(3 max(n_r, n_f), 80 n_f), 160) / n_f⌉ passes over the forget set, 2E while L_r > L_r⁰ + m/100;
            ⌈20 / n_f⌉ more once L_r ≤ L_r⁰ and L_f is 0.9 of its way to τ
        w = 2α · ReLU(τ − L̄_f) / u, at most (1 − α) · ReLU(1 − ReLU(L̄_r − L_r⁰) / m)
        1 − α, the weight of the descent, is 0 while L̄_r < L_r⁰ − m/3
        weights fade by ½ ReLU(1/n_r − 1/n_f) · ReLU(1 − 30 ReLU(L̄_r − L_r⁰) / m) a step at the first rate, if they were
            multiplied by 0.9 before the first step
        τ = what unseen data costs,    L̄ = the running mean of what batches cost;    of τ and L_f no loss counts above c
        c = what unseen data costs the original + the mean distance of its losses from that, a quarter of it at least
        m = what unseen data costs the original, without any price, − what the forget set costs it, a tenth of the
            former at least;    u = m / 4

    L_r⁰ is what five retain batches cost the original (where a loader has an order of its own: the forget set, if that
    costs more). L̄_f begins at what the forget set costs and takes the last batch with a share of max(⅛, 1/n_f), L̄_r
    begins at L_r⁰ and takes it with ⅛. Unseen data costs its mean loss over D_v; a label y that no row of D_r carries
    costs its price: the mean of ℓ(x, y) over rows x of D_v with other labels, −log p(y | x) for classes.

    Before the first step every weight that a gradient reaches is multiplied by 0.9 or 1. Then AdamW with weight decay
    1e-2 and a learning rate that falls to a tenth, linearly over the plan, and stays there. Trials choose the factor
    and the rate: the boldest from which the model comes back (`trials.settle`). Retain batches follow one another, pass
    after pass; the retain set is looked at every ⌈20 / n_f⌉ passes; τ is measured before every fifth epoch, at most 16
    times in E, and where the plan may be cut short. Eval mode, dropout off; the running statistics of batch norm become
    means over the retain batches of the plan (`batch_norm.followed`), if that alone does not make the retain set dearer
    by a tenth of what unseen data costs. The first pass with nothing left to push takes
    AdamW's momentum.

    Why each of these is as it is, and what it buys: docs/methods.md.

    Args:
        problem: the request; its model is changed.

    Yields:
        An `Epoch` per pass over the forget set.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), for objective, 5/3 · ρ and optimiser; bounds and trials are ours.
        A bounded w is Huber's loss in place of the square: Huber, Ann. Math. Statist. 35 (1964). A mean of losses that
        count up to a bound is winsorised: Tukey, Ann. Math. Statist. 33 (1962). Weights are shrunk before training
        goes on by Ash, Adams, On Warm-Starting Neural Network Training, arXiv:1910.08475 (2020).

    Example:
        >>> import torch, nabla_tau
        >>> x, y = 20 * torch.eye(100), torch.arange(100) % 2  # every row has a feature of its own: pure memory
        >>> model = torch.nn.Linear(100, 2, bias=False)
        >>> weights = 0.2 * torch.nn.functional.one_hot(y, 2).T * (torch.arange(100) < 80)
        >>> _ = model.load_state_dict({"weight": weights})
        >>> unlearned = nabla_tau.unlearn(
        ...     model, forget=(x[:8], y[:8]), retain=(x[8:80], y[8:80]), validation=(x[80:], y[80:]), device="cpu"
        ... )
        >>> unlearned.reached_target, unlearned.settings["epochs"], round(unlearned.settings["alpha"], 3)
        (True, 160, 0.167)
    """
    settings = derive(problem)
    alpha = settings.alpha
    problem.settings.update(
        vars(settings),
        optimizer="AdamW",
        weight_decay=WEIGHT_DECAY,
        last_learning_rate_factor=LAST_LEARNING_RATE_FACTOR,
        # each rate but the lowest, which is taken untried; smaller weights; with batch norm, no rate at all
        most_trial_steps=TRIAL_STEPS * (len(LEARNING_RATES) + bool(changing_batch_norms(problem.model))),
    )
    problem.announce(settings.steps)
    bounds = bounds_of(problem)
    bounded = partial(counted, largest=bounds.largest)
    forget_mean = RunningMean(bounds.forget_loss, share=max(LAST_BATCH, 1 / problem.forget.batches))
    problem.settings.update(last_batch=forget_mean.share)
    start = settle(problem, bounds.unseen_loss, way=bounds.way)
    usual = start.retain_loss
    if problem.retain.fetch is None:  # an order of its own may come to its dear rows late; both sets were trained on
        usual = max(usual, bounds.forget_loss)
    fading = settings.fading if start.shrinking < 1 else 0.0
    problem.settings.update(usual_retain_loss=usual, following_batch_norms=len(start.following), fading=fading)
    retain_mean = RunningMean(usual, share=LAST_BATCH)
    repair = Repair(usual + REPAIRED * bounds.memory)
    shrink(start.reached, start.shrinking)
    optimizer = problem.adamw(start.learning_rate, WEIGHT_DECAY)
    course = Course(optimizer, settings.epochs, settings.look_every, problem.forget.batches)
    forget_order, retain = problem.generator(0), problem.pass_after_pass(problem.retain, problem.generator(1))
    target_loss = problem.target_loss(bounded)
    step: Step | None = None
    pushed = False  # in the last pass
    for epoch in range(2 * settings.epochs):
        started = time.perf_counter()
        looked = course.is_look(epoch)
        if looked and epoch >= course.end and not repair.goes_on(_retain_loss(problem, retain_mean)):
            break
        if epoch == settings.epochs:
            problem.announce(settings.most_steps)
        back = (
            (looked and epoch < course.end)
            and reached(forget_mean.value, bounds.forget_loss, target_loss)
            and _retain_loss(problem, retain_mean) <= start.retain_loss
        )
        if back or (epoch and epoch % settings.refresh_target_every == 0):
            target_loss = problem.target_loss(bounded)
        if back and reached(problem.mean_loss(problem.forget, of=bounded), bounds.forget_loss, target_loss):
            course.cut_short(epoch)
            problem.settings.update(plan_cut_short_after=problem.steps)
        following = start.following if epoch < course.end else []
        means = PassMeans()
        for forget_batch in problem.one_pass(problem.forget, forget_order):
            retain_batch = next(retain)
            if step is not None:  # read only now, so that a GPU computes while batches are loaded
                retain_mean.add(float(step.retain_loss))
            lost = (retain_mean.value - usual) / bounds.memory
            fade(optimizer, fading * max(1 - max(lost, 0.0) / HELD_UP, 0.0) / start.learning_rate)
            step = descend(
                problem,
                optimizer,
                forget_batch,
                retain_batch,
                alpha=alpha,
                target_loss=target_loss,
                largest_weight=(1 - alpha) * max(1 - max(lost, 0.0), 0.0),
                retain_weight=0.0 if lost < -LARGEST_CHANGE else 1 - alpha,
                unit=UNIT * bounds.memory,
                running=forget_mean,
                around_retain=partial(followed, problem, following),
            )
            means.add(step)
            course.step_done()
        done = means.epoch(alpha, target_loss, time.perf_counter() - started)
        yield done
        if pushed and not done.ascent_weight:
            lose_momentum(optimizer)
        pushed = bool(done.ascent_weight)
        course.pass_done()


def fade(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Let AdamW's next step take so much more off the weights than its usual decay, in units of its rate.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=WEIGHT_DECAY)
        >>> fade(optimizer, 0.99)
        >>> weight.grad = torch.zeros(1)
        >>> optimizer.step()
        >>> weight.item()  # times 1 − 0.1 · (0.01 + 0.99)
        0.8999...
    """
    for group in optimizer.param_groups:
        group["weight_decay"] = WEIGHT_DECAY + weight_decay


def lose_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set AdamW's running mean of gradients to zero, so that the ascent does not roll on past its target.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> lose_momentum(optimizer)
        >>> optimizer.state[weight]["exp_avg"]
        tensor([0.])
    """
    for state in optimizer.state.values():
        state["exp_avg"].zero_()


def _retain_loss(problem: Problem, retain_mean: RunningMean) -> float:
    """That of the judging batches; where a loader has an order of its own, of the last ones, which are read anyway."""
    return retain_mean.value if problem.retain.fetch is None else judged_loss(problem)
