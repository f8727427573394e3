"""Rates with exact intervals, and the true-positive rate at a low false-positive rate."""

from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.stats import binomtest

from nabla_tau.auditing.samples import fraction_of_one, one_each
from nabla_tau.membership import Numbers

FALSE_POSITIVES = 10
"""False positives that a non-member sample must lead one to expect before a rate at that threshold is given."""


@dataclass(frozen=True)
class Rate:
    """A share of samples, with its interval.

    Attributes:
        value: count / samples, in [0, 1].
        low: lower end of the interval.
        high: upper end of the interval.
        count: samples that have the property.
        samples: samples asked.
    """

    value: float
    low: float
    high: float
    count: int
    samples: int

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


@dataclass(frozen=True)
class TprAtFpr:
    """The share of members found when a false-positive rate is kept, or how many non-members that would need.

    Attributes:
        fpr: the false-positive rate to keep, in (0, 1).
        non_members: how many were given.
        needed: how many are needed, 10 / fpr.
        tpr: share of members above the threshold; None if n is too small.
        realised_fpr: share of the evaluation half of the non-members above it; None if n is too small.
        threshold: a score above it counts as "member"; None if n is too small.
    """

    fpr: float
    non_members: int
    needed: int
    tpr: Rate | None
    realised_fpr: Rate | None
    threshold: float | None

    def __str__(self) -> str:
        if self.tpr is None:
            return f"n too small: {self.needed:,} non-members are needed, {self.non_members:,} given"
        return str(self.tpr)


def exact_rate(count: int, samples: int, *, level: float = 0.95) -> Rate:
    """A rate with the interval of Clopper and Pearson, which covers at least as often as it says.

        low = B(α/2; k, n − k + 1),   high = B(1 − α/2; k + 1, n − k),   B the quantiles of the beta distribution

    Args:
        count: k.
        samples: n.
        level: 1 − α.

    Returns:
        The rate.

    Raises:
        ValueError: if there are no samples, or the count is not one of them.

    Reference:
        Clopper and Pearson, Biometrika 26 (1934).

    Example:
        >>> str(exact_rate(10, 1000))
        '1.00 % [0.48, 1.83]'
    """
    fraction_of_one(level=level)
    if not 0 <= count <= samples or samples < 1:
        raise ValueError(f"Expected a count out of at least 1 sample, got {count} out of {samples}.")
    interval = binomtest(count, samples).proportion_ci(level, "exact")
    return Rate(count / samples, float(interval.low), float(interval.high), count, samples)


def tpr_at_fpr(members: Numbers, non_members: Numbers, *, fpr: float = 0.01, seed: int = 0) -> TprAtFpr:
    """Share of members above a threshold that at most `fpr` of new non-members exceed on average.

        threshold = the ⌈(n + 1)(1 − fpr)⌉-th smallest of the n scores in a random half of the non-members

    The other half says what the threshold really lets through. Both intervals are for this one threshold.

    Args:
        members: one score per member, higher for what looks more like one, shape (N,).
        non_members: one score per non-member, shape (M,).
        fpr: false-positive rate to keep.
        seed: of the split into halves.

    Returns:
        The rates, or none of them if M < 10 / fpr: fewer than 10 false positives are no measurement.

    Raises:
        ValueError: if there are fewer than 10 members, no non-members, or a score is not finite.

    Reference:
        Carlini et al., arXiv:2112.03570 (why low rates); the threshold as in split conformal prediction.

    Example:
        >>> result = tpr_at_fpr(np.arange(2000.0) + 1000, np.arange(2000.0))
        >>> str(result), str(tpr_at_fpr(np.arange(50.0), np.arange(50.0)))
        ('50.90 % [48.68, 53.11]', 'n too small: 1,000 non-members are needed, 50 given')
    """
    fraction_of_one(fpr=fpr)
    (members,), (non_members,) = one_each(members=members), one_each(1, non_members=non_members)
    needed = ceil(round(FALSE_POSITIVES / fpr, 6))
    if len(non_members) < needed:
        return TprAtFpr(fpr, len(non_members), needed, None, None, None)
    shuffled = np.random.default_rng(seed).permutation(non_members)
    calibration, evaluation = shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :]
    threshold = float(np.sort(calibration)[conformal_rank(len(calibration), fpr) - 1])
    tpr = exact_rate(int((members > threshold).sum()), len(members))
    realised = exact_rate(int((evaluation > threshold).sum()), len(evaluation))
    return TprAtFpr(fpr, len(non_members), needed, tpr, realised, threshold)


def conformal_rank(samples: int, share: float) -> int:
    """Rank, from 1 for the smallest, of the value that at most `share` of new samples exceed on average.

        ⌈(n + 1)(1 − share)⌉

    Args:
        samples: n, at least 1 / share − 1.
        share: in (0, 1).

    Raises:
        ValueError: if n is too small for the rank to exist.

    Example:
        >>> conformal_rank(999, 0.01)
        990
    """
    rank = ceil(round((samples + 1) * (1 - share), 6))  # 0.99 · 1000 is 990, whatever the rounding of 0.99
    if rank > samples:
        raise ValueError(f"Expected at least {ceil(round(1 / share, 6)) - 1} samples for {share:g}, got {samples}.")
    return rank
