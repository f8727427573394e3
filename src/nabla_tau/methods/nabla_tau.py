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
    retain_batches,
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

# w follows the mean of about the last eight batches of either set, or of a pass over the forget set where that is
# shorter.
LAST_BATCH = 1 / 8


# Where the forget set is the larger, most of what the weights hold is its doing, and the plan passes over the retain
# set often enough to give back what that needs. There weights fade: to 1/e in two such passes at the first rate, where
# the retain set is small beside the forget set, and less as that becomes dearer, by a thirtieth of what was memorised.
FADING_PASSES = 2
HELD_UP = 1 / 30


@dataclass(frozen=True)
class Settings:
    """What follows from the sizes of the sets: ρ, α, E, E · n_f, at most twice that, and when is measured what.

    Of `target_refreshes` there are as many again where the run goes on.
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


@described(
    Facts(
        reference="Trippa et al., ∇τ, arXiv:2403.14339 (2024); what bounds, smooths and tries is ours",
        needs=(RETAIN, VALIDATION),
        passes="E × D_f, 2E at most, and as many batches of D_r, up to 140 more in trials; D_v some 40 times at most; "
        "E follows from the sizes",
        mode="eval",
        forgets="any rows, as far as the mean loss of unseen data; whole classes and labels, as far as their price",
        keeps="rows that cost as much as unseen data from the start",
        accumulates=True,
        prices=True,
    )
)
def nabla_tau(problem: Problem) -> Iterator[Epoch]:
    """∇τ without hyperparameters, for any domain and any share of the data.

        L(θ) = α · ReLU(τ − L_f)² / u + (1 − α) · L_r,    where the pull on L_f never outweighs the descent on L_r
        τ = what unseen data costs the current model; for a label that no retain row carries, that label's price
        it ends where L_f has come to τ and L_r is back at what it was

    The objective of the paper in the model's own units: u is a quarter of what it memorised of the forget set, and no
    loss counts beyond a bound, so that a mean is not met by a few absurd rows. The ascent is strong while the forget
    set is remembered, yields as the retain set becomes dearer, and is 0 where the forget set costs what unseen data
    costs. The descent gives back what the ascent takes from the retain set, at the highest rate that the model was
    seen to come back from, and what the retain set does not repeat fades with it. All else follows from the sizes of
    the sets.

    In full, with ρ = |D_f| / (|D_f| + |D_r|) and n_f, n_r batches:

        α = 5/3 · ρ, with ρ held within the published [0.03, 0.30]
        E = ⌈max(min(3 max(n_r, n_f), 80 n_f), 160) / n_f⌉ passes over the forget set, 2E while L_r > L_r⁰ + m/100;
            20 steps more once L_r ≤ L_r⁰ and L_f is 0.9 of its way to τ
        w = 2α · ReLU(τ − L̄_f) / u, at most (1 − α) · ReLU(1 − ReLU(L̄_r − L_r⁰) / m)
        1 − α, the weight of the descent, is 0 while L̄_r < L_r⁰ − m/3
        τ = what unseen data costs,    L̄ = the running mean of what batches cost;    of τ and L_f no loss counts above c
        c = what unseen data costs the original + the mean distance of its losses from that, a quarter of it at least
        m = what unseen data costs the original − what the forget set costs it, or 0.1 τ where it is less;    u = m / 4

    Unseen data costs its mean loss over D_v. A label that no row of D_r carries is new to a model that is trained
    without D_f: for the share of D_f that carries one, it costs the price of that label y instead, the mean of ℓ(x, y)
    over rows of D_v with other labels, −log p(y | x) for classes: what the model charges where it sees no sign of y.

    Losses of forget and unseen rows count up to c, and have no gradient beyond. A mean is met most easily by driving a
    few samples to absurd losses while the others stay as they are; so it is met by the others. Nor does a model that is
    being damaged, or charges more and more for a label that it unlearns, raise its own target without end.

    L̄_f takes the last batch with a share of β = max(⅛, 1/n_f). A batch alone scatters about the mean of the set; a push
    that answers those below τ and never those above goes past the target, the further the longer it runs.

    In the unit u the ascent is alike in every domain and for every scale of the loss: it would begin at w = 8α, but
    never outweighs the descent, and it is 0 where the forget set costs what unseen data costs. It yields to the
    descent: the dearer retain batches have become since L_r⁰, what five of them cost the original (where a loader has
    an order of its own: the forget set, if that costs more), the less it may weigh, and nothing once the retain set,
    too, has lost what was memorised of the forget set.

    α is not taken down to 0 as published: what is pushed only at the start comes back while the retain set is repaired.

    Every 20 steps, once L̄_f is where it should be, L_r is looked at: what the five batches cost now that L_r⁰ was
    measured on (where a loader has an order of its own: L̄_r, set against those five). Is it back, and so far the whole
    forget set, the run comes to its end within 20 steps, or a pass where that is longer: more would only fit the retain
    set further. Where it is not back after the plan, the run goes on, as long as that brings it nearer and for 2E
    passes in all.

    Before the first step every weight is multiplied by 0.9 or 1. Then AdamW with weight decay 1e-2 and a learning
    rate that falls to a tenth, linearly over the plan; retain batches follow one another, pass after pass; τ is
    measured before every fifth epoch, at most 16 times in E, and where the plan may be cut short; eval mode, dropout
    off. The first pass with nothing left to push takes AdamW's momentum, so that the ascent does not roll on.

    The running statistics of batch norm become means over the retain batches of the plan (`batch_norm.followed`).
    Those of the original describe a model that is no longer there: it comes back from less, and is harmed by more. In
    the passes after them they stand still: what follows takes back the shift that the descent has just made.

    The learning rate is the first of 3e-3, 1e-3 (the published one), 3e-4, 1e-4, 3e-5 and 1e-5 from which the
    model comes back: 20 steps on retain batches alone, undone afterwards, may make five others dearer by a third of
    the way to what unseen data costs, counted up to c, and move their rows, up or down, by all of it in their mean, or
    by as much as a removed label has to go to its price. The weights are shrunk by a tenth if it comes back from that
    too. The faster it moves and the less is left of its margins, the more is forgotten that the descent does not
    repeat.

    A model that does not know its rows by heart would learn on: then its losses come back from any rate, though not
    row by row, and the descent would fit the retain set further than the original ever was, away from any retrained
    model. So rows are looked at, and the descent rests a third of m below L_r⁰, where a model that knows all never is.

    The published formulas push almost nothing for one row, and break down from ρ = ½ on.

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
    settings, norms = derive(problem), changing_batch_norms(problem.model)
    alpha = settings.alpha
    problem.settings.update(
        vars(settings),
        optimizer="AdamW",
        weight_decay=WEIGHT_DECAY,
        last_learning_rate_factor=LAST_LEARNING_RATE_FACTOR,
        most_trial_steps=TRIAL_STEPS * (len(LEARNING_RATES) + bool(norms)),  # of all but the lowest, smaller weights, 0
    )
    problem.announce(settings.steps)
    with problem.standing_still():
        first_target = problem.target_loss()
        deviation = problem.target_loss(lambda losses: (losses - first_target).abs())
        largest = first_target + LARGEST_DEVIATION * max(deviation, LEAST_DEVIATION * abs(first_target))
        problem.largest_loss = largest
        bounded = partial(counted, largest=largest)
        forget_mean = RunningMean(
            problem.mean_loss(problem.forget, of=bounded), share=max(LAST_BATCH, 1 / problem.forget.batches)
        )
        forget_loss_before, unseen_loss = forget_mean.value, problem.unseen_loss(bounded)
    memory = memorised(unseen_loss, forget_loss_before)
    unit = UNIT * memory
    problem.settings.update(
        largest_loss=largest,
        counted_forget_loss_before=forget_loss_before,
        loss_unit=unit,
        last_batch=forget_mean.share,
    )
    start = settle(problem, unseen_loss, way=first_target - forget_loss_before if problem.priced else 0.0)
    usual = start.retain_loss
    if problem.retain.fetch is None:  # an order of its own may come to its dear rows late; both sets were trained on
        usual = max(usual, forget_loss_before)
    problem.settings.update(usual_retain_loss=usual, following_batch_norms=len(start.following))
    retain_mean = RunningMean(usual, share=LAST_BATCH)
    repair = Repair(usual + REPAIRED * memory)
    shrink(start.reached, start.shrinking)
    optimizer = problem.adamw(start.learning_rate, WEIGHT_DECAY)
    course = Course(optimizer, settings.epochs)
    forget_order, retain = problem.generator(0), retain_batches(problem)
    target_loss = problem.target_loss(bounded)
    step: Step | None = None
    pushed = False  # in the last pass
    for epoch in range(2 * settings.epochs):
        started = time.perf_counter()
        looked = course.is_look(epoch, settings.look_every)
        if looked and epoch >= course.end and not repair.goes_on(_retain_loss(problem, retain_mean)):
            break
        problem.announce(settings.steps if epoch < settings.epochs else settings.most_steps)
        back = (
            (looked and epoch < course.end)
            and reached(forget_mean.value, forget_loss_before, target_loss)
            and _retain_loss(problem, retain_mean) <= start.retain_loss
        )
        if back or (epoch and epoch % settings.refresh_target_every == 0):
            target_loss = problem.target_loss(bounded)
        if back and reached(problem.mean_loss(problem.forget, of=bounded), forget_loss_before, target_loss):
            course.cut_short(epoch, settings.look_every, problem.forget.batches)
            problem.settings.update(plan_cut_short_after=problem.steps)
        following = start.following if epoch < course.end else []
        means = PassMeans()
        for forget_batch in problem.one_pass(problem.forget, forget_order):
            retain_batch = next(retain)
            if step is not None:  # read only now, so that a GPU computes while batches are loaded
                retain_mean.add(float(step.retain_loss))
            lost = max(retain_mean.value - usual, 0.0) / memory
            fade(optimizer, settings.fading * max(1 - lost / HELD_UP, 0.0) / start.learning_rate)
            fitted = retain_mean.value < usual - LARGEST_CHANGE * memory
            step = descend(
                problem,
                optimizer,
                forget_batch,
                retain_batch,
                alpha=alpha,
                target_loss=target_loss,
                largest_weight=(1 - alpha) * max(1 - lost, 0.0),
                retain_weight=0.0 if fitted else 1 - alpha,
                unit=unit,
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
    """Let AdamW's next step take so much more off the weights than its usual decay, in units of its rate."""
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
