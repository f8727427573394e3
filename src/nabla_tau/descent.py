"""Passes over sets that several baselines share: what is descended on is theirs, the rest is here."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nabla_tau.batches import Batch
from nabla_tau.problem import BatchLoss, Problem, finite
from nabla_tau.sets import Source

Term = Callable[[Batch | None], tuple[Tensor, BatchLoss]]
"""Batch -> (this process's part of what to descend on, the mean loss of the batch as it is reported)."""


class Mean:
    """Mean loss over the batches b of a pass, samples weighted alike: L = Σ_b n_b L_b / Σ_b n_b.

    Example:
        >>> mean = Mean()
        >>> for value, size in ((1.0, 3), (2.0, 1)):
        ...     mean.add(BatchLoss(torch.zeros(()), torch.tensor(value), size))
        >>> mean.value("the batches of a pass")
        1.25
    """

    def __init__(self) -> None:
        self.total: list[Tensor] = []
        self.size = 0

    def add(self, loss: BatchLoss) -> None:
        """Take one batch in; its loss stays on its device until the pass ends."""
        self.total.append(loss.value * loss.size)
        self.size += loss.size

    def value(self, what: str) -> float | None:
        """The mean; None where no sample was read.

        Raises:
            NonFiniteLoss: if it is not finite.
        """
        return finite(float(torch.stack(self.total).sum()) / self.size, what) if self.size else None


def own_loss(problem: Problem, weight: float = 1.0) -> Term:
    """Descend on the batch's own loss times a weight; a negative one ascends.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(torch.nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     descended, reported = own_loss(problem, -2.0)((x[:2], y[:2]))
        >>> bool(torch.isclose(descended.double(), -2 * reported.value))
        True
    """

    def term(batch: Batch | None) -> tuple[Tensor, BatchLoss]:
        loss = problem.batch_loss(batch)
        return weight * loss.local, loss

    return term


def descend_over(
    problem: Problem, source: Source, order: torch.Generator, optimizer: torch.optim.Optimizer, term: Term
) -> float | None:
    """One pass over a set, a step per batch.

    Args:
        problem: model, loss and processes.
        source: the set.
        order: of its rows.
        optimizer: over the model's trainable parameters.
        term: what to descend on.

    Returns:
        The mean of what the term reported, each batch before its step.

    Raises:
        NonFiniteLoss: if it is not finite.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(torch.nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     optimizer = torch.optim.SGD(problem.trainable(), lr=0.1)
        ...     before = descend_over(problem, problem.retain, problem.generator(1), optimizer, own_loss(problem))
        ...     problem.mean_loss(problem.retain) < before
        True
    """
    mean = Mean()
    for batch in problem.one_pass(source, order):
        descended, reported = term(batch)
        mean.add(reported)
        problem.backward(descended)
        problem.update(optimizer)
    return mean.value("the batches of a pass")


def descend_in_pairs(
    problem: Problem, batches: "Pairs", optimizer: torch.optim.Optimizer, forget_term: Term, retain_term: Term
) -> tuple[float | None, float | None]:
    """One pass over the longer of forget and retain set, a step per pair of batches; the shorter set goes round.

    Args:
        problem: model, loss and processes.
        batches: of both sets.
        optimizer: over the model's trainable parameters.
        forget_term: what to descend on in a forget batch.
        retain_term: what to descend on in a retain batch.

    Returns:
        Means of what the two terms reported, each batch before its step: (forget, retain).

    Raises:
        NonFiniteLoss: if one is not finite.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(torch.nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     optimizer = torch.optim.SGD(problem.trainable(), lr=0.1)
        ...     terms = own_loss(problem, -0.5), own_loss(problem, 0.5)
        ...     forget, retain = descend_in_pairs(problem, Pairs(problem), optimizer, *terms)
        ...     problem.mean_loss(problem.forget) > forget, problem.mean_loss(problem.retain) < retain
        (True, True)
    """
    forget, retain = Mean(), Mean()
    for forget_batch, retain_batch in batches.one_pass():
        for term, mean, batch in ((forget_term, forget, forget_batch), (retain_term, retain, retain_batch)):
            descended, reported = term(batch)
            mean.add(reported)
            problem.backward(descended)
        problem.update(optimizer)
    return forget.value("the forget batches of a pass"), retain.value("the retain batches of a pass")


class Pairs:
    """Pairs of a forget and a retain batch: max(n_f, n_r) a pass, each set going on where it stood.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(8), torch.arange(8) % 2
        >>> sets = (x[:2], y[:2]), (x[2:7], y[2:7]), (x[7:], y[7:])  # five rows to keep, two a batch
        >>> with Request(torch.nn.Linear(8, 2), *sets, batch_size=2, device="cpu").prepared() as problem:
        ...     pairs = Pairs(problem)
        ...     pairs.steps, [(len(forget[1]), len(retain[1])) for forget, retain in pairs.one_pass()]
        (3, [(2, 2), (2, 2), (2, 1)])
    """

    def __init__(self, problem: Problem) -> None:
        self.steps = max(problem.forget.batches, problem.retain.batches)
        self.forget = problem.pass_after_pass(problem.forget, problem.generator(0))
        self.retain = problem.pass_after_pass(problem.retain, problem.generator(1))

    def one_pass(self) -> Iterator[tuple[Any, Any]]:
        """The next max(n_f, n_r) pairs: this process's shares, on its device; None where it has no part in one."""
        for _ in range(self.steps):
            yield next(self.forget), next(self.retain)
