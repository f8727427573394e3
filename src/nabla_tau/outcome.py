"""How a run ended: what the sets cost before and after, whether the target was reached, what its reader must know."""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch

from nabla_tau.problem import Epoch, Problem, counted, finite
from nabla_tau.storage import NEW_LABEL
from nabla_tau.target import REACHED, memorised, reached

FEW_BATCHES = 2
"""Of a forget set; so few steps a pass cannot be steered."""

CHANCE = 2
"""Standard errors of a difference that is no more than chance."""

FEW_UNSEEN = 30
"""Rows of which a mean, and its standard error, tell little."""


@dataclass(frozen=True)
class Losses:
    """Mean losses of one model, in the units of ℓ: forget set, a sample of the retain set, validation set; and τ."""

    forget: float
    retain: float
    unseen: float
    target: float


def measure(problem: Problem) -> Losses:
    """Mean losses of the current model; of the retain set, over as many rows as the validation set has.

    They are drawn at random, but for a loader or stream, whose own order counts.

    Raises:
        NonFiniteLoss: if one is not finite.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> sets = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, *sets, device="cpu").prepared() as problem:
        ...     measure(problem)
        Losses(forget=0.25, retain=4.25, unseen=16.25, target=16.25)
    """
    total, size = 0.0, 0
    with torch.no_grad():
        for batch in problem.one_pass(problem.retain, problem.generator(3)):
            loss = problem.batch_loss(batch)
            total, size = total + float(loss.value) * loss.size, size + loss.size
            if size >= problem.validation.size:
                break
    retain = finite(total / max(size, 1), "the retain set")
    unseen = problem.unseen_loss()
    target = problem.target_loss() if problem.priced else unseen
    return Losses(problem.mean_loss(problem.forget), retain, unseen, target)


def chance(problem: Problem, losses: Losses) -> float:
    """Standard error of the difference between what unseen data and the forget set cost: √(s_f² / n_f + s_v² / n_v).

    Args:
        problem: the request.
        losses: what the sets cost the current model.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> sets = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, *sets, device="cpu").prepared() as problem:
        ...     chance(problem, measure(problem))  # squared errors 0.25 and 0.25, 12.25 and 20.25
        4.0
    """
    of_forget = problem.mean_loss(problem.forget, of=lambda read: (read - losses.forget).square())
    of_unseen = problem.unseen_loss(lambda read: (read - losses.unseen).square())
    return math.sqrt(
        of_forget / max(problem.forget.size - 1, 1) + of_unseen / max(problem.validation.size - 1, 1)
    )  # n / (n − 1) makes a mean square a variance, which is divided by n


def aimed_at(problem: Problem, losses: Losses) -> Losses:
    """Losses of the current model with those of forget set and target as the method counts them, none above its bound.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> sets = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, *sets, device="cpu").prepared() as problem:
        ...     problem.largest_loss = 13.0
        ...     aimed_at(problem, measure(problem))  # of 12.25 and 20.25, the second counts 13
        Losses(forget=0.25, retain=4.25, unseen=16.25, target=12.625)
    """
    if math.isinf(problem.largest_loss):
        return losses
    bounded = partial(counted, largest=problem.largest_loss)
    return replace(losses, forget=problem.mean_loss(problem.forget, of=bounded), target=problem.target_loss(bounded))


def damage(before: Losses, after: Losses) -> list[str]:
    """Signs that the model lost more than the forget set.

    Unseen data that costs half as much again as it did, or a retain loss that went more than a quarter of the way from
    where it was to what unseen data cost.

    Example:
        >>> damage(Losses(0.1, 0.1, 2.0, 2.0), Losses(2.0, 0.1, 2.1, 2.1))
        []
        >>> for text in damage(Losses(0.1, 0.1, 2.0, 2.0), Losses(4.0, 1.6, 4.0, 4.0)):
        ...     print(text)
        unseen data costs 4 instead of 2: ...
        the retain set costs 1.6 instead of 0.1: ...
    """
    found = []
    if after.unseen > before.unseen + abs(before.unseen) / 2:
        found.append(
            f"unseen data costs {after.unseen:.4g} instead of {before.unseen:.4g}: the model lost more than the forget "
            "set; compare its accuracy with the original's before using it."
        )
    if after.retain > max(before.retain + abs(before.retain) / 2, (3 * before.retain + before.unseen) / 4):
        found.append(
            f"the retain set costs {after.retain:.4g} instead of {before.retain:.4g}: what was to be kept is damaged; "
            "compare the accuracy on it with the original's before using the model."
        )
    return found


