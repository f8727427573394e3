"""The area under the ROC curve from ranks, with DeLong's interval; alone, or against another score."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from nabla_tau.auditing.samples import one_each
from nabla_tau.membership import Numbers


@dataclass(frozen=True)
class Auc:
    """P(a member scores higher than a non-member), half of it where both score the same.

    Attributes:
        value: in [0, 1]; 0.5 is chance, and a value below it tells the sides apart as well.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        low_90: lower end of the 90 % interval, the one of an equivalence test at level 0.05.
        high_90: upper end of the 90 % interval.
        standard_error: DeLong's.
        p: two-sided Mann–Whitney p-value of equal distributions, in the normal approximation with ties.
        members: how many.
        non_members: how many.
    """

    value: float
    low: float
    high: float
    low_90: float
    high_90: float
    standard_error: float
    p: float
    members: int
    non_members: int


@dataclass(frozen=True)
class AucDifference:
    """AUC of one score less that of another score of the same samples.

    Attributes:
        value: in [−1, 1].
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        standard_error: DeLong's, which counts that both scores come from the same samples.
        p: two-sided p-value of no difference.
    """

    value: float
    low: float
    high: float
    standard_error: float
    p: float


def auc(members: Numbers, non_members: Numbers) -> Auc:
    """Area under the ROC curve, from mid-ranks, with DeLong's variance.

        AUC = mean_i U_i = mean_j V_j,   U_i = P(x_i > y) + ½ P(x_i = y),   V_j = P(x > y_j) + ½ P(x = y_j)
        variance = var(U) / n + var(V) / m;   the interval is symmetric in logit AUC, so it stays in [0, 1]

    Where no sample differs from the next (sides fully apart, or all tied) that variance is 0 and knows nothing. Then
    the k = min(n, m) disjoint pairs that all agree bound the share that would not: 1 − (½(1 − level))^(1/k), as
    Clopper and Pearson bound a rate of 0 out of k. A few samples away from full separation it is approximate.

    Args:
        members: x, one score per member, higher for what looks more like one, shape (n,).
        non_members: y, one score per non-member, shape (m,).

    Returns:
        The area with its intervals.

    Raises:
        ValueError: if a side has fewer than 10 samples, or a score is not finite.

    Reference:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); by ranks as Sun and Xu, IEEE SPL 21 (2014).

    Example:
        >>> result = auc(np.arange(20.0) + 4, np.arange(20.0))
        >>> round(result.value, 2), round(result.low, 2), round(result.high, 2)
        (0.68, 0.5, 0.82)
    """
    members, non_members = one_each(members=members, non_members=non_members)
    above, below = placements(members, non_members)
    value = float(above.mean())
    error = _standard_error(above, below)
    low, high = _interval(value, error, members, non_members, 0.95)
    low_90, high_90 = _interval(value, error, members, non_members, 0.90)
    null = null_error(members, non_members)
    p = float(2 * norm.sf(abs(value - 0.5) / null)) if null else 1.0
    return Auc(value, low, high, low_90, high_90, error, p, len(members), len(non_members))


def auc_difference(
    members: Numbers, non_members: Numbers, *, other_members: Numbers, other_non_members: Numbers
) -> AucDifference:
    """How much better one score separates than another, on the same samples: DeLong's test for paired areas.

        difference = AUC − AUC';   variance = var(U − U') / n + var(V − V') / m

    Where that variance is 0, the disjoint pairs of `auc` give interval and p-value.

    Args:
        members: one score per member, shape (n,).
        non_members: one score per non-member, shape (m,).
        other_members: the other score of the same members in the same order, shape (n,).
        other_non_members: the other score of the same non-members in the same order, shape (m,).

    Returns:
        The difference with its interval.

    Raises:
        ValueError: as `auc`, or if the two scores are not of equally many samples.

    Reference:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).

    Example:
        >>> x, y = np.arange(20.0) + 4, np.arange(20.0)
        >>> round(auc_difference(x, y, other_members=-x, other_non_members=-y).value, 3)
        0.36
    """
    first = one_each(members=members, non_members=non_members)
    other = one_each(other_members=other_members, other_non_members=other_non_members)
    sizes, others = [len(side) for side in first], [len(side) for side in other]
    if sizes != others:
        raise ValueError(f"Expected two scores of the same samples, got {sizes} and {others} of them.")
    above, below = (a - b for a, b in zip(placements(*first), placements(*other), strict=True))
    value, error, pairs = float(above.mean()), _standard_error(above, below), min(sizes)
    if not error:
        reach = _unseen_share(pairs, 0.95)
        p = min(1.0, 2 * (1 + abs(value)) ** -pairs)  # the level at which that interval touches 0
        return AucDifference(value, value - (1 + value) * reach, value + (1 - value) * reach, 0.0, p)
    margin = float(norm.isf(0.025)) * error
    p = float(2 * norm.sf(abs(value) / error))
    return AucDifference(value, max(value - margin, -1.0), min(value + margin, 1.0), error, p)


def placements(members: Numbers, non_members: Numbers) -> tuple[Numbers, Numbers]:
    """Where each sample stands among those of the other side: U and V of `auc`.

    Args:
        members: x, shape (n,).
        non_members: y, shape (m,).

    Returns:
        U, the share of non-members below each member, shape (n,), and V, the share of members above each
        non-member, shape (m,); ties count half.

    Example:
        >>> [values.tolist() for values in placements(np.array([1.0, 3.0]), np.array([1.0, 2.0]))]
        [[0.25, 1.0], [0.75, 0.5]]
    """
    n, m = len(members), len(non_members)
    ranks = rankdata(np.concatenate([members, non_members]))
    above = (ranks[:n] - rankdata(members)) / m
    below = (n - (ranks[n:] - rankdata(non_members))) / n
    return above, below


def null_error(members: Numbers, non_members: Numbers) -> float:
    """Standard error of the AUC if both sides have the same distribution, 0 if all scores are tied.

        variance = (n + m + 1) / (12 n m) · (1 − Σ (t³ − t) / (N³ − N)),   t the sizes of the ties, N = n + m

    Args:
        members: shape (n,).
        non_members: shape (m,).

    Example:
        >>> round(null_error(np.arange(50.0), np.arange(50.0) + 0.5), 3)
        0.058
    """
    n, m = len(members), len(non_members)
    total = n + m
    ties = np.unique(np.concatenate([members, non_members]), return_counts=True)[1].astype(np.float64)
    untied = 1 - float((ties**3 - ties).sum()) / (total**3 - total)
    return float(np.sqrt(max(untied, 0.0) * (total + 1) / (12 * n * m)))


def _standard_error(above: Numbers, below: Numbers) -> float:
    if not np.ptp(above) and not np.ptp(below):
        return 0.0  # exactly, where rounding would leave a trace
    return float(np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)))


def _interval(value: float, error: float, members: Numbers, non_members: Numbers, level: float) -> tuple[float, float]:
    if not error:
        reach = _unseen_share(min(len(members), len(non_members)), level)
        return value - value * reach, value + (1 - value) * reach
    margin = float(norm.isf((1 - level) / 2)) * error / (value * (1 - value))
    return float(expit(logit(value) - margin)), float(expit(logit(value) + margin))


def _unseen_share(pairs: int, level: float) -> float:
    return float(1 - ((1 - level) / 2) ** (1 / pairs))
