"""A model that loses what it is to keep is not saved over one that has it; where that does not pass, a run stops."""

import math
from itertools import islice

import torch
from torch import Tensor

from nabla_tau.problem import Problem, finite

LOOK = 5
"""Batches of the retain set that utility is judged by, before each save."""

PATIENCE = 0.1
"""Share of all steps in which utility that has collapsed may come back."""


class UtilityCollapse(ArithmeticError):  # noqa: N818  (it says what is the case)
    """What is to be kept costs far more than data that the model never saw; the model passed in is untouched.

    Example:
        >>> raise UtilityCollapse("Expected a retain set that costs at most 4, got 7.")
        Traceback (most recent call last):
        nabla_tau.collapse.UtilityCollapse: Expected a retain set that costs at most 4, got 7.
    """


def most_allowed(retain_loss: float, unseen_loss: float) -> float:
    """The loss on the retain set from which on utility has collapsed: twice the price of unseen data.

        max(L_r, L_v) + max(|L_r|, |L_v|)    of the original

    Example:
        >>> most_allowed(retain_loss=0.1, unseen_loss=2.0)
        4.0
    """
    return max(retain_loss, unseen_loss) + max(abs(retain_loss), abs(unseen_loss))


def look(problem: Problem) -> float:
    """Mean loss of the current model over the first batches of the retain set; nothing moves by it.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu").prepared() as problem:
        ...     look(problem)
        4.25
    """
    with problem.measuring(), torch.no_grad():
        losses = [problem.batch_loss(batch) for batch in islice(problem.in_order(problem.retain), LOOK)]
    return sum(float(loss.value) * loss.size for loss in losses) / max(sum(loss.size for loss in losses), 1)


class Watch:
    """Says before each save whether the state is worth it.

    Args:
        problem: the request, under way.
        most_allowed: loss of the retain set from which on utility has collapsed.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu").prepared() as problem:
        ...     [Watch(problem, most).is_good(torch.zeros(1), epoch=1) for most in (5.0, 4.0)]
        [True, False]
    """

    def __init__(self, problem: Problem, most_allowed: float) -> None:
        self.problem, self.most_allowed = problem, most_allowed
        self.lost_since: tuple[int, int] | None = None

    def is_good(self, values: Tensor, epoch: int) -> bool:
        """Whether the state may take the place of one before it.

        Args:
            values: mean losses that the method was given.
            epoch: number of the one under way.

        Raises:
            NonFiniteLoss: if a loss or a weight is not finite.
            UtilityCollapse: if what was to be kept has not come back.
        """
        problem = self.problem
        finite(float(values.sum()), "a batch since the last checkpoint")
        for name, parameter in problem.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                finite(math.nan, f"what comes next, as {name} is no longer finite")
        found = finite(look(problem), "the first batches of the retain set")
        if found <= self.most_allowed:
            self.lost_since = None
            return True
        since, step = self.lost_since = self.lost_since or (epoch, problem.steps)
        if problem.steps - step > PATIENCE * problem.total_steps:
            raise UtilityCollapse(
                f"Expected a retain set that costs at most {self.most_allowed:.4g}, twice what unseen data cost the "
                f"original, got {found:.4g} over its first batches, and more than that since epoch {since}: the model "
                "passed in is unchanged; take another method, other settings or larger batches."
            )
        return False
