"""Whether a set can be read again as it was read: what a run that is continued needs of it."""

import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, SubsetRandomSampler

from nabla_tau.batches import Batch, leaves
from nabla_tau.randomness import undisturbed
from nabla_tau.sets import Source, generators_of

ROWS = 8
"""Rows that are read twice to see whether they are the same."""


def replay_problems(sets: Mapping[str, Any], sources: Mapping[str, Source]) -> list[str]:
    """Why sets cannot be read again as they were, a sentence each.

    Under the same global random states, and the same states of a loader's own generators, a set has to give the same
    rows in the same order. What draws from a random state of its own, which nobody can save, does not.

    Args:
        sets: as the user gave them, by name.
        sources: the same, opened.

    Example:
        >>> from nabla_tau.sets import open_set
        >>> loader = DataLoader(range(4), num_workers=1, persistent_workers=True)
        >>> replay_problems({"retain": loader}, {"retain": open_set(loader, 2)})
        ['checkpoint: expected a retain set that can be read again as it was, got persistent workers, whose random ...']
    """
    problems = []
    for name, source in sources.items():
        with suppress(Exception):  # what cannot be read at all is told where it is read
            if reason := _reason(sets[name], source):
                problems.append(
                    f"checkpoint: expected a {name} set that can be read again as it was, got {reason}, or leave "
                    "checkpoint out."
                )
    return problems


def _reason(data: Any, source: Source) -> str | None:
    """Why it cannot be read again, and what to do."""
    if isinstance(data, DataLoader):
        if data.num_workers and data.persistent_workers:
            return "persistent workers, whose random states nobody can save: use persistent_workers=False"
        if data.num_workers and not getattr(data, "in_order", True):
            return "workers whose batches come in any order: use in_order=True"
        if not source.streamed and not _same_order(data):
            return (
                "an order that the global random state does not determine when a pass begins: have the sampler draw "
                "all of it in __iter__, from the global state or from the loader's generator"
            )
    if not _same_rows(data, source):
        return "rows that differ from one reading to the next: draw from torch's, NumPy's or Python's global state"
    return None


def _same_order(loader: DataLoader[Any]) -> bool:
    """Whether a sampler of the user's own gives one order from one state, whatever is drawn meanwhile."""
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    inner = getattr(sampler, "sampler", sampler)
    if type(inner) in (SequentialSampler, RandomSampler, SubsetRandomSampler):
        return True
    orders = []
    for disturbed in (False, True):
        order = []
        with undisturbed(generators_of(loader)):
            for place, rows in enumerate(sampler):
                order.append(rows)
                if disturbed and place == 0:
                    torch.rand(1), np.random.rand(), random.random()
        orders.append(order)
    return orders[0] == orders[1]


def _same_rows(data: Any, source: Source) -> bool:
    readings = []
    for _ in range(2):
        with undisturbed(generators_of(source.loader)):
            readings.append(_few(data, source))
    one, other = (list(leaves(batch)) for batch in readings)
    return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))


def _few(data: Any, source: Source) -> Batch:
    """A few rows, as the set's own collate puts them together."""
    if source.streamed:
        return next(source.ordered())
    if source.fetch is not None:
        return source.fetch(torch.arange(min(ROWS, source.size)))
    sampler: Iterable[Any] = data.sampler if data.batch_sampler is None else data.batch_sampler
    first = next(iter(sampler))
    if data.batch_sampler is None:
        return data.collate_fn(data.dataset[first])
    return data.collate_fn([data.dataset[row] for row in islice(first, ROWS)])


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
    return bool(np.array_equal(np.asarray(one, dtype=object), np.asarray(other, dtype=object)))
