"""What the audit could not have seen: its power against a forget set of which a fraction is still memorised."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from nabla_tau.auditing.ranks import placements
from nabla_tau.auditing.samples import fraction_of_one, one_each
from nabla_tau.membership import Numbers


@dataclass(frozen=True)
class Detectable:
    """The smallest residual fraction that the Mann–Whitney test would have revealed.

    Attributes:
        fraction: share of the forget set still scored as under the original model, in (0, 1]; None if even a fully
            memorised forget set would have been missed too often.
        power: with this probability.
        level: of the two-sided test.
        members: forget samples tested.
        non_members: unseen samples tested.
        original_auc: how well the score separates under the original model.
    """

    fraction: float | None
    power: float
    level: float
    members: int
    non_members: int
    original_auc: float


@dataclass(frozen=True)
class _Scores:
    """What is needed of the two distributions, F of members and G of non-members, both under the original model."""

    above: Numbers  # G at each member, in (0, 1)
    within: Numbers  # G at each non-member
    below: Numbers  # 1 − F at each non-member
    ties: tuple[Numbers, Numbers]  # shares of F and of G that lie on each value


def power_of(
    fraction: float,
    members: Numbers,
    non_members: Numbers,
    *,
    sizes: tuple[int, int] | None = None,
    level: float = 0.05,
) -> float:
    """Probability that the two-sided Mann–Whitney test alarms if a fraction π of the forget set is still memorised.

        forget scores ~ π F + (1 − π) G,   unseen scores ~ G,   A_π = 0.5 + π (AUC(F, G) − 0.5)
        σ_π² = var G(x) / n + var(1 − F_π(y)) / m,   σ_0: `null_error`'s, with the ties of the mixture
        power = Φ((|A_π − 0.5| − z σ_0) / σ_π) + Φ((−|A_π − 0.5| − z σ_0) / σ_π)

    Args:
        fraction: π in [0, 1].
        members: scores of the forget set under the original model, which give F, shape (n,).
        non_members: scores of unseen samples under the same model, which give G, shape (m,).
        sizes: n and m of the test, if other than those of the scores given.
        level: of the test; of the corrected test, if it is one of a family.

    Returns:
        Power in [0, 1]; the level itself at π = 0.

    Raises:
        ValueError: if a side has fewer than 10 samples, a score is not finite, or a number is outside its range.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> members, others = generator.normal(2, size=2000), generator.normal(size=2000)
        >>> [round(power_of(fraction, members, others), 2) for fraction in (0.0, 0.05, 0.1)]
        [0.05, 0.63, 1.0]
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"Expected a fraction in [0, 1], got {fraction}.")
    members, non_members, sizes = _asked(members, non_members, sizes, level)
    return _power(fraction, _scores(members, non_members), sizes, level)


def smallest_detectable(
    members: Numbers,
    non_members: Numbers,
    *,
    sizes: tuple[int, int] | None = None,
    level: float = 0.05,
    power: float = 0.8,
) -> Detectable:
    """Smallest residual fraction that this many samples would have revealed: where `power_of` reaches `power`.

    Args:
        members: scores of the forget set under the original model, shape (n,).
        non_members: scores of unseen samples under the same model, shape (m,).
        sizes: n and m of the test, if other than those of the scores given.
        level: of the two-sided test.
        power: probability of an alarm.

    Returns:
        The fraction, or none where the original model itself hardly separates the two.

    Raises:
        ValueError: as `power_of`.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> members, others = generator.normal(2, size=2000), generator.normal(size=2000)
        >>> round(smallest_detectable(members, others).fraction, 2)
        0.06
    """
    fraction_of_one(power=power)
    members, non_members, sizes = _asked(members, non_members, sizes, level)
    scores = _scores(members, non_members)
    fraction = None
    if _power(1.0, scores, sizes, level) >= power > level:
        fraction = float(brentq(lambda share: _power(share, scores, sizes, level) - power, 0.0, 1.0))
    return Detectable(fraction, power, level, *sizes, float(scores.above.mean()))


def _asked(
    members: Numbers, non_members: Numbers, sizes: tuple[int, int] | None, level: float
) -> tuple[Numbers, Numbers, tuple[int, int]]:
    members, non_members = one_each(members=members, non_members=non_members)
    fraction_of_one(level=level)
    sizes = sizes or (len(members), len(non_members))
    if min(sizes) < 1:
        raise ValueError(f"Expected at least 1 sample on each side of the test, got {sizes}.")
    return members, non_members, sizes


def _scores(members: Numbers, non_members: Numbers) -> _Scores:
    above, below = placements(members, non_members)
    within = placements(non_members, non_members)[0]
    values = np.unique(np.concatenate([members, non_members]))
    shares = [
        np.bincount(np.searchsorted(values, side), minlength=len(values)) / len(side) for side in (members, non_members)
    ]
    return _Scores(above, within, below, (shares[0], shares[1]))


def _power(fraction: float, scores: _Scores, sizes: tuple[int, int], level: float) -> float:
    n, m = sizes
    area = fraction * scores.above.mean() + (1 - fraction) * 0.5
    squares = fraction * (scores.above**2).mean() + (1 - fraction) * (scores.within**2).mean()
    below = fraction * scores.below + (1 - fraction) * (1 - scores.within)
    error = np.sqrt(max(squares - area**2, 0.0) / n + below.var() / m)
    tied = fraction * scores.ties[0] + (1 - fraction) * scores.ties[1]
    pooled = (n * tied + m * scores.ties[1]) / (n + m)
    null = np.sqrt(max(1 - (pooled**3).sum(), 0.0) * (n + m + 1) / (12 * n * m))
    if not error:
        return float(abs(area - 0.5) > 0)
    reach = norm.isf(level / 2) * null
    shift = abs(area - 0.5)
    return float(norm.cdf((shift - reach) / error) + norm.cdf((-shift - reach) / error))
