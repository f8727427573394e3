"""The residual fraction finds what was planted, without looking at the forget set for its threshold."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom

from nabla_tau.auditing.residual import over_forgetting, residual_fraction, worst_samples
from tests.auditing.chance import alarms_at_most_as_stated, bound


def draw(seed, fraction, size=1000, strength=1.5):
    generator = np.random.default_rng([1, seed])  # not the stream that the halves come from
    memorised = round(fraction * size)
    forget = np.r_[generator.normal(strength, size=memorised), generator.normal(size=size - memorised)]
    return {
        "forget": forget,
        "retain": generator.normal(strength, size=2000),
        "test": generator.normal(size=1000),
    }


def test_by_hand():
    """Retain scores 1, test scores 0, but for a fifth of each: π = (0.44 − 0.2) / (0.8 − 0.2) = 0.4."""
    retain, test = np.tile([1.0, 1, 1, 1, 0], 400), np.tile([0.0, 0, 0, 0, 1], 400)
    forget = np.r_[np.ones(44), np.zeros(56)]
    result = residual_fraction(forget=forget, retain=retain, test=test)
    assert result.threshold == 0.0
    assert result.forget_above == 0.44
    assert result.unclipped == (0.44 - result.test_above) / (result.retain_above - result.test_above)
    assert result.unclipped == pytest.approx(0.4, abs=0.03)
    assert (result.retain_above, result.test_above) == pytest.approx((0.8, 0.2), abs=0.03)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_interval_covers_what_was_planted(fraction):
    """The rows that are memorised are fixed here, so the interval may cover a little more than it says."""
    results = [residual_fraction(**draw(seed, fraction), resamples=400, seed=seed) for seed in range(200)]
    covered = sum(r.low <= fraction <= r.high for r in results)
    assert covered >= bound(0.95, 200)[0]
    estimates = np.array([r.unclipped for r in results])
    assert abs(estimates.mean() - fraction) < 2.6 * estimates.std(ddof=1) / np.sqrt(200)


def test_threshold_and_references_do_not_depend_on_the_forget_set():
    sets = draw(0, 0.2)
    one, other = (residual_fraction(**sets | {"forget": forget}) for forget in (sets["forget"], sets["forget"] * 9 - 4))
    for name in ("threshold", "retain_above", "test_above"):
        assert getattr(one, name) == getattr(other, name)
    assert one.forget_above != other.forget_above


def test_clipped_for_reporting_and_kept():
    sets = draw(0, 0.0)
    result = residual_fraction(**sets | {"forget": sets["forget"] - 3})
    assert result.unclipped < -0.1
    assert (result.fraction, result.low, result.high) == (0.0, 0.0, 0.0)


def test_not_answerable_where_members_look_like_others():
    generator = np.random.default_rng(0)
    result = residual_fraction(**{name: generator.normal(size=500) for name in ("forget", "retain", "test")})
    assert (result.fraction, result.low, result.high, result.unclipped) == (None, None, None, None)
    assert 0 <= result.test_above <= 1
    tied = residual_fraction(**{name: np.ones(50) for name in ("forget", "retain", "test")})
    assert (tied.fraction, tied.forget_above) == (None, 0.0)


def test_seeds():
    sets = draw(0, 0.3)
    assert residual_fraction(**sets, seed=1) == residual_fraction(**sets, seed=1)
    assert residual_fraction(**sets, seed=1) != residual_fraction(**sets, seed=2)


def test_worst_samples():
    scores = np.array([0.0, 3, 1, 3, 2])
    assert worst_samples(scores, count=3).tolist() == [1, 3, 4]
    assert worst_samples(scores).tolist() == [1, 3, 4, 2, 0]
    with pytest.raises(ValueError, match="1 others among forget samples"):
        worst_samples(np.array([0.0, np.nan]))


def test_over_forgetting_by_hand():
    """Of 999 test losses 0 … 998, rank ⌈0.99 · 1000⌉ = 990 is 989; three of 20 forget losses lie beyond."""
    result = over_forgetting(forget=np.r_[np.full(17, 989.0), 990, 991, 5000], test=np.arange(999.0))
    assert (result.threshold, result.expected, result.beyond.count) == (989.0, 0.01, 3)
    exact, _ = quad(lambda share: binom.sf(2, 20, share) * beta.pdf(share, 10, 990), 0, 0.1)
    assert result.p == pytest.approx(exact, rel=1e-6)
    assert result.direction == "more"


def test_over_forgetting_null_calibration():
    generator = np.random.default_rng(0)
    results = [
        over_forgetting(forget=generator.exponential(size=900), test=generator.exponential(size=700))
        for _ in range(400)
    ]
    assert alarms_at_most_as_stated([r.p for r in results])
    low, high = bound(0.05, 400)
    assert low <= sum(r.direction != "undecided" for r in results) <= high
    shares = np.array([r.beyond.value - r.expected for r in results])
    assert abs(shares.mean()) < 2.6 * shares.std(ddof=1) / np.sqrt(400)


def test_over_forgetting_has_a_direction_and_sees_a_blown_up_tail():
    generator = np.random.default_rng(0)
    test, forget = generator.exponential(size=(2, 1000))
    forget[:50] += 20
    tail = over_forgetting(forget=forget, test=test)
    assert tail.p < 1e-6
    assert tail.beyond.low > 0.03
    assert over_forgetting(forget=forget * 2, test=test).direction == "more"
    less = over_forgetting(forget=forget[50:] / 2, test=test)
    assert (less.direction, less.p > 0.5) == ("less", True)


def test_tied_losses_are_not_over_forgotten():
    result = over_forgetting(forget=np.ones(50), test=np.ones(200))
    assert (result.beyond.value, result.p, result.direction) == (0.0, 1.0, "undecided")


def test_too_few():
    with pytest.raises(ValueError, match="20 forget samples, got 5"):
        residual_fraction(forget=np.zeros(5), retain=np.zeros(50), test=np.zeros(50))
    with pytest.raises(ValueError, match="99 test samples, got 50"):
        over_forgetting(forget=np.zeros(50), test=np.zeros(50))
