"""Distances between two samples that see any difference of shape, with permutation p-values."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from nabla_tau.auditing.samples import one_each, rows_each
from nabla_tau.membership import Numbers

MOST_ROWS = 2000
"""Rows a side for the energy distance, whose cost grows with their square."""

AT_ONCE = 50
"""Permutations held in memory together."""


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """The largest gap between two distribution functions.

    Attributes:
        value: D, in [0, 1].
        low: lower end of a 95 % interval for the gap between the distributions themselves.
        high: upper end of it.
        p: permutation p-value of equal distributions.
        permutations: how many it comes from; the smallest p is 1 / (permutations + 1).
    """

    value: float
    low: float
    high: float
    p: float
    permutations: int


@dataclass(frozen=True)
class EnergyDistance:
    """The energy distance of two samples of rows, in pooled standard deviations.

    Attributes:
        value: 0 for equal samples.
        p: permutation p-value of equal distributions.
        permutations: how many it comes from.
        members: rows used.
        non_members: rows used.
        members_given: rows given; more than were used if there were over 2,000.
        non_members_given: rows given.
    """

    value: float
    p: float
    permutations: int
    members: int
    non_members: int
    members_given: int
    non_members_given: int


def kolmogorov_smirnov(
    members: Numbers, non_members: Numbers, *, permutations: int = 1000, seed: int = 0
) -> KolmogorovSmirnov:
    """Kolmogorov–Smirnov distance D = sup_s |F(s) − G(s)|, with a permutation p-value.

        p = (1 + #{permutations with at least this D}) / (1 + permutations)

    The interval is D ± (ε_n + ε_m), ε_n = √(ln(4 / 0.05) / 2n): no bootstrap, which would push D upwards. Neither the
    order of the samples nor swapping the sides changes anything.

    Args:
        members: one score per member, shape (n,).
        non_members: one score per non-member, shape (m,).
        permutations: random relabelings.
        seed: of the relabelings.

    Returns:
        D with interval and p-value.

    Raises:
        ValueError: if a side has fewer than 10 samples, or a score is not finite.

    Reference:
        The interval: Massart, Annals of Probability 18 (1990).

    Example:
        >>> result = kolmogorov_smirnov(np.arange(40.0), np.arange(40.0) + 10)
        >>> round(result.value, 2), result.p < 0.2
        (0.25, True)
    """
    members, non_members = one_each(members=members, non_members=non_members)
    n, m = len(members), len(non_members)
    pooled = np.concatenate([members, non_members])
    order = np.argsort(pooled, kind="stable")
    ends = np.append(np.diff(pooled[order]) > 0, True)  # inside a run of ties the two functions are not defined

    def gaps(chosen: Numbers) -> Numbers:
        """D for each row of `chosen`, which marks one side in the pooled order, and has its size."""
        size = chosen[0].sum()
        share = np.cumsum(chosen, axis=1)[:, ends]
        gap: Numbers = np.abs(share / size - (np.flatnonzero(ends) + 1 - share) / (n + m - size)).max(axis=1)
        return gap

    value = float(gaps((order < n)[None].astype(np.float64))[0])
    null = np.concatenate([gaps(chosen) for chosen in _relabelings(n, m, permutations, seed)])
    reach = float(np.sqrt(np.log(80) / (2 * n)) + np.sqrt(np.log(80) / (2 * m)))
    return KolmogorovSmirnov(value, max(value - reach, 0.0), min(value + reach, 1.0), _p(value, null), permutations)


def energy_distance(
    members: Numbers, non_members: Numbers, *, permutations: int = 1000, seed: int = 0
) -> EnergyDistance:
    """Energy distance of rows of features, each feature divided by its pooled standard deviation.

        2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖,   means over all pairs;   p as in `kolmogorov_smirnov`

    A side of more than 2,000 rows is cut to 2,000 at random, which the result says. Neither the order of the rows nor
    swapping the sides changes anything.

    Args:
        members: one row per member, shape (n, D) or (n,).
        non_members: one row per non-member, shape (m, D) or (m,).
        permutations: random relabelings.
        seed: of cutting and relabeling.

    Returns:
        The distance with its p-value.

    Raises:
        ValueError: if a side has fewer than 10 rows, the sides differ in D, or a number is not finite.

    Reference:
        Székely and Rizzo, Journal of Statistical Planning and Inference 143 (2013).

    Example:
        >>> apart = energy_distance(np.arange(40.0), np.arange(40.0) + 20)
        >>> round(apart.value, 3), apart.p < 0.05
        (1.092, True)
    """
    given = rows_each(members=members, non_members=non_members)
    used = [_cut(rows, seed) for rows in given]
    n, m = (len(rows) for rows in used)
    pooled = np.concatenate(used)
    order = np.lexsort(pooled.T)
    spread = pooled.std(axis=0)
    distances = cdist(*[pooled[order] / np.where(spread > 0, spread, 1.0)] * 2)
    of_row, total = distances.sum(axis=1), distances.sum()

    def energies(chosen: Numbers) -> Numbers:
        """The distance for each row of `chosen`, which marks one side, and has its size."""
        size = chosen[0].sum()
        rest = n + m - size
        inside = np.einsum("bi,bi->b", chosen @ distances, chosen)
        across = chosen @ of_row - inside
        outside = total - inside - 2 * across
        energy: Numbers = 2 * across / (size * rest) - inside / size**2 - outside / rest**2
        return energy

    value = float(energies((order < n)[None].astype(np.float64))[0])
    null = [energies(chosen) for chosen in _relabelings(n, m, permutations, seed)]
    sizes = (n, m, len(given[0]), len(given[1]))
    return EnergyDistance(max(value, 0.0), _p(value, np.concatenate(null)), permutations, *sizes)


def _relabelings(n: int, m: int, permutations: int, seed: int) -> Iterator[Numbers]:
    """Marks of random groups as large as the smaller side, so that swapping the sides draws the same groups."""
    generator = np.random.default_rng(seed)
    marks = np.zeros((AT_ONCE, n + m))
    marks[:, : min(n, m)] = 1
    for start in range(0, permutations, AT_ONCE):
        yield generator.permuted(marks[: permutations - start], axis=1)


def _cut(rows: Numbers, seed: int) -> Numbers:
    """At most so many of them, drawn by what they are: with one draw for both sides, these would keep equal ranks."""
    ordered = np.ascontiguousarray(rows[np.lexsort(rows.T)])
    if len(ordered) <= MOST_ROWS:
        return ordered
    content = int.from_bytes(hashlib.sha256(ordered.tobytes()).digest()[:8], "big")
    return ordered[np.random.default_rng([seed, content]).choice(len(ordered), MOST_ROWS, replace=False)]


def _p(value: float, null: Numbers) -> float:
    as_far = null >= value - 1e-10  # equal values differ by rounding
    return float((1 + as_far.sum()) / (1 + len(null)))
