"""Which rows may be compared: of several rows of a person one."""

import numpy as np

from nabla_tau.auditing.matching import one_of_each
from nabla_tau.auditing.ranks import auc


def test_people_of_many_rows_alarm_by_rows_and_not_by_one_of_each():
    """Nobody's rows were seen; half of the people are careless, and theirs cost four times as much."""
    generator = np.random.default_rng(0)
    ids = np.repeat(np.arange(25), 20).tolist()

    def losses():
        careless = generator.integers(2, size=25).astype(bool)
        return np.repeat(np.where(careless, 4.0, 1.0), 20) * generator.exponential(size=500)

    by_rows, by_people = [], []
    for audit in range(200):
        forget, test = losses(), losses()
        kept = one_of_each(ids, seed=audit)
        by_rows.append(auc(-forget, -test).p < 0.05)
        by_people.append(auc(-forget[kept], -test[kept]).p < 0.05)
    assert np.mean(by_rows) > 0.3  # about 0.44
    assert np.mean(by_people) < 0.1  # 0.05


def test_rows_of_nobody_stand_for_themselves():
    assert one_of_each([None, float("nan"), None, 3, "3"], seed=0).tolist() in ([0, 1, 2, 3], [0, 1, 2, 4])
