"""Which samples of two sets may be compared: those of the same classes, and of several rows of a person one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency

from nabla_tau.auditing.scoring import Numbers, Scores
from nabla_tau.auditing.verdict import CONTROL_LEVEL
from nabla_tau.errors import some
from nabla_tau.sets import is_missing

STRAY = 0.1
"""A class whose share of a set is less than this part of its share of the test set is there by stray rows alone."""

UNEVEN = 0.1
"""Total variation distance from which two mixes of classes are told to differ."""


def shared_classes(targets: Numbers, test: Numbers) -> Numbers:
    """The classes that a set consists of, but for stray rows: those to compare it with unseen samples of.

    All of them, unless the classes of both are mixed differently beyond chance (χ² test at level 0.001): then those
    whose share of the set is at least 0.1 of their share of the test set. So a class that was removed as a whole is
    compared with unseen samples of that class, whatever single rows went astray, and a set that was drawn at random
    with all of the test set.

    Args:
        targets: classes of the set, shape (n,).
        test: classes of the test set, shape (m,).

    Returns:
        Classes, shape (C',), rising.

    Example:
        >>> shared_classes(np.array([2] * 99 + [0]), np.array([0, 1, 2] * 20))
        array([2])
    """
    classes, counts = _counts(targets, test)
    if not _apart(counts):
        return classes
    shares = counts / counts.sum(1, keepdims=True)
    found: Numbers = classes[(counts[1] > 0) & (shares[0] >= STRAY * shares[1])]
    return found


def _counts(*sides: Numbers) -> tuple[Numbers, Numbers]:
    """The classes of all sides, and how many samples each side has of each."""
    classes, places = np.unique(np.concatenate(sides), return_inverse=True)
    ends = np.cumsum([len(side) for side in sides])[:-1]
    return classes, np.stack([np.bincount(part, minlength=len(classes)) for part in np.split(places, ends)])


def _apart(counts: Numbers) -> bool:
    """Whether classes are mixed differently beyond chance."""
    return counts.shape[1] > 1 and bool(chi2_contingency(counts).pvalue < CONTROL_LEVEL)


def comparable(scores: Scores, test: Scores) -> tuple[Numbers, Numbers]:
    """Positions in a set and in the test set of the samples that are of the same classes.

    Args:
        scores: the set.
        test: the test set.

    Returns:
        Positions, each rising; all of them where samples have no class.

    Example:
        >>> def scored(classes):
        ...     return Scores({"loss": np.zeros(len(classes))}, np.zeros(0), np.array(classes), np.arange(len(classes)))
        >>> forget, test = comparable(scored([1] * 20 + [2] * 20), scored([0, 1, 2] * 40))
        >>> len(forget), len(test)
        (40, 80)
    """
    mine, others = scores.classes, test.classes
    if mine is None or others is None or not len(test) or not len(scores):
        return np.arange(len(scores)), np.arange(len(test))
    shared = shared_classes(mine, others)
    return np.flatnonzero(np.isin(mine, shared)), np.flatnonzero(np.isin(others, shared))


def one_of_each(ids: Sequence[Any], seed: int) -> Numbers:
    """Positions of one row of each id, drawn at random.

    Rows of one person are alike, and every test counts on rows that are independent: of 25 people of 20 rows each, whom
    a model never saw, the primary attack would alarm in nearly half of all audits (`benchmarks/people.py`).

    Args:
        ids: of the rows, length n; a row whose id is None or NaN is nobody's, and stands for itself.
        seed: of the draw.

    Returns:
        Positions, rising.

    Example:
        >>> len(one_of_each(["user-1", "user-2", "user-1", None, None], seed=0))
        4
    """
    names = [f"nobody {row}" if is_missing(value) else f"id {value}" for row, value in enumerate(ids)]
    order = np.random.default_rng(seed).permutation(len(names))
    _, first = np.unique(np.array(names, dtype=object)[order].astype(str), return_index=True)
    kept: Numbers = np.sort(order[first])
    return kept


def what_was_compared(forget: Scores, test: Scores) -> list[str]:
    """Sentences for the report: which classes, which rows were left out, and whether the classes stand alike.

    Args:
        forget: the forget set, before any of it was left out.
        test: the test set, likewise.

    Example:
        >>> def scored(classes):
        ...     return Scores({"loss": np.zeros(len(classes))}, np.zeros(0), np.array(classes), np.arange(len(classes)))
        >>> for sentence in what_was_compared(scored([2] * 99 + [0]), scored([0, 1, 2] * 20)):
        ...     print(sentence)
        forget and test: 99 forget samples of classes 2 are compared with the 20 test samples of these classes; left out
        are 1 forget samples of other classes (places 99).
    """
    mine, others = comparable(forget, test)
    of_forget, of_test = forget.classes, test.classes
    if of_forget is None or of_test is None or not len(mine) or not len(others):
        return []
    told = []
    if len(mine) < len(forget) or len(others) < len(test):
        stray = np.setdiff1d(forget.positions, forget.positions[mine]).tolist()
        told.append(
            f"forget and test: {len(mine)} forget samples of classes {some(np.unique(of_forget[mine]).tolist())} "
            f"are compared with the {len(others)} test samples of these classes"
            + (f"; left out are {len(stray)} forget samples of other classes (places {some(stray)})." if stray else ".")
        )
    sides = of_forget[mine], of_test[others]
    classes, counts = _counts(*sides)
    shares = counts / counts.sum(1, keepdims=True)
    differences = np.abs(shares[0] - shares[1])
    if _apart(counts) and differences.sum() / 2 > UNEVEN:
        worst = differences.argmax()
        told.append(
            f"forget and test: their classes are not mixed alike (class {classes[worst]} is {shares[0][worst]:.0%} of "
            f"forget, {shares[1][worst]:.0%} of test): what tells them apart may be the class; audit classes apart, or "
            "give a test set of the same mix."
        )
    return told
