"""Bad samples are refused all at once, with what is needed."""

import numpy as np
import pytest

from nabla_tau.auditing.attacks import boosted_attack
from nabla_tau.auditing.distances import energy_distance, kolmogorov_smirnov
from nabla_tau.auditing.power import power_of, smallest_detectable
from nabla_tau.auditing.ranks import auc, auc_difference
from nabla_tau.auditing.rates import tpr_at_fpr
from nabla_tau.auditing.samples import fraction_of_one, one_each, rows_each

GOOD = np.arange(50.0)


def difference(members, non_members):
    return auc_difference(members, non_members, other_members=GOOD, other_non_members=GOOD)


@pytest.mark.parametrize(
    "statistic",
    [
        auc,
        difference,
        kolmogorov_smirnov,
        energy_distance,
        boosted_attack,
        tpr_at_fpr,
        smallest_detectable,
        lambda members, non_members: power_of(0.1, members, non_members),
    ],
)
def test_too_few_and_not_finite_are_refused(statistic):
    with pytest.raises(ValueError, match=r"at least [12]0 members, got 3"):
        statistic(np.zeros(3), GOOD)
    with pytest.raises(ValueError, match=r"finite numbers, got 2 others among members"):
        statistic(np.r_[GOOD, np.nan, np.inf], GOOD)
    with pytest.raises(ValueError, match=r"finite numbers, got 1 others among non-members"):
        statistic(GOOD, np.r_[GOOD, np.nan])


def test_all_problems_at_once():
    with pytest.raises(ValueError, match=r"10 members, got 3.*1 others among non-members"):
        one_each(members=np.zeros(3), non_members=np.r_[GOOD, -np.inf])


def test_shapes():
    with pytest.raises(ValueError, match=r"members of shape \(n,\), got \(50, 1\)"):
        one_each(members=GOOD[:, None])
    with pytest.raises(ValueError, match=r"members of shape \(n, D\), got \(5, 5, 2\)"):
        rows_each(members=GOOD.reshape(5, 5, 2))
    with pytest.raises(ValueError, match="same number of features"):
        rows_each(members=GOOD, non_members=np.zeros((50, 2)))
    assert [rows.shape for rows in rows_each(members=GOOD, non_members=np.zeros((20, 1)))] == [(50, 1), (20, 1)]


def test_integers_and_single_precision_become_doubles():
    assert {values.dtype for values in one_each(members=np.arange(20), others=GOOD.astype(np.float32))} == {GOOD.dtype}


def test_fractions():
    with pytest.raises(ValueError, match=r"between 0 and 1, got \{'fpr': 1\}"):
        fraction_of_one(level=0.5, fpr=1)
