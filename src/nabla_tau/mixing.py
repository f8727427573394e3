"""Forget and retain set as one training set: rows of both in the same batches, and which are which."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from nabla_tau.batches import Batch, leaves, rows_in, share_of
from nabla_tau.problem import Problem
from nabla_tau.randomness import undisturbed
from nabla_tau.sets import Fetch, Source


@dataclass(frozen=True)
class Mixed:
    """This process's share of a mixed batch.

    Attributes:
        forget: its rows from the forget set; None where there are none.
        retain: its rows from the retain set; None where there are none.

    Example:
        >>> mixed = Mixed(forget=(torch.ones(1, 2),), retain=(torch.zeros(2, 2),))
        >>> len(mixed.batch[0]), mixed.kept
        (3, 2)
    """

    forget: Batch | None
    retain: Batch | None

    @property
    def batch(self) -> Batch | None:
        """All rows, the retain set's first; None for an empty share."""
        return joined(self.retain, self.forget)

    @property
    def kept(self) -> int:
        """How many rows of `batch`, the first ones, are from the retain set; the others are from the forget set."""
        return 0 if self.retain is None else rows_in(self.retain)


class Mixture:
    """D_f ∪ D_r, or D_f and a random share of D_r drawn once, to be read in mixed batches.

    Rows of both sets share batches. Where a set is a `DataLoader`, or rows of the two differ in shape, batches keep to
    one set each and the two kinds come in random order.

    Args:
        problem: the request.
        retain_share: share of the retain set's rows (of its batches, where it is a `DataLoader`), in (0, 1].

    Attributes:
        batches: batches in one pass.
        of: "rows" or "batches", whichever are mixed.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(8), torch.arange(8) % 2
        >>> sets = (x[:2], y[:2]), (x[2:7], y[2:7]), (x[7:], y[7:])
        >>> with Request(torch.nn.Linear(8, 2), *sets, batch_size=4, device="cpu").prepared() as problem:
        ...     mixture = Mixture(problem)
        ...     passed = list(mixture.one_pass(problem.generator(3)))
        >>> mixture.of, mixture.batches, [rows_in(mixed.batch) for mixed in passed], sum(mixed.kept for mixed in passed)
        ('rows', 2, [4, 3], 5)
    """

    def __init__(self, problem: Problem, retain_share: float = 1.0) -> None:
        self.problem = problem
        self.retain, self.retain_batches = _part(problem, retain_share)
        self.of = "rows" if _same_rows(problem.forget, self.retain) else "batches"
        rows = problem.forget.size + self.retain.size
        size = problem.retain.batch_size
        self.batches = -(-rows // size) if self.of == "rows" and size else problem.forget.batches + self.retain_batches

    def one_pass(self, generator: torch.Generator) -> Iterator[Mixed]:
        """One pass over both, in the order that the generator draws: this process's shares, on its device."""
        return self._rows(generator) if self.of == "rows" else self._batches(generator)

    def _rows(self, generator: torch.Generator) -> Iterator[Mixed]:
        forget, retain, place = self.problem.forget, self.retain, self.problem.place
        assert forget.fetch is not None
        assert retain.fetch is not None
        assert retain.batch_size is not None
        order = torch.randperm(retain.size + forget.size, generator=generator)
        for positions in torch.split(order, retain.batch_size):
            mine = positions[share_of(len(positions), self.problem.engine.share)]
            if self.problem.journal.repeating:
                mine = mine[:0]
            kept, gone = mine[mine < retain.size], mine[mine >= retain.size] - retain.size
            yield Mixed(
                forget=place(forget.fetch(gone)) if len(gone) else None,
                retain=place(retain.fetch(kept)) if len(kept) else None,
            )

    def _batches(self, generator: torch.Generator) -> Iterator[Mixed]:
        problem = self.problem
        forget = problem.one_pass(problem.forget, generator)
        retain = islice(problem.one_pass(self.retain, generator), self.retain_batches)
        order = torch.randperm(problem.forget.batches + self.retain_batches, generator=generator)
        for number in order.tolist():
            if number < problem.forget.batches:
                yield Mixed(forget=next(forget), retain=None)
            else:
                yield Mixed(forget=None, retain=next(retain))


def joined(first: Batch | None, second: Batch | None) -> Batch | None:
    """Two batches of one structure as one; columns that have no row per sample are the first's.

    Example:
        >>> joined((torch.zeros(1, 1), ["a"]), (torch.ones(2, 1), ["b", "c"]))
        (tensor([[0.],
            [1.],
            [1.]]), ['a', 'b', 'c'])
    """
    if first is None or second is None:
        return second if first is None else first
    return _joined(first, second, rows_in(first))


def _joined(first: Any, second: Any, size: int) -> Any:
    if isinstance(first, Tensor):
        return torch.cat([first, second]) if first.ndim and len(first) == size else first
    if isinstance(first, Mapping):
        return {key: _joined(first[key], second[key], size) for key in first}
    if isinstance(first, list) and not any(
        isinstance(item, Tensor | Mapping | tuple | list) for item in first
    ):  # a column of plain values
        return first + second if len(first) == size else first
    if isinstance(first, tuple | list):
        parts = [_joined(*pair, size) for pair in zip(first, second, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first


def _part(problem: Problem, share: float) -> tuple[Source, int]:
    """So much of the retain set, and how many batches that is."""
    retain = problem.retain
    if share == 1:
        return retain, retain.batches
    if retain.fetch is None or retain.batch_size is None:
        return retain, max(1, round(share * retain.batches))
    fetch: Fetch = retain.fetch
    kept = torch.randperm(retain.size, generator=problem.generator(4))[: max(1, round(share * retain.size))]
    batches = -(-len(kept) // retain.batch_size)
    return Source(len(kept), retain.batch_size, batches, fetch=lambda positions: fetch(kept[positions])), batches


def _same_rows(forget: Source, retain: Source) -> bool:
    """Whether rows of both sets fit into one batch."""
    if forget.fetch is None or retain.fetch is None:
        return False
    with undisturbed():
        rows = (fetch(torch.tensor([0])) for fetch in (forget.fetch, retain.fetch))
        one, other = ([_shape(leaf) for leaf in leaves(row)] for row in rows)
    return one == other


def _shape(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)
