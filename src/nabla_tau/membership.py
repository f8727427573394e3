"""Membership-inference attacks on one number per sample: NumPy in, numbers out."""

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from threadpoolctl import threadpool_limits

Numbers = NDArray[np.floating[Any]]

BALANCING_SEED = 1
SPLITS = 10
NEWTON_STEPS, HALVINGS = 50, 30


@dataclass(frozen=True)
class Attack:
    """How often an attack is right, with its 95 % interval.

    Attributes:
        accuracy: share of samples told correctly, in [0, 1]; 0.5 is guessing.
        low: lower end of the interval.
        high: upper end of the interval.
        samples: samples on each side.
    """

    accuracy: float
    low: float
    high: float
    samples: int


def attack_accuracy(members: Numbers, non_members: Numbers) -> float:
    """Accuracy of the paper's attack: logistic regression on one number per sample.

    The longer side is shuffled and cut to the shorter; the mean of ten held-out tenths is the number.

    Args:
        members: one number per forget sample, shape (n,).
        non_members: one number per test sample, shape (m,); never trained on, and not what gave τ.

    Returns:
        Accuracy in [0, 1]; 0.5 is guessing, and a value below it is leakage too.

    Raises:
        ValueError: if a side has fewer than 10 samples, or a number is not finite.

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024), as in the authors' notebooks.

    Example:
        >>> attack_accuracy(np.zeros(50), np.ones(50))
        1.0
    """
    for name, values in (("members", members), ("non-members", non_members)):
        if len(values) < SPLITS:
            raise ValueError(f"Expected at least {SPLITS} {name} for {SPLITS} splits, got {len(values)}.")
        if not np.isfinite(values).all():
            raise ValueError(f"Expected finite numbers, got {int((~np.isfinite(values)).sum())} others among {name}.")
    size = min(len(members), len(non_members))
    members, non_members = (_cut(values, size) for values in (members, non_members))
    features = np.concatenate([non_members, members])[:, None]
    labels = np.repeat([0, 1], size)
    splits = StratifiedShuffleSplit(n_splits=SPLITS, random_state=0)
    with warnings.catch_warnings(), threadpool_limits(1):  # a column this small is slower on several threads
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_score(LogisticRegression(), features, labels, cv=splits, scoring="accuracy")
    return float(np.mean(scores))


def attack(members: Numbers, non_members: Numbers, *, resamples: int = 100, seed: int = 0) -> Attack:
    """The paper's attack with an interval: its accuracy ± 1.96 bootstrap standard errors.

    The ten splits overlap, so their spread is no standard error; the samples of both sides are resampled instead.

    Args:
        members: one number per forget sample, shape (n,).
        non_members: one number per test sample, shape (m,).
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        The accuracy, its interval cut to [0, 1], and the samples of the shorter side.

    Raises:
        ValueError: as `attack_accuracy`.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> result = attack(generator.normal(size=80), generator.normal(size=80), resamples=20)
        >>> result.low < 0.5 < result.high
        True
    """
    accuracy = attack_accuracy(members, non_members)
    generator = np.random.default_rng(seed)
    repeated = [
        _accuracy(generator.choice(members, len(members)), generator.choice(non_members, len(non_members)))
        for _ in range(resamples)
    ]
    margin = 1.96 * float(np.std(repeated, ddof=1))
    size = min(len(members), len(non_members))
    return Attack(accuracy, max(accuracy - margin, 0.0), min(accuracy + margin, 1.0), size)


def entropies(logits: Numbers) -> Numbers:
    """Shannon entropy of the softmax of each row: H = −Σ_j p_j log p_j, terms with p_j = 0 left out.

    Args:
        logits: shape (N, C).

    Returns:
        Entropies in nats, shape (N,).

    Example:
        >>> entropies(np.zeros((1, 4))).round(4).tolist()
        [1.3863]
    """
    log_p = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    terms = np.where(np.isneginf(log_p), 0.0, np.exp(log_p) * np.where(np.isneginf(log_p), 0.0, log_p))
    result: Numbers = -terms.sum(axis=1)
    return result


def _cut(values: Numbers, size: int) -> Numbers:
    if len(values) == size:
        return values
    shuffled = np.array(values)
    np.random.default_rng(BALANCING_SEED).shuffle(shuffled)
    return shuffled[:size]


def _accuracy(members: Numbers, non_members: Numbers) -> float:
    """`attack_accuracy` for the bootstrap: the same splits and the same minimum, all splits fitted at once.

    Minimises ½ a² + Σ log(1 + exp(−s (a x + b))), s = ±1, by Newton's method with step halving.
    """
    size = min(len(members), len(non_members))
    x = np.concatenate([_cut(non_members, size), _cut(members, size)])
    sign = np.repeat([-1.0, 1.0], size)
    train, held_out = _splits(size)
    features, signs = x[train], sign[train]
    weights = np.zeros((len(train), 2))  # a and b of each split
    value = _objective(weights, features, signs)
    for _ in range(NEWTON_STEPS):
        step = _newton_step(weights, features, signs)
        if float(np.abs(step).max()) < 1e-6:
            break  # what is left is rounding, in which halving would search for nothing
        shrink = np.ones(len(train))
        for _ in range(HALVINGS):
            moved = _objective(weights - shrink[:, None] * step, features, signs)
            worse = ~(moved <= value)
            if not worse.any():
                break
            shrink[worse] /= 2
        weights, value = weights - shrink[:, None] * step, moved
        if float(np.abs(shrink[:, None] * step).max()) < 1e-6:
            break
    told = (weights[:, :1] * x[held_out] + weights[:, 1:]) > 0
    return float((told == (sign[held_out] > 0)).mean())


@functools.lru_cache(maxsize=8)
def _splits(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Training and held-out positions of every split, each (splits, positions)."""
    labels = np.repeat([0, 1], size)
    splits = list(StratifiedShuffleSplit(n_splits=SPLITS, random_state=0).split(labels, labels))
    return np.stack([train for train, _ in splits]), np.stack([held_out for _, held_out in splits])


def _objective(weights: Numbers, x: Numbers, sign: Numbers) -> Numbers:
    margins = sign * (weights[:, :1] * x + weights[:, 1:])
    result: Numbers = weights[:, 0] ** 2 / 2 + (np.maximum(-margins, 0) + np.log1p(np.exp(-np.abs(margins)))).sum(1)
    return result


def _newton_step(weights: Numbers, x: Numbers, sign: Numbers) -> Numbers:
    wrong = expit(-sign * (weights[:, :1] * x + weights[:, 1:]))
    curvature = wrong * (1 - wrong)
    slope_a = weights[:, 0] - (sign * wrong * x).sum(1)
    slope_b = -(sign * wrong).sum(1)
    aa, ab, bb = (curvature * x * x).sum(1) + 1, (curvature * x).sum(1), curvature.sum(1) + 1e-12
    determinant = np.maximum(aa * bb - ab * ab, 1e-300)
    step: Numbers = np.stack([bb * slope_a - ab * slope_b, aa * slope_b - ab * slope_a], 1) / determinant[:, None]
    return step
