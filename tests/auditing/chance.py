"""How often something of a known rate may happen."""

from scipy.stats import binom


def bound(rate, draws):
    """The 99 % interval of the count."""
    return binom.interval(0.99, draws, rate)


def alarms_as_stated(p_values, level=0.05):
    low, high = bound(level, len(p_values))
    return low <= sum(p <= level for p in p_values) <= high


def alarms_at_most_as_stated(p_values, level=0.05):
    return sum(p <= level for p in p_values) <= bound(level, len(p_values))[1]
