"""AUC and DeLong's intervals: by hand, by brute force over all pairs, against SciPy and scikit-learn, by coverage."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from nabla_tau.auditing.ranks import auc, auc_difference, null_error, placements
from tests.auditing.chance import alarms_as_stated, bound


def draw(seed, members=60, non_members=80, shift=0.7, decimals=1):
    """Rounded, so that there are ties."""
    generator = np.random.default_rng(seed)
    return generator.normal(shift, size=members).round(decimals), generator.normal(size=non_members).round(decimals)


def brute_force(members, non_members):
    """AUC, and its variance from the definition of DeLong's components over all pairs."""
    pairs = (members[:, None] > non_members) + 0.5 * (members[:, None] == non_members)
    variance = pairs.mean(1).var(ddof=1) / len(members) + pairs.mean(0).var(ddof=1) / len(non_members)
    return pairs, variance


def test_by_hand():
    """Half of the members above all others, half below: AUC ½, var(U) = 10·¼/9, var(V) = 0."""
    result = auc(np.repeat([2.0, 0.0], 5), np.ones(10))
    assert result.value == 0.5
    assert result.standard_error == pytest.approx(np.sqrt(10 * 0.25 / 9 / 10))
    margin = 1.959964 * result.standard_error / 0.25  # on the logit scale, where the slope at ½ is 4
    assert (result.low, result.high) == pytest.approx((1 / (1 + np.exp(margin)), 1 / (1 + np.exp(-margin))))
    assert (result.members, result.non_members) == (10, 10)


@pytest.mark.parametrize("seed", range(5))
def test_against_all_pairs_scikit_learn_and_scipy(seed):
    members, others = draw(seed)
    result = auc(members, others)
    pairs, variance = brute_force(members, others)
    assert result.value == pytest.approx(pairs.mean())
    assert result.value == pytest.approx(roc_auc_score(np.repeat([1, 0], [60, 80]), np.r_[members, others]))
    assert result.standard_error == pytest.approx(np.sqrt(variance))
    assert result.p == pytest.approx(mannwhitneyu(members, others, method="asymptotic", use_continuity=False).pvalue)
    assert result.low < result.low_90 < result.value < result.high_90 < result.high
    assert [values.tolist() for values in placements(members, others)] == [
        pytest.approx(pairs.mean(axis)) for axis in (1, 0)
    ]


def test_swapping_the_sides_mirrors():
    members, others = draw(1)
    one, other = auc(members, others), auc(others, members)
    assert (one.value, one.low, one.high, one.low_90, one.high_90, one.p) == pytest.approx(
        (1 - other.value, 1 - other.high, 1 - other.low, 1 - other.high_90, 1 - other.low_90, other.p)
    )


def test_fully_apart_is_bounded_by_the_disjoint_pairs():
    apart = auc(np.arange(50.0) + 100, np.arange(80.0))
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert apart.low == pytest.approx(0.025 ** (1 / 50))
    assert apart.low_90 == pytest.approx(0.05 ** (1 / 50))
    assert apart.p < 1e-10
    mirrored = auc(np.arange(80.0), np.arange(50.0) + 100)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((0.0, 0.0, 1 - apart.low))


def test_all_tied_is_chance_with_an_honest_interval():
    tied = auc(np.ones(50), np.ones(80))
    assert (tied.value, tied.p, tied.standard_error) == (0.5, 1.0, 0.0)
    assert tied.high - 0.5 == pytest.approx(0.5 - tied.low) == pytest.approx((1 - 0.025 ** (1 / 50)) / 2)
    assert tied.high_90 < tied.high
    assert null_error(np.ones(50), np.ones(80)) == 0


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_coverage(shift):
    truth = norm.cdf(shift / np.sqrt(2))
    results = [auc(*draw(seed, shift=shift, decimals=9)) for seed in range(400)]
    for level, ends in ((0.95, ("low", "high")), (0.90, ("low_90", "high_90"))):
        covered = sum(getattr(r, ends[0]) <= truth <= getattr(r, ends[1]) for r in results)
        low, high = bound(level, 400)
        assert low <= covered <= high


def test_coverage_where_most_draws_are_fully_apart():
    truth = norm.cdf(3.5 / np.sqrt(2))
    results = [auc(*draw(seed, 10, 10, shift=3.5, decimals=9)) for seed in range(400)]
    assert sum(r.value == 1 for r in results) > 200
    assert sum(r.low <= truth <= r.high for r in results) >= bound(0.95, 400)[0]


@pytest.mark.parametrize("decimals", [9, 0])
def test_null_calibration(decimals):
    assert alarms_as_stated([auc(*draw(seed, shift=0, decimals=decimals)).p for seed in range(400)])


def paired(seed, extra=0.0):
    """Two scores that share most of their noise; the first separates better by `extra`."""
    generator = np.random.default_rng(seed)
    common = [generator.normal(0.5, size=70), generator.normal(size=90)]
    first = [side + generator.normal(scale=0.5, size=len(side)) for side in common]
    other = [side + generator.normal(scale=0.5, size=len(side)) for side in common]
    return (first[0] + extra, first[1]), other


def test_difference_against_all_pairs():
    first, other = paired(0, 0.5)
    result = auc_difference(*first, other_members=other[0], other_non_members=other[1])
    pairs = brute_force(*first)[0] - brute_force(*other)[0]
    variance = pairs.mean(1).var(ddof=1) / 70 + pairs.mean(0).var(ddof=1) / 90
    assert result.value == pytest.approx(pairs.mean()) == pytest.approx(auc(*first).value - auc(*other).value)
    assert result.standard_error == pytest.approx(np.sqrt(variance))
    assert result.high - result.value == pytest.approx(1.959964 * np.sqrt(variance))
    assert result.p == pytest.approx(2 * norm.sf(result.value / np.sqrt(variance)))
    assert result.standard_error < np.hypot(auc(*first).standard_error, auc(*other).standard_error)


def test_difference_null_calibration():
    p_values = []
    for seed in range(400):
        first, other = paired(seed)
        p_values.append(auc_difference(*first, other_members=other[0], other_non_members=other[1]).p)
    assert alarms_as_stated(p_values)


def test_difference_without_variance():
    members, others = draw(0)
    same = auc_difference(members, others, other_members=members * 2, other_non_members=others * 2)
    assert (same.value, same.p) == (0.0, 1.0)
    assert same.high == pytest.approx(-same.low) == pytest.approx(1 - 0.025 ** (1 / 60))
    apart = auc_difference(np.ones(30), np.zeros(30), other_members=np.ones(30), other_non_members=np.ones(30))
    assert apart.value == apart.low + 1.5 * (1 - 0.025 ** (1 / 30)) == 0.5
    assert apart.low > 0
    assert apart.p == pytest.approx(2 * 1.5**-30)


def test_difference_needs_the_same_samples():
    with pytest.raises(ValueError, match=r"same samples, got \[50, 50\] and \[50, 40\]"):
        auc_difference(np.zeros(50), np.zeros(50), other_members=np.zeros(50), other_non_members=np.zeros(40))
