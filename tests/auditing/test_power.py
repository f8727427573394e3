"""The stated power is the detection rate of planted residue."""

import numpy as np
import pytest
from scipy.stats import norm

from nabla_tau.auditing.power import power_of, smallest_detectable
from nabla_tau.auditing.ranks import auc
from tests.auditing.chance import bound

GENERATOR = np.random.default_rng(0)
MEMBERS, OTHERS = -GENERATOR.lognormal(-2.5, 1.5, 50_000), -GENERATOR.lognormal(-0.5, 1.5, 50_000)  # losses, negated


def residue(generator, fraction, size, members=MEMBERS, others=OTHERS):
    """A forget set of which a random fraction is scored as members are, and unseen samples."""
    memorised = generator.random(size) < fraction
    forget = np.where(memorised, generator.choice(members, size), generator.choice(others, size))
    return forget, generator.choice(others, size)


@pytest.mark.parametrize("level", [0.05, 0.005])
@pytest.mark.parametrize("fraction", [0.05, 0.10, 0.20])
def test_planted_residue_is_detected_as_often_as_stated(fraction, level):
    """5 % is below certainty at either level; 10 and 20 % are certain at n = 5,000."""
    stated = power_of(fraction, MEMBERS, OTHERS, sizes=(5000, 5000), level=level)
    generator = np.random.default_rng(int(1000 * fraction))
    found = sum(auc(*residue(generator, fraction, 5000)).p <= level for _ in range(200))
    low, high = bound(stated, 200)
    assert low <= found <= high
    assert (stated < 0.99) == (fraction == 0.05)


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_stated_power_of_tied_scores_and_unequal_sizes(fraction):
    """Correct or not: 99 % of members, 80 % of the others."""
    generator = np.random.default_rng(1)
    members, others = (
        np.r_[np.ones(round(share * 1000)), np.zeros(1000 - round(share * 1000))] for share in (0.99, 0.8)
    )
    stated = power_of(fraction, members, others, sizes=(400, 700))
    found = 0
    for _ in range(200):
        forget, _ = residue(generator, fraction, 400, members, others)
        found += auc(forget, generator.choice(others, 700)).p <= 0.05
    low, high = bound(stated, 200)
    assert low <= found <= high


def test_ends():
    """No residue alarms at the level; all of it is as good as certain, in either direction."""
    assert power_of(0.0, MEMBERS, OTHERS, level=0.01) == pytest.approx(0.01, rel=0.01)
    assert power_of(1.0, MEMBERS, OTHERS) == pytest.approx(1.0)
    assert power_of(0.05, -MEMBERS, -OTHERS, sizes=(900, 800)) == pytest.approx(
        power_of(0.05, MEMBERS, OTHERS, sizes=(900, 800))
    )


def test_area_of_the_mixture_as_simulated_elsewhere():
    """An AUC of 0.867 gives 0.518 at 5 %; with n = 1,500 and 5,000 the stated power is near 0.41 and 0.89."""
    shift = np.sqrt(2) * norm.ppf(0.867)
    quantiles = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    powers = [power_of(0.05, quantiles + shift, quantiles, sizes=(size, size)) for size in (1500, 5000)]
    assert powers == pytest.approx([0.41, 0.89], abs=0.03)


def test_smallest_detectable_reaches_the_power():
    result = smallest_detectable(MEMBERS, OTHERS, sizes=(1500, 1000), level=0.01, power=0.9)
    assert power_of(result.fraction, MEMBERS, OTHERS, sizes=(1500, 1000), level=0.01) == pytest.approx(0.9)
    assert (result.members, result.non_members, result.level, result.power) == (1500, 1000, 0.01, 0.9)
    assert result.original_auc == pytest.approx(auc(MEMBERS, OTHERS).value)
    assert smallest_detectable(MEMBERS, OTHERS, sizes=(6000, 4000)).fraction < result.fraction / 2


def test_nothing_is_detectable_where_the_original_never_memorised():
    same = np.random.default_rng(0).normal(size=(2, 500))
    assert smallest_detectable(*same).fraction is None
    assert smallest_detectable(np.ones(50), np.ones(50)).fraction is None
    assert power_of(1.0, np.ones(50), np.ones(50)) == 0.0


def test_fully_apart():
    result = smallest_detectable(np.ones(50) * 2, np.ones(50))
    assert 0 < result.fraction < 0.2


def test_bad_numbers():
    with pytest.raises(ValueError, match=r"fraction in \[0, 1\], got 5"):
        power_of(5, MEMBERS, OTHERS)
    with pytest.raises(ValueError, match="level"):
        power_of(0.5, MEMBERS, OTHERS, level=0)
    with pytest.raises(ValueError, match="at least 1 sample"):
        smallest_detectable(MEMBERS, OTHERS, sizes=(0, 5))
