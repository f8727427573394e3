"""Equivalence within a margin, in place of "not significant"; and Holm's correction of several p-values."""

from collections.abc import Mapping

from nabla_tau.auditing.ranks import Auc


def certified_margin(area: Auc) -> float:
    """Smallest δ for which two one-sided tests at level 0.05 show |AUC − 0.5| < δ.

        δ = max(|low_90 − 0.5|, |high_90 − 0.5|)

    Args:
        area: from `auc`.

    Returns:
        δ in [0, 0.5]; about 0.67 / √n for n samples a side and an AUC of 0.5.

    Reference:
        Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987).

    Example:
        >>> import numpy as np
        >>> from nabla_tau.auditing.ranks import auc
        >>> round(certified_margin(auc(np.arange(1000.0), np.arange(1000.0))), 3)
        0.021
    """
    return max(abs(area.low_90 - 0.5), abs(area.high_90 - 0.5))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: the adjusted p-values hold for all attacks of a family together.

        adjusted p_(i) = max_{j ≤ i} min(1, (k − j + 1) p_(j)),   p_(1) ≤ … ≤ p_(k)

    Args:
        p_values: name of a test -> its p-value.

    Returns:
        The same names, in the same order, with adjusted p-values.

    Raises:
        ValueError: if a p-value is not in [0, 1].

    Reference:
        Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
        >>> holm({"loss": 0.03, "entropy": 0.01})
        {'loss': 0.03, 'entropy': 0.02}
    """
    wrong = {name: p for name, p in p_values.items() if not 0 <= p <= 1}
    if wrong:
        raise ValueError(f"Expected p-values in [0, 1], got {wrong}.")
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
