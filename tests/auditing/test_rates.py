"""Intervals of rates against statsmodels; the true-positive rate keeps the false-positive rate that it states."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from nabla_tau.auditing.rates import conformal_rank, exact_rate, tpr_at_fpr


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_against_statsmodels(count, level):
    result = exact_rate(count, 50, level=level)
    expected = proportion_confint(count, 50, 1 - level, "beta")
    assert (result.low, result.high) == pytest.approx([float(end) for end in expected], abs=1e-12)
    assert (result.value, result.count, result.samples) == (count / 50, count, 50)


def test_published_intervals():
    """Clopper–Pearson at a rate of 1 %, as tabulated."""
    assert str(exact_rate(5, 500)) == "1.00 % [0.33, 2.32]"
    assert str(exact_rate(100, 10_000)) == "1.00 % [0.81, 1.21]"


def test_impossible_counts():
    for count, samples in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match=f"got {count} out of {samples}"):
            exact_rate(count, samples)
    with pytest.raises(ValueError, match="level"):
        exact_rate(1, 2, level=95)


def test_tpr_by_hand():
    """1,000 non-members 0 … 999: of 500 calibration scores, rank ⌈501 · 0.99⌉ = 496 is the threshold."""
    others = np.arange(1000.0)
    result = tpr_at_fpr(np.full(20, 2000.0), others, seed=3)
    halves = np.random.default_rng(3).permutation(others)
    assert result.threshold == np.sort(halves[:500])[495]
    assert result.realised_fpr.count == (halves[500:] > result.threshold).sum()
    assert (result.tpr.value, result.tpr.samples, result.realised_fpr.samples) == (1.0, 20, 500)


def test_same_seed_same_split():
    generator = np.random.default_rng(0)
    members, others = generator.normal(2, size=300), generator.normal(size=3000)
    assert tpr_at_fpr(members, others, seed=1) == tpr_at_fpr(members, others, seed=1)
    assert tpr_at_fpr(members, others, seed=1) != tpr_at_fpr(members, others, seed=2)


@pytest.mark.parametrize("decimals", [9, 1])
def test_the_false_positive_rate_is_kept_on_average(decimals):
    generator = np.random.default_rng(0)
    realised = []
    for seed in range(400):
        others = generator.normal(size=1000).round(decimals)
        realised.append(tpr_at_fpr(others, others, fpr=0.02, seed=seed).realised_fpr.value)
    error = np.std(realised, ddof=1) / np.sqrt(len(realised))
    assert np.mean(realised) < 0.02 + 2.6 * error
    if decimals == 9:
        assert np.mean(realised) > 0.018  # and it is used up where ties do not forbid it


@pytest.mark.parametrize(("fpr", "needed"), [(0.01, 1000), (0.001, 10_000)])
def test_too_few_non_members_give_no_number(fpr, needed):
    result = tpr_at_fpr(np.zeros(50), np.arange(needed - 1.0), fpr=fpr)
    assert (result.tpr, result.realised_fpr, result.threshold) == (None, None, None)
    assert str(result) == f"n too small: {needed:,} non-members are needed, {needed - 1:,} given"
    assert tpr_at_fpr(np.zeros(50), np.arange(float(needed)), fpr=fpr).tpr is not None


def test_tied_scores_find_nobody():
    """All saturated at the same value: no threshold keeps the rate but one above all."""
    result = tpr_at_fpr(np.ones(50), np.ones(2000))
    assert (result.tpr.value, result.realised_fpr.value) == (0.0, 0.0)


def test_conformal_rank():
    assert [conformal_rank(99, 0.01), conformal_rank(500, 0.01), conformal_rank(5000, 0.001)] == [99, 496, 4996]
    with pytest.raises(ValueError, match=r"at least 99 samples for 0\.01, got 98"):
        conformal_rank(98, 0.01)
