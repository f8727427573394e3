"""What class probabilities alone can show: how far two models' differ, and how well they are calibrated."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from nabla_tau.auditing.samples import rows_each
from nabla_tau.membership import Numbers

BINS = 15


def js_divergence(first: Numbers, second: Numbers) -> Numbers:
    """Jensen–Shannon divergence of two models' predictions, for each sample.

        JS = ½ Σ_c p_c log₂(p_c / m_c) + ½ Σ_c q_c log₂(q_c / m_c),   m = ½ (p + q),   0 log 0 = 0

    A sum over classes: average it over samples only.

    Args:
        first: p, class probabilities, shape (N, C).
        second: q, those of the other model on the same samples, shape (N, C).

    Returns:
        In bits, from 0 (equal) to 1 (no class in common), shape (N,).

    Raises:
        ValueError: if the shapes differ, or a row is no probability distribution.

    Reference:
        Lin, IEEE Transactions on Information Theory 37 (1991).

    Example:
        >>> js_divergence(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])).tolist()
        [1.0, 0.0]
    """
    p, q = _distributions(first=first, second=second)
    if p.shape != q.shape:
        raise ValueError(f"Expected predictions of the same samples, got shapes {p.shape} and {q.shape}.")
    middle = (p + q) / 2
    nats: Numbers = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / 2
    bits: Numbers = np.clip(nats / np.log(2), 0.0, 1.0)  # rounding can leave the range
    return bits


def calibration_error(probabilities: Numbers, target: NDArray[Any]) -> float:
    """Expected calibration error: how far the confidence of the predicted class is from how often it is right.

        ECE = Σ_b n_b / N · |accuracy_b − mean confidence_b|,   b: the 15 equal bins (0, 1/15], …, (14/15, 1]

    Args:
        probabilities: shape (N, C).
        target: right class, shape (N,), integers in [0, C).

    Returns:
        In [0, 1]; 0 is calibrated. Finite samples raise it, so compare it only between models on the same samples.

    Raises:
        ValueError: if a row is no probability distribution, or the lengths differ.

    Reference:
        Guo et al., arXiv:1706.04599, equation 3.

    Example:
        >>> round(calibration_error(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])), 3)
        0.3
    """
    (p,) = _distributions(probabilities=probabilities)
    target = np.asarray(target)
    if target.shape != p.shape[:1]:
        raise ValueError(f"Expected one target for each of {len(p)} samples, got shape {target.shape}.")
    confidence, right = p.max(axis=1), p.argmax(axis=1) == target
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(p))


def _distributions(**predictions: Numbers) -> list[Numbers]:
    arrays = rows_each(1, **predictions)
    for name, rows in zip(predictions, arrays, strict=True):
        if (rows < 0).any() or not np.allclose(rows.sum(axis=1), 1, atol=1e-4):
            raise ValueError(f"Expected rows of {name} to be probabilities that sum to 1; softmax logits before.")
    return arrays
