"""Prediction bands by table and coverage; bootstrap intervals by coverage and against SciPy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from nabla_tau.auditing.bands import bootstrap_interval, mean_interval, prediction_band
from tests.auditing.chance import bound

FACTORS = {2: 15.6, 3: 4.97, 4: 3.56, 5: 3.04, 8: 2.51, 10: 2.37, 20: 2.14}


@pytest.mark.parametrize("count", FACTORS)
def test_factor_as_tabulated(count):
    values = np.random.default_rng(0).normal(size=count)
    band = prediction_band(values)
    assert band.factor == pytest.approx(FACTORS[count], abs=0.05)
    assert (band.mean, band.standard_deviation) == pytest.approx((np.mean(values), stats.tstd(values)))
    assert (
        band.high - band.mean == pytest.approx(band.mean - band.low) == pytest.approx(band.factor * stats.tstd(values))
    )
    assert band.retrained == count


@pytest.mark.parametrize("count", [3, 5])
def test_a_new_model_falls_into_the_band(count):
    draws = np.random.default_rng(0).normal(0.9, 0.01, size=(400, count + 1))
    bands = [prediction_band(draw[1:]) for draw in draws]
    low, high = bound(0.95, 400)
    assert low <= sum(band.low <= draw[0] <= band.high for band, draw in zip(bands, draws, strict=True)) <= high


def test_one_model_is_no_band():
    with pytest.raises(ValueError, match="at least 2 retrained models, got 1"):
        prediction_band(np.array([0.9]))
    with pytest.raises(ValueError, match="1 others among retrained models"):
        prediction_band(np.array([0.9, 0.91, np.nan]))


def test_mean_interval_against_scipy():
    values = np.random.default_rng(0).exponential(size=200)
    result = mean_interval(values, resamples=4000)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert (result.value, result.samples, result.resamples) == (values.mean(), 200, 4000)


def test_mean_interval_covers():
    draws = np.random.default_rng(0).normal(size=(200, 100))
    results = [mean_interval(draw, resamples=1000, seed=seed) for seed, draw in enumerate(draws)]
    low, high = bound(0.95, 200)
    assert low <= sum(r.low <= 0 <= r.high for r in results) <= high


def test_any_measure_keeps_rows_together():
    """Pairs drawn apart would have no correlation."""
    first = np.random.default_rng(0).normal(size=100)
    result = bootstrap_interval(lambda a, b: np.corrcoef(a, b)[0, 1], first, 2 * first, resamples=50)
    assert (result.low, result.high) == pytest.approx((1.0, 1.0))


def test_a_measure_of_scikit_learn():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 2, size=(60, 3))
    predicted = np.where(generator.random((60, 3)) < 0.8, target, 1 - target)
    result = bootstrap_interval(lambda a, b: f1_score(a, b, average="macro"), target, predicted, resamples=40)
    assert result.value == f1_score(target, predicted, average="macro")
    assert result.low < result.value < result.high


@pytest.mark.parametrize(
    "interval", [mean_interval, lambda values, **how: bootstrap_interval(np.median, values, **how)]
)
def test_seeds(interval):
    values = np.random.default_rng(0).normal(size=50)
    one, again, other = (interval(values, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_bad_input():
    with pytest.raises(ValueError, match="at least 10 values, got 4"):
        mean_interval(np.zeros(4))
    with pytest.raises(ValueError, match=r"same rows, at least 10, got lengths \[20, 21\]"):
        bootstrap_interval(np.corrcoef, np.zeros(20), np.zeros(21))
    with pytest.raises(ValueError, match="finite measure"):
        bootstrap_interval(lambda a: float("nan"), np.zeros(20), resamples=5)
