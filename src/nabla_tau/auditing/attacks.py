"""The attack that looks for any difference: boosted trees on all features, cross-fitted."""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from nabla_tau.auditing.ranks import Auc, auc
from nabla_tau.auditing.samples import FEWEST, rows_each
from nabla_tau.membership import Numbers

REPEATS = 5
FOLDS = 2


@dataclass(frozen=True)
class BoostedAttack:
    """How well trees that saw half of the samples tell the other half apart.

    Attributes:
        auc: mean of the areas on held-out halves; 0.5 is chance, and below it is noise, since trees learn the sign.
        low: lower end of a 95 % interval.
        high: upper end of it.
        p: p-value of equal distributions.
        folds: the area of each held-out half, the halves of one repeat side by side.
        members: how many.
        non_members: how many.
        features: columns looked at.
    """

    auc: float
    low: float
    high: float
    p: float
    folds: tuple[float, ...]
    members: int
    non_members: int
    features: int


def boosted_attack(members: Numbers, non_members: Numbers, *, seed: int = 0) -> BoostedAttack:
    """Tell two samples of rows apart by gradient boosting, five times cross-fitted on two halves.

    Trees are two-sided and see no order: they find what no threshold on one score does. Each half's area is a plain
    Mann–Whitney test, because its trees never saw that half. The ten are not independent, so they are joined by rules
    that hold whatever their dependence:

        p = min(1, 2 · median of the ten one-sided p-values)
        interval = mean of the ten lower ends to mean of the ten upper ends

    (the error of a mean is at most the mean of the errors). Both are on the safe side: under equal distributions,
    alarms are rarer than the level. The area is that of trees trained on half of the samples.

    On inputs in place of scores this is the blind baseline: what can be told without any model. Many columns take
    `random_projection` first.

    Args:
        members: one row of features per member, shape (n, D) or (n,).
        non_members: one row of features per non-member, shape (m, D) or (m,).
        seed: of halving.

    Returns:
        The area with interval and p-value.

    Raises:
        ValueError: if a side has fewer than 20 rows, the sides differ in D, or a number is not finite.

    Reference:
        Twice the median: Rüger, Metrika 25 (1978); Meinshausen, Meier and Bühlmann, JASA 104 (2009).

    Example:
        >>> inside, outside = np.linspace(-1, 1, 99), np.r_[np.linspace(-3, -2, 49), np.linspace(2, 3, 50)]
        >>> result = boosted_attack(inside, outside)
        >>> result.auc > 0.9, result.p < 0.01
        (True, True)
    """
    sides = rows_each(FOLDS * FEWEST, members=members, non_members=non_members)
    with threadpool_limits(1):  # tables this small are slower on several threads
        results = [_held_out(sides, seed, repeat, fold) for repeat in range(REPEATS) for fold in range(FOLDS)]
    areas = np.array([result.value for result in results])
    p = min(1.0, 2 * float(np.median([_one_sided(result) for result in results])))
    low, high = (float(np.mean([getattr(result, end) for result in results])) for end in ("low", "high"))
    n, m = (len(side) for side in sides)
    return BoostedAttack(float(areas.mean()), low, high, p, tuple(areas.tolist()), n, m, sides[0].shape[1])


def random_projection(rows: Numbers, *, columns: int = 64, seed: int = 0) -> Numbers:
    """Project wide rows, such as pixels, onto few random directions: R = X G, G_ij ~ N(0, 1/D).

    The directions depend on D, `columns` and the seed only, so each set can be projected on its own.

    Args:
        rows: X, shape (n, …), flattened to (n, D).
        columns: directions; rows with no more features than that are returned as they are.
        seed: of the directions.

    Returns:
        Shape (n, min(D, columns)).

    Example:
        >>> random_projection(np.ones((3, 8, 8, 3)), columns=5).shape
        (3, 5)
    """
    flat = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    width = flat.shape[1]
    if width <= columns:
        return flat
    projected: Numbers = flat @ (np.random.default_rng(seed).normal(size=(width, columns)) / np.sqrt(width))
    return projected


def _held_out(sides: list[Numbers], seed: int, repeat: int, fold: int) -> Auc:
    halves = [_halves(len(side), seed, repeat) for side in sides]
    train = [side[half[1 - fold]] for side, half in zip(sides, halves, strict=True)]
    test = [side[half[fold]] for side, half in zip(sides, halves, strict=True)]
    trees = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, early_stopping=False, random_state=seed)
    trees.fit(np.concatenate(train), np.repeat([1, 0], [len(rows) for rows in train]))
    scores = [trees.decision_function(rows) for rows in test]
    return auc(*scores)


def _halves(rows: int, seed: int, repeat: int) -> list[Numbers]:
    """The halves of a side depend on its size alone, so that swapping the sides changes nothing."""
    return np.array_split(np.random.default_rng([seed, repeat]).permutation(rows), FOLDS)


def _one_sided(result: Auc) -> float:
    """The held-out trees know which side is higher, so only that direction is evidence."""
    return result.p / 2 if result.value > 0.5 else 1 - result.p / 2
