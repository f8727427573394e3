"""The boosted attack: each half is honest, alarms under the null are at most as stated, and it finds what is there."""

import numpy as np
import pytest

from nabla_tau.auditing.attacks import boosted_attack, random_projection
from nabla_tau.auditing.ranks import auc
from tests.auditing.chance import alarms_at_most_as_stated, bound


def draw(seed, members=100, others=120, features=3, shift=0.0):
    generator = np.random.default_rng([1, seed])  # not the stream that the halves come from
    return generator.normal(shift, size=(members, features)), generator.normal(size=(others, features))


def test_null_calibration():
    """Twice the median is on the safe side for any dependence of the ten halves, so the bound is an upper one."""
    results = [boosted_attack(*draw(seed), seed=seed) for seed in range(40)]
    for level in (0.05, 0.2):
        assert alarms_at_most_as_stated([result.p for result in results], level)
    assert sum(result.low <= 0.5 <= result.high for result in results) >= bound(0.95, 40)[0]
    areas = [result.auc for result in results]
    assert abs(np.mean(areas) - 0.5) < 2.6 * np.std(areas, ddof=1) / np.sqrt(40)


def test_finds_what_no_single_threshold_finds():
    """Members lie where both features have the same sign: each feature alone is the same on both sides."""
    generator = np.random.default_rng(0)
    members, others = np.abs(generator.normal(size=(2, 300, 2)))
    members *= generator.choice([-1, 1], size=(300, 1))
    others *= generator.choice([-1, 1], size=(300, 1)) * [1, -1]
    result = boosted_attack(members, others)
    assert result.low > 0.8
    assert result.p < 1e-6
    assert all(auc(members[:, i], others[:, i]).p > 0.01 for i in range(2))


def test_the_mean_of_ten_areas():
    result = boosted_attack(*draw(0, shift=0.5))
    assert len(result.folds) == 10
    assert result.auc == pytest.approx(np.mean(result.folds))
    assert (result.members, result.non_members, result.features) == (100, 120, 3)
    assert result.low < result.auc < result.high


def test_less_certain_than_the_best_score_on_all_samples():
    """Twice the median of tests on halves cannot be surer than one test that knows what to look for."""
    members, others = draw(1, features=1, shift=0.4)
    assert boosted_attack(members, others).p > auc(members[:, 0], others[:, 0]).p


def test_swapping_the_sides_changes_nothing():
    members, others = draw(3, 90, 120, shift=0.5)
    one, other = boosted_attack(members, others), boosted_attack(others, members)
    assert (one.auc, one.p, one.low) == pytest.approx((other.auc, other.p, other.low))


def test_seeds():
    sides = draw(4, shift=0.3)
    assert boosted_attack(*sides, seed=1) == boosted_attack(*sides, seed=1)
    assert boosted_attack(*sides, seed=1) != boosted_attack(*sides, seed=2)


def test_saturated_features_are_no_evidence():
    result = boosted_attack(np.ones((50, 2)), np.ones((50, 2)))
    assert (result.auc, result.p) == (0.5, 1.0)
    assert result.low < 0.5 < result.high


def test_fully_apart_has_an_interval():
    result = boosted_attack(np.arange(100.0), np.arange(100.0) + 200)
    assert (result.auc, result.high) == (1.0, 1.0)
    assert 0.9 < result.low < 1


def test_blind_baseline_on_projected_inputs():
    """Pixels that are a little brighter on one side are told apart without any model."""
    generator = np.random.default_rng(0)
    members, others = (random_projection(generator.random((150, 8, 8, 3)) + shift) for shift in (0.15, 0.0))
    assert members.shape == (150, 64)
    assert boosted_attack(members, others).p < 0.01


def test_projection():
    rows = np.random.default_rng(0).normal(size=(5, 100))
    directions = np.random.default_rng(2).normal(size=(100, 7)) / 10
    assert random_projection(rows, columns=7, seed=2) == pytest.approx(rows @ directions)
    assert random_projection(rows[:, :50]) == pytest.approx(rows[:, :50])


def test_too_few():
    with pytest.raises(ValueError, match="at least 20 members, got 19"):
        boosted_attack(np.zeros(19), np.zeros(50))
