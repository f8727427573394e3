"""Margins and corrections against statsmodels; equivalence is claimed no oftener than its level allows."""

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from nabla_tau.auditing.equivalence import certified_margin, holm
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
