"""Methods against one another, paired by seed: each pair unlearned the same original model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, stdev

from scipy.stats import t

MARGIN = 0.5
"""Points within which two methods are as good as one another."""

LEVEL = 0.95
WIN, LOSS, TIE, UNDECIDED = "win", "loss", "tie", "undecided"


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95 % interval; no interval from a single seed.

    Example:
        >>> str(Mean(61.234, 60.1, 62.4, 5)), str(Mean(61.2, None, None, 1))
        ('61.2 [60.1, 62.4]', '61.2 (1 seed)')
    """

    value: float
    low: float | None
    high: float | None
    seeds: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{_rounded(self.value)} (1 seed)"
        return f"{_rounded(self.value)} [{_rounded(self.low)}, {_rounded(self.high)}]"


def _rounded(value: float) -> str:
    """To a tenth; nothing is 0.0, not -0.0."""
    return f"{round(value, 1) + 0.0:.1f}"


def mean_of(values: Sequence[float], level: float = LEVEL, within: tuple[float, float] = (-inf, inf)) -> Mean:
    """Mean over seeds and its interval by Student's t: x̄ ± t(n − 1) · s / √n.

    Args:
        values: one for each seed.
        level: that the interval holds the mean with.
        within: least and largest value that there can be, at which the interval is cut: no mean lies beyond.

    Example:
        >>> mean_of([1.0, 2.0, 3.0])
        Mean(value=2.0, low=-0.48..., high=4.48..., seeds=3)
        >>> mean_of([1.0, 2.0, 3.0], within=(0.0, inf)).low
        0.0
    """
    count, value = len(values), fmean(values)
    if count < 2:
        return Mean(value, None, None, count)
    margin = float(t.ppf((1 + level) / 2, count - 1)) * stdev(values) / sqrt(count)
    return Mean(value, max(value - margin, within[0]), min(value + margin, within[1]), count)


@dataclass(frozen=True)
class Comparison:
    """One method against another by the distance from the retrained models.

    Attributes:
        advantage: by how many points the first is nearer, over the seeds that both have.
        outcome: of the first.
    """

    advantage: Mean
    outcome: str


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Comparison | None:
    """Compare distances, which are better low, seed by seed.

    A tie where the 95 % interval of the difference lies within ± 0.5 point; else a win or a loss where it excludes 0;
    else undecided.

    Args:
        ours: seed -> distance in points.
        theirs: likewise.

    Returns:
        None where they have no seed in common.

    Example:
        >>> def outcome(*differences):
        ...     return compare(dict.fromkeys(range(9), 1.0), {k: 1 + d for k, d in enumerate(differences)}).outcome
        >>> outcome(4.0, 5.0, 6.0), outcome(-4.0, -5.0, -6.0), outcome(0.1, 0.2, 0.1), outcome(-4.0, 5.0), outcome(9.0)
        ('win', 'loss', 'tie', 'undecided', 'undecided')
    """
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    advantage = mean_of([theirs[seed] - ours[seed] for seed in seeds])
    return Comparison(advantage, _outcome(advantage))


def _outcome(advantage: Mean) -> str:
    if advantage.low is None or advantage.high is None:
        return UNDECIDED
    if advantage.low >= -MARGIN and advantage.high <= MARGIN:
        return TIE
    if advantage.low > 0:
        return WIN
    return LOSS if advantage.high < 0 else UNDECIDED
