"""Equivalence within a margin, in place of "not significant"; and Holm's correction of several p-values."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from nabla_tau.auditing.ranks import Auc
from nabla_tau.auditing.samples import one_each
from nabla_tau.membership import Numbers


@dataclass(frozen=True)
class MeanEquivalence:
    """Two means, and how far apart they can be.

    Attributes:
        difference: mean of the first sample less mean of the second, in the samples' unit.
        low_90: lower end of the 90 % Welch interval; None if no sample varies, which leaves no error to estimate.
        high_90: upper end of it, or None.
        certified_margin: smallest margin within which the means are equivalent at level 0.05, or None.
        p: of the two one-sided tests for the margin asked for; below the level, the means are equivalent.
    """

    difference: float
    low_90: float | None
    high_90: float | None
    certified_margin: float | None
    p: float


def certified_margin(area: Auc) -> float:
    """Smallest δ for which two one-sided tests at level 0.05 show |AUC − 0.5| < δ.

        δ = max(|low_90 − 0.5|, |high_90 − 0.5|)

    Args:
        area: from `auc`.

    Returns:
        δ in [0, 0.5]; about 0.67 / √n for n samples a side and an AUC of 0.5.

    Reference:
        Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987).

    Example:
        >>> from nabla_tau.auditing.ranks import auc
        >>> round(certified_margin(auc(np.arange(1000.0), np.arange(1000.0))), 3)
        0.021
    """
    return max(abs(area.low_90 - 0.5), abs(area.high_90 - 0.5))


def welch_tost(first: Numbers, second: Numbers, *, margin: float) -> MeanEquivalence:
    """Two one-sided Welch tests of |mean(first) − mean(second)| < margin. Sees means only: never use it alone.

        p = max(P(T > (d + margin) / s), P(T < (d − margin) / s)),   s² = s₁²/n₁ + s₂²/n₂,   T: Student, Welch's degrees

    Args:
        first: shape (n₁,).
        second: shape (n₂,).
        margin: in the samples' unit, above 0.

    Returns:
        The difference with its 90 % interval.

    Raises:
        ValueError: if a side has fewer than 10 samples, a number is not finite, or the margin is not above 0.

    Reference:
        Schuirmann (1987); degrees of freedom: Welch, Biometrika 34 (1947).

    Example:
        >>> result = welch_tost(np.arange(100.0), np.arange(100.0), margin=10.0)
        >>> round(result.certified_margin, 2), round(result.p, 3)
        (6.78, 0.008)
    """
    first, second = one_each(first=first, second=second)
    if not margin > 0:
        raise ValueError(f"Expected a margin above 0, got {margin}.")
    difference = float(first.mean() - second.mean())
    parts = np.array([side.var(ddof=1) / len(side) for side in (first, second)])
    error = float(np.sqrt(parts.sum()))
    if not np.ptp(first) and not np.ptp(second):
        return MeanEquivalence(difference, None, None, None, 1.0)
    degrees = error**4 / float((parts**2 / [len(first) - 1, len(second) - 1]).sum())
    reach = float(student.isf(0.05, degrees)) * error
    p = float(student.sf((margin - abs(difference)) / error, degrees))  # the harder of the two tests
    low, high = difference - reach, difference + reach
    return MeanEquivalence(difference, low, high, max(abs(low), abs(high)), p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: the adjusted p-values hold for all attacks of a family together.

        adjusted p_(i) = max_{j ≤ i} min(1, (k − j + 1) p_(j)),   p_(1) ≤ … ≤ p_(k)

    Args:
        p_values: name of a test -> its p-value.

    Returns:
        The same names, in the same order, with adjusted p-values.

    Raises:
        ValueError: if a p-value is not in [0, 1].

    Reference:
        Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
        >>> holm({"loss": 0.03, "entropy": 0.01})
        {'loss': 0.03, 'entropy': 0.02}
    """
    wrong = {name: p for name, p in p_values.items() if not 0 <= p <= 1}
    if wrong:
        raise ValueError(f"Expected p-values in [0, 1], got {wrong}.")
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