def judge(problem: Problem, epochs: list[Epoch], before: Losses, standard_error: float = 0.0) -> tuple[bool, list[str]]:
    """Measure a model that a method has finished with, write down how it ended, and judge it.

    Args:
        problem: the request; its settings take the losses before and after.
        epochs: what the passes of the method did.
        before: what the sets cost the original.
        standard_error: of the difference between forget set and unseen data then.

    Returns:
        Whether the forget set is `REACHED` of its way to the target, and what the reader must be warned of.

    Raises:
        NonFiniteLoss: if a loss is not finite.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> sets = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, *sets, device="cpu").prepared() as problem:  # and no method at all
        ...     judge(problem, [], measure(problem))
        (False, ['the target was not reached: the forget loss went from 0.25 to 0.25, unseen data costs 16.25...'])
    """
    with problem.standing_still():
        after = measure(problem)
        aimed = aimed_at(problem, after)
    start = problem.settings.get("counted_forget_loss_before", before.forget)
    pushed = any(epoch.ascent_weight != 0 for epoch in epochs)  # a method that tells no weight pushes in its own way
    done = reached(aimed.forget, start, aimed.target)
    overshot = pushed and aimed.forget > max(aimed.target, start) + memorised(aimed.target, start) / 2
    harm = damage(before, after)
    what = NEW_LABEL if problem.priced else "unseen data"
    bound = "" if math.isinf(problem.largest_loss) else f", no loss counting above {problem.largest_loss:.4g}"
    problem.settings.update(
        steps_done=problem.steps,
        forget_loss_before=before.forget,
        retain_loss_before=before.retain,
        unseen_loss_before=before.unseen,
        target_loss_before=before.target,
        forget_loss_after=after.forget,
        retain_loss_after=after.retain,
        unseen_loss_after=after.unseen,
        target_loss_after=after.target,
        target_loss_of=what,
        damaged=bool(harm),
        overshot=overshot,
        reached_when=f"{REACHED} of the way from forget_loss_before to target_loss_after{bound}",
    )
    if bound:
        problem.settings.update(
            counted_forget_loss_before=start,
            counted_forget_loss_after=aimed.forget,
            counted_target_loss_after=aimed.target,
        )
    found = []
    first = next((epoch.target_loss for epoch in epochs if epoch.target_loss is not None), before.target)
    if start >= first and not any(epoch.ascent_weight for epoch in epochs):
        found.append(
            f"forget: its mean loss, {start:.4g}, was not below that of {what}, {first:.4g}{bound}: the target gave no "
            "push. This does not show that nothing is remembered."
        )
    elif not problem.priced and before.unseen - before.forget < CHANCE * standard_error:
        unseen = problem.validation.size
        found.append(
            f"forget: it cost {before.forget:.4g} and unseen data {before.unseen:.4g} before, no more apart than by "
            "chance: "
            + (
                f"{unseen} rows of validation are too few to tell, and too few to set a target by; give more."
                if unseen < FEW_UNSEEN
                else "there was little to forget, or nothing. This does not show that nothing is remembered."
            )
        )
    if not done:
        found.append(
            f"the target was not reached: the forget loss went from {start:.4g} to {aimed.forget:.4g}, {what} costs "
            f"{aimed.target:.4g}{bound}. {_way_on(problem)}"
        )
    if overshot:
        found.append(
            f"the forget set went past its target: it costs {aimed.forget:.4g}, {what} {aimed.target:.4g}{bound}. "
            "Samples that cost too much stand out as well."
        )
    return done, found + harm


def _way_on(problem: Problem) -> str:
    """What may get there where the target was not reached."""
    rate = problem.settings.get("learning_rate_reason")
    tried = f"The learning rate is low: {rate}. " if rate else ""
    batches = problem.forget.batches
    if batches <= FEW_BATCHES:
        several = "one batch" if batches == 1 else f"{batches} batches"
        return f"{tried}All of it was {several}: a smaller batch_size, best that of training, may get there."
    return (
        f"{tried}Rows to keep that teach the same hold it up: see that none is a copy of a forgotten row, that padding "
        "does not count, and that the validation set is of the same kind. An audit tells what is left."
    )
