"""The order in which rows are read, in memory that does not grow with their number."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HELD = 2**20
"""Rows whose order is drawn whole and held; that of more is computed place by place."""

ROUNDS = 6

Words = NDArray[np.uint64]


def in_order(size: int, batch_size: int) -> Iterator[Tensor]:
    """Row positions from the first to the last, a batch at a time.

    Example:
        >>> list(in_order(5, batch_size=2))
        [tensor([0, 1]), tensor([2, 3]), tensor([4])]
    """
    for start in range(0, size, batch_size):
        yield torch.arange(start, min(start + batch_size, size))


def shuffled(size: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row positions in an order drawn from a generator, each once, a batch at a time.

    Up to a million rows the order is any of the size! with the same chance, and held. Beyond, it is a Feistel network
    over the row numbers under keys from the generator, which gives the row at any place without the others.

    Reference:
        Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA (2002), sections 4 and 5: cycle walking over
        a Feistel network. Nothing secret depends on it here.

    Example:
        >>> torch.cat(list(shuffled(5, 2, torch.Generator().manual_seed(0)))).sort().values
        tensor([0, 1, 2, 3, 4])
    """
    if size <= HELD:
        yield from torch.split(torch.randperm(size, generator=generator), batch_size)
        return
    keys = torch.randint(2**62, (ROUNDS,), generator=generator).numpy().astype(np.uint64)
    for places in in_order(size, batch_size):
        yield torch.from_numpy(_rows_at(places.numpy().astype(np.uint64), size, keys).astype(np.int64))


def _rows_at(places: Words, size: int, keys: Words) -> Words:
    """A permutation of the smallest square power of two that holds all rows, walked until it is back among them."""
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    rows = _network(places, half, keys)
    while (outside := rows >= size).any():
        rows[outside] = _network(rows[outside], half, keys)
    return rows


def _network(words: Words, half: np.uint64, keys: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = words >> half, words & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << half) | right


def _mixed(words: Words) -> Words:
    """SplitMix64's output function: every bit of a word depends on every other."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
