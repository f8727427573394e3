"""KS and energy distance against SciPy and loops; their permutation p-values under the null and off it."""

import numpy as np
import pytest
from scipy import stats

from nabla_tau.auditing import distances
from nabla_tau.auditing.attacks import boosted_attack
from nabla_tau.auditing.distances import energy_distance, kolmogorov_smirnov
from nabla_tau.membership import attack
from tests.auditing.chance import alarms_as_stated, bound


def draw(seed, shape=(61,), other=(73,), shift=0.0):
    generator = np.random.default_rng([1, seed])  # not the stream that the relabelings come from
    return generator.normal(shift, size=shape), generator.normal(size=other)


@pytest.mark.parametrize("decimals", [9, 0])
def test_ks_against_scipy(decimals):
    members, others = (side.round(decimals) for side in draw(0, shift=0.3))
    result = kolmogorov_smirnov(members, others, permutations=2000)
    assert result.value == pytest.approx(stats.ks_2samp(members, others).statistic)
    if decimals == 9:  # SciPy's p-value knows no ties
        p = stats.ks_2samp(members, others, method="exact").pvalue
        assert result.p == pytest.approx(p, abs=3 * np.sqrt(p * (1 - p) / 2000) + 1e-3)


def test_ks_by_hand():
    """Two of ten lie above all others: D = 0.2."""
    assert kolmogorov_smirnov(np.r_[np.zeros(8), 1, 1], np.zeros(20), permutations=9).value == pytest.approx(0.2)


def test_p_value_counts_the_sample_itself():
    result = kolmogorov_smirnov(np.arange(30.0) + 100, np.arange(30.0), permutations=99)
    assert (result.value, result.p, result.high) == (1.0, 0.01, 1.0)
    assert kolmogorov_smirnov(np.ones(30), np.ones(30), permutations=99).p == 1.0
    assert energy_distance(np.ones(30), np.ones(30), permutations=99).p == 1.0


def test_ks_interval_covers():
    """N(0.5, 1) against N(0, 1): the largest gap is at 0.25."""
    truth = 2 * stats.norm.cdf(0.25) - 1
    results = [kolmogorov_smirnov(*draw(seed, shift=0.5), permutations=1) for seed in range(200)]
    assert sum(r.low <= truth <= r.high for r in results) >= bound(0.95, 200)[0]


def test_energy_against_scipy_and_loops():
    members, others = draw(0, shift=0.5)
    spread = np.r_[members, others].std()
    expected = stats.energy_distance(members / spread, others / spread) ** 2  # SciPy's is the root
    assert energy_distance(members, others, permutations=9).value == pytest.approx(expected)
    members, others = draw(0, (12, 3), (15, 3), 0.5)
    spread = np.concatenate([members, others]).std(axis=0)

    def mean(first, second):
        return np.mean([np.linalg.norm((a - b) / spread) for a in first for b in second])

    expected = 2 * mean(members, others) - mean(members, members) - mean(others, others)
    assert energy_distance(members, others, permutations=9).value == pytest.approx(expected)


def test_energy_is_free_of_units_and_a_constant_feature_adds_nothing():
    members, others = draw(0, (30, 2), (40, 2), 0.5)
    result = energy_distance(members, others, permutations=49)
    scaled = energy_distance(members * [1e-6, 1e6], others * [1e-6, 1e6], permutations=49)
    wider = energy_distance(np.c_[members, np.ones(30)], np.c_[others, np.ones(40)], permutations=49)
    assert result.value == pytest.approx(scaled.value) == pytest.approx(wider.value)


def test_energy_says_how_many_rows_it_used(monkeypatch):
    monkeypatch.setattr(distances, "MOST_ROWS", 25)
    result = energy_distance(*draw(0, (30, 2), (20, 2)), permutations=9)
    assert (result.members, result.non_members, result.members_given, result.non_members_given) == (25, 20, 30, 20)


def test_sides_of_more_rows_than_are_used_are_drawn_apart(monkeypatch):
    """With one draw for both they would keep the same ranks, and differ by less than chance allows."""
    monkeypatch.setattr(distances, "MOST_ROWS", 50)
    generator = np.random.default_rng(0)
    ps = [energy_distance(*generator.normal(size=(2, 100)), permutations=99).p for _ in range(60)]
    assert 0.3 < np.median(ps) < 0.7


@pytest.mark.parametrize("distance", [kolmogorov_smirnov, energy_distance])
@pytest.mark.parametrize("other", [(40,), (55,)])
def test_neither_swapping_nor_order_changes_anything(distance, other):
    members, others = draw(2, (40,), other, 0.4)
    one = distance(members, others, permutations=199)
    for again in (distance(others, members, permutations=199), distance(members[::-1], others, permutations=199)):
        assert (again.value, again.p) == pytest.approx((one.value, one.p))


def test_swapping_more_rows_than_are_used_changes_nothing(monkeypatch):
    monkeypatch.setattr(distances, "MOST_ROWS", 25)
    members, others = draw(2, (40, 2), (55, 2), 0.4)
    one, other = (energy_distance(*sides, permutations=99) for sides in ((members, others), (others, members)))
    assert (one.value, one.p) == pytest.approx((other.value, other.p))


@pytest.mark.parametrize("distance", [kolmogorov_smirnov, energy_distance])
def test_seeds(distance):
    sides = draw(5, shift=0.2)
    first, again, other = (distance(*sides, permutations=150, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.value == other.value
    assert first.p != other.p


@pytest.mark.parametrize("decimals", [9, 0])
def test_ks_null_calibration(decimals):
    """Ties make p-values coarser, never too small."""
    p_values = [
        kolmogorov_smirnov(*(side.round(decimals) for side in draw(seed)), permutations=99, seed=seed).p
        for seed in range(400)
    ]
    assert alarms_as_stated(p_values) if decimals else sum(p <= 0.05 for p in p_values) <= bound(0.05, 400)[1]


def test_energy_null_calibration():
    p_values = [energy_distance(*draw(seed, (30, 2), (40, 2)), permutations=99, seed=seed).p for seed in range(400)]
    assert alarms_as_stated(p_values)


def test_equal_means_of_other_shape():
    """The paper's attack looks for a shift and finds none; what looks at shapes is certain."""
    generator = np.random.default_rng(0)
    forget, test = generator.normal(scale=0.3, size=400), generator.normal(size=400)
    forget += test.mean() - forget.mean()
    paper = attack(forget, test, resamples=20)
    assert paper.low < 0.5
    assert abs(paper.accuracy - 0.5) < 0.05
    assert kolmogorov_smirnov(forget, test, permutations=999).p == 0.001
    assert energy_distance(forget, test, permutations=999).p == 0.001
    boosted = boosted_attack(forget, test)
    assert boosted.low > 0.75
    assert boosted.p < 1e-6
