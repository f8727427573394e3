"""Margins and corrections against statsmodels; equivalence is claimed no oftener than its level allows."""

import numpy as np
import pytest
from scipy.stats import norm, ttest_ind
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind

from nabla_tau.auditing.equivalence import certified_margin, holm, welch_tost
from nabla_tau.auditing.ranks import auc
from tests.auditing.chance import bound


@pytest.mark.parametrize(("size", "margin"), [(100, 0.067), (250, 0.043), (1000, 0.021), (5000, 0.0095)])
def test_margin_at_chance_as_tabulated(size, margin):
    values = np.arange(float(size))
    assert certified_margin(auc(values, values)) == pytest.approx(margin, rel=0.03)


def test_margin_is_the_farther_end_on_either_side():
    members, others = np.random.default_rng(0).normal(np.array([[0.4], [0.0]]), size=(2, 100))
    result = auc(members, others)
    assert certified_margin(result) == result.high_90 - 0.5
    assert certified_margin(auc(others, members)) == pytest.approx(certified_margin(result))
    assert certified_margin(auc(np.ones(50), np.ones(50))) == pytest.approx((1 - 0.05 ** (1 / 50)) / 2)


def test_margin_is_below_the_truth_at_most_as_often_as_its_level():
    truth = norm.cdf(0.3 / np.sqrt(2)) - 0.5
    generator = np.random.default_rng(0)
    draws = ([generator.normal(0.3, size=100), generator.normal(size=120)] for _ in range(400))
    assert sum(certified_margin(auc(*draw)) < truth for draw in draws) <= bound(0.05, 400)[1]


@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_welch_against_statsmodels(margin):
    generator = np.random.default_rng(1)
    first, second = generator.normal(0.1, size=80), generator.normal(scale=3, size=200)
    result = welch_tost(first, second, margin=margin)
    assert result.p == pytest.approx(ttost_ind(first, second, -margin, margin, usevar="unequal")[0])
    interval = ttest_ind(first, second, equal_var=False).confidence_interval(0.90)
    assert (result.low_90, result.high_90) == pytest.approx((interval.low, interval.high))
    assert welch_tost(first, second, margin=result.certified_margin).p == pytest.approx(0.05)


def test_welch_without_spread_certifies_nothing():
    result = welch_tost(np.zeros(20), np.zeros(20), margin=1.0)
    assert (result.difference, result.low_90, result.high_90, result.certified_margin, result.p) == (
        0.0,
        None,
        None,
        None,
        1.0,
    )
    assert welch_tost(np.zeros(20), np.arange(20.0), margin=20.0).p < 0.05


def test_welch_refuses():
    with pytest.raises(ValueError, match="at least 10 first, got 3"):
        welch_tost(np.zeros(3), np.zeros(20), margin=1.0)
    with pytest.raises(ValueError, match="margin above 0, got 0"):
        welch_tost(np.zeros(20), np.zeros(20), margin=0)


def test_holm_by_hand():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({}) == {}
    with pytest.raises(ValueError, match="'b': nan"):
        holm({"a": 0.5, "b": float("nan")})


def test_holm_against_statsmodels():
    p_values = dict(zip("abcdefgh", np.random.default_rng(0).random(8) ** 3, strict=True))
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    assert list(adjusted.values()) == pytest.approx(multipletests(list(p_values.values()), method="holm")[1])
