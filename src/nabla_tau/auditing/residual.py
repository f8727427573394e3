"""What is left of a forget set: the fraction still memorised, the worst samples; and forgetting too much."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from nabla_tau.auditing.ranks import Auc, auc
from nabla_tau.auditing.rates import Rate, conformal_rank, exact_rate
from nabla_tau.auditing.samples import one_each
from nabla_tau.membership import Numbers

BEYOND = 0.01
"""Share of unseen samples beyond the threshold of over-forgetting: their 99th percentile."""


@dataclass(frozen=True)
class Residual:
    """Estimated fraction of the forget set still memorised; all None where retain and test cannot be told apart.

    Attributes:
        fraction: π, clipped to [0, 1].
        low: lower end of a 95 % bootstrap interval, clipped.
        high: upper end of it, clipped.
        unclipped: the estimate itself; well below 0 is over-forgetting.
        threshold: t; a score above it counts as memorised.
        forget_above: share of the forget set above t.
        retain_above: share of the evaluation half of the retain set above t.
        test_above: share of the evaluation half of the test set above t.
    """

    fraction: float | None
    low: float | None
    high: float | None
    unclipped: float | None
    threshold: float
    forget_above: float
    retain_above: float
    test_above: float


@dataclass(frozen=True)
class OverForgetting:
    """Whether forget samples cost more than unseen ones.

    Attributes:
        beyond: share of the forget set with a loss above the threshold, with its 95 % interval.
        expected: that share for unseen samples.
        threshold: the 99th percentile of the test losses.
        p: one-sided p-value of no more forget samples beyond the threshold than unseen ones.
        costlier: P(a forget sample costs more than an unseen one).
        direction: "more" or "less" if the 95 % interval of `costlier` excludes 0.5, else "undecided".
    """

    beyond: Rate
    expected: float
    threshold: float
    p: float
    costlier: Auc
    direction: Literal["more", "less", "undecided"]


def residual_fraction(
    *, forget: Numbers, retain: Numbers, test: Numbers, resamples: int = 2000, seed: int = 0
) -> Residual:
    """Fraction of the forget set that still scores as members do.

        π = (mean 1[s_forget > t] − FPR) / (TPR − FPR),   TPR = mean 1[s_retain > t],   FPR = mean 1[s_test > t]

    t is where random halves of retain and test set differ most; the other halves give TPR and FPR; the forget set has
    no say in t. All rates are drawn again for the interval. Members are what the unlearned model makes of its retain
    set: if unlearning changed that too, π is relative to it.

    Args:
        forget: one score per forget sample, higher for what looks more like a member, shape (n,).
        retain: one score per retain sample, shape (k,).
        test: one score per unseen sample, shape (m,).
        resamples: bootstrap resamples.
        seed: of halving and resampling.

    Returns:
        The fraction, or None with the rates, where TPR − FPR is not clearly above 0: less than two standard errors.

    Raises:
        ValueError: if a set has fewer than 20 samples, or a score is not finite.

    Reference:
        Forman, Data Mining and Knowledge Discovery 17 (2008): adjusted count.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> members, others = generator.normal(2, size=4000), generator.normal(size=4000)
        >>> forget = np.r_[generator.normal(2, size=400), generator.normal(size=1600)]
        >>> result = residual_fraction(forget=forget, retain=members, test=others)
        >>> result.low < 0.2 < result.high
        True
    """
    forget, retain, test = one_each(20, forget_samples=forget, retain_samples=retain, test_samples=test)
    generator = np.random.default_rng(seed)
    (choosing_retain, retain), (choosing_test, test) = (
        np.array_split(generator.permutation(side), 2) for side in (retain, test)
    )
    threshold = _threshold(choosing_retain, choosing_test)
    sides = (forget, retain, test)
    above = np.array([(side > threshold).mean() for side in sides])
    variances = above * (1 - above) / [len(side) for side in sides]
    gap = above[1] - above[2]
    if gap <= 0 or gap < 2 * np.sqrt(variances[1] + variances[2]):
        return Residual(None, None, None, None, threshold, *above.tolist())
    drawn = [
        generator.binomial(len(side), share, resamples) / len(side) for side, share in zip(sides, above, strict=True)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        again = (drawn[0] - drawn[2]) / (drawn[1] - drawn[2])
    unclipped = float((above[0] - above[2]) / gap)
    low, high = np.clip(np.nanquantile(again, [0.025, 0.975]), 0, 1)
    return Residual(min(max(unclipped, 0.0), 1.0), float(low), float(high), unclipped, threshold, *above.tolist())


def worst_samples(scores: Numbers, *, count: int = 10) -> NDArray[np.intp]:
    """Positions of the samples that look most like members, the worst first; of equal ones, the first row first.

    Args:
        scores: one score per forget sample, in the order of the rows, shape (n,).
        count: how many; fewer are returned if there are fewer.

    Returns:
        Row positions, shape (min(n, count),).

    Raises:
        ValueError: if a score is not finite.

    Example:
        >>> worst_samples(np.array([0.1, 0.9, 0.5, 0.9]), count=3).tolist()
        [1, 3, 2]
    """
    (scores,) = one_each(1, forget_samples=scores)
    return np.argsort(-scores, kind="stable")[:count]


def over_forgetting(*, forget: Numbers, test: Numbers) -> OverForgetting:
    """Whether forget samples cost more than unseen ones: beyond the 99th percentile, and on the whole.

        threshold = the k-th smallest test loss, k = ⌈0.99 (m + 1)⌉;   expected share (m + 1 − k) / (m + 1), at most 1 %
        p = P(X ≥ x),   X ~ BetaBinomial(n, m + 1 − k, k): exact, the threshold being itself a random test loss

    Args:
        forget: loss of each forget sample, shape (n,).
        test: loss of each unseen sample, shape (m,).

    Returns:
        The share beyond, with a test, and the direction of the AUC. The interval is for this one threshold.

    Raises:
        ValueError: if there are fewer than 10 forget or 99 test samples, or a loss is not finite.

    Example:
        >>> test = np.arange(1000.0)
        >>> result = over_forgetting(forget=np.r_[np.arange(95.0) * 10, np.full(5, 2000.0)], test=test)
        >>> str(result.beyond), result.p < 0.01, result.direction
        ('5.00 % [1.64, 11.28]', True, 'undecided')
    """
    (forget,), (test,) = one_each(forget_samples=forget), one_each(99, test_samples=test)
    rank = conformal_rank(len(test), BEYOND)
    threshold = float(np.sort(test)[rank - 1])
    count = int((forget > threshold).sum())
    outside = len(test) + 1 - rank
    p = float(betabinom.sf(count - 1, len(forget), outside, rank))
    costlier = auc(forget, test)
    direction: Literal["more", "less", "undecided"] = "undecided"
    if costlier.low > 0.5 or costlier.high < 0.5:
        direction = "more" if costlier.low > 0.5 else "less"
    share = exact_rate(count, len(forget))
    return OverForgetting(share, outside / (len(test) + 1), threshold, p, costlier, direction)


def _threshold(retain: Numbers, test: Numbers) -> float:
    """The score above which the shares of retain and test set differ most; the lowest of equals."""
    candidates = np.unique(np.concatenate([retain, test]))
    above = [1 - np.searchsorted(np.sort(side), candidates, side="right") / len(side) for side in (retain, test)]
    return float(candidates[np.argmax(above[0] - above[1])])
