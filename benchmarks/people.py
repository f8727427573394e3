"""How often the primary attack alarms on people whom a model never saw, by rows and by one row of each.

    python benchmarks/people.py

Losses of made-up people, forget and test set alike: exponential, and four times as large on average for people who are
careless, each with probability one half. A row of the table is a number of people on each side and of rows of each, its
last two columns the share of 2,000 audits in which the AUC differs from 0.5 at level 0.05.
"""

import numpy as np

from nabla_tau.auditing.matching import one_of_each
from nabla_tau.auditing.ranks import auc
from nabla_tau.membership import Numbers

AUDITS, LEVEL = 2_000, 0.05
SIZES = ((200, 1), (100, 5), (40, 5), (25, 20), (100, 20))


def losses(people: int, rows: int, generator: np.random.Generator) -> Numbers:
    """Of all rows, person after person."""
    careless = generator.integers(2, size=people).astype(bool)
    scale = np.repeat(np.where(careless, 4.0, 1.0), rows)
    found: Numbers = scale * generator.exponential(size=people * rows)
    return found


def main() -> None:
    generator = np.random.default_rng(0)
    print("| people | rows of each | alarms by rows | alarms by one row of each |\n| --- | --- | --- | --- |")
    for people, rows in SIZES:
        ids = np.repeat(np.arange(people), rows).tolist()
        alarms = np.zeros(2)
        for audit in range(AUDITS):
            sides = [losses(people, rows, generator) for _ in ("forget", "test")]
            kept = one_of_each(ids, seed=audit)
            for place, (forget, test) in enumerate((sides, [side[kept] for side in sides])):
                alarms[place] += auc(-forget, -test).p < LEVEL
        shares = " | ".join(f"{100 * share:.1f} %" for share in alarms / AUDITS)
        print(f"| {people} | {rows} | {shares} |")


if __name__ == "__main__":
    main()
