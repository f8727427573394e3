"""Sets that can only be read from their first sample on: memory holds a few batches of them, however long they are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from nabla_tau.batches import Batch

BUFFERED = 16
"""Batches that a stream is shuffled within."""


@dataclass(frozen=True)
class Stream:
    """An iterable dataset that starts anew with every `iter`.

    Attributes:
        data: the dataset.
        collate: samples -> batch.

    Example:
        >>> list(Stream(range(5), torch.tensor).batches(2))
        [tensor([0, 1]), tensor([2, 3]), tensor([4])]
    """

    data: Any
    collate: Callable[[list[Any]], Batch]

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass, in the order of the stream or, with a generator, shuffled within a buffer of some batches.

        Raises:
            ValueError: if the stream gives nothing.
        """
        samples = iter(self.data)
        if generator is not None:
            samples = shuffled_within(samples, BUFFERED * batch_size, generator)
        batch = list(islice(samples, batch_size))
        if not batch:
            raise ValueError(
                "Expected a stream that gives its samples in every pass, got none: let its __iter__ start anew."
            )
        while batch:
            yield self.collate(batch)
            batch = list(islice(samples, batch_size))


def shuffled_within(samples: Iterator[Any], size: int, generator: torch.Generator) -> Iterator[Any]:
    """Samples in a random order, of which so many are held at a time.

    The next to come is any of those held; the one after the last held takes its place. A sample comes at most so many
    places early, and as late as chance will have it.

    Example:
        >>> mixed = list(shuffled_within(iter(range(100)), 10, torch.Generator().manual_seed(0)))
        >>> sorted(mixed) == list(range(100)), mixed[0] < 10, mixed == sorted(mixed)
        (True, True, False)
    """
    held = list(islice(samples, size))
    while held:
        for place in torch.randint(len(held), (len(held),), generator=generator).tolist():
            coming = next(samples, held)
            if coming is held:  # the stream has ended
                for last in torch.randperm(len(held), generator=generator).tolist():
                    yield held[last]
                return
            yield held[place]
            held[place] = coming
