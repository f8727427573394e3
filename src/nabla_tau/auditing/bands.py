"""Where a new retrained model would fall, from K of them; and bootstrap intervals of any measure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from nabla_tau.auditing.samples import FEWEST, one_each
from nabla_tau.membership import Numbers


@dataclass(frozen=True)
class Band:
    """A 95 % prediction interval for one more retrained model.

    Attributes:
        mean: of the retrained models.
        standard_deviation: of the retrained models.
        factor: c_K; the band is mean ± factor · standard_deviation.
        low: lower end of the band.
        high: upper end of the band.
        retrained: K, the models that it comes from.
    """

    mean: float
    standard_deviation: float
    factor: float
    low: float
    high: float
    retrained: int


@dataclass(frozen=True)
class Interval:
    """A measure with its 95 % bootstrap interval.

    Attributes:
        value: the measure on all rows.
        low: lower end.
        high: upper end.
        samples: rows that it comes from.
        resamples: bootstrap resamples.
    """

    value: float
    low: float
    high: float
    samples: int
    resamples: int


def prediction_band(values: Numbers) -> Band:
    """Where the measure of one more retrained model would fall, with probability 0.95.

        mean ± c_K · SD,   c_K = t_{K−1, 0.975} √(1 + 1/K): 15.6, 4.97, 3.56, 3.04 for K = 2, 3, 4, 5

    Args:
        values: the measure of each retrained model, shape (K,), taken to be normal.

    Returns:
        The band.

    Raises:
        ValueError: if K < 2, or a value is not finite.

    Example:
        >>> band = prediction_band(np.array([0.90, 0.91, 0.92]))
        >>> round(band.factor, 2), round(band.low, 3), round(band.high, 3)
        (4.97, 0.86, 0.96)
    """
    (values,) = one_each(2, retrained_models=values)
    count = len(values)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    factor = float(student.isf(0.025, count - 1) * np.sqrt(1 + 1 / count))
    return Band(mean, spread, factor, mean - factor * spread, mean + factor * spread, count)


def mean_interval(values: Numbers, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of one number per sample, with its 95 % percentile bootstrap interval.

    Args:
        values: shape (N,), such as losses, or 1 where a prediction is right and 0 elsewhere.
        resamples: how often all samples are drawn again.
        seed: of the drawing.

    Returns:
        The mean with its interval, which has no width where no sample differs: a share of 0 or 1 takes `exact_rate`.

    Raises:
        ValueError: if there are fewer than 10 samples, or a number is not finite.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Example:
        >>> result = mean_interval(np.arange(100.0), resamples=200)
        >>> result.value, 42 < result.low < 45 < 54 < result.high < 57
        (49.5, True)
    """
    (values,) = one_each(values=values)
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    return _percentiles(float(values.mean()), means, len(values))


def bootstrap_interval(
    statistic: Callable[..., float], *samples: NDArray[Any], resamples: int = 2000, seed: int = 0
) -> Interval:
    """Any measure of a set, with its 95 % percentile bootstrap interval: rows are drawn again with replacement.

    Args:
        statistic: of arrays like `samples`, such as a scikit-learn metric.
        *samples: one or several arrays of the same rows, such as targets and predictions, shape (N, …) each.
        resamples: how often all rows are drawn again.
        seed: of the drawing.

    Returns:
        The measure with its interval.

    Raises:
        ValueError: if there are fewer than 10 rows, arrays of different lengths, or a measure that is not finite.

    Reference:
        As `mean_interval`.

    Example:
        >>> from sklearn.metrics import r2_score
        >>> target = np.arange(50.0)
        >>> round(bootstrap_interval(r2_score, target, target + np.tile([1, -1], 25), resamples=50).value, 3)
        0.995
    """
    lengths = {len(rows) for rows in samples}
    if len(lengths) != 1 or min(lengths) < FEWEST:
        raise ValueError(f"Expected arrays of the same rows, at least {FEWEST}, got lengths {sorted(lengths)}.")
    (count,) = lengths
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(count, size=count) for _ in range(resamples))
    return _percentiles(statistic(*samples), [statistic(*(rows[i] for rows in samples)) for i in drawn], count)


def _percentiles(value: float, resampled: list[float], samples: int) -> Interval:
    if not np.isfinite([value, *resampled]).all():
        raise ValueError("Expected a finite measure on the set and on every resample; more samples may give that.")
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high), samples, len(resampled))
