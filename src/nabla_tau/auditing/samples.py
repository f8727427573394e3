"""What every statistic asks of its samples: enough of them, and finite numbers only."""

import numpy as np

from nabla_tau.membership import Numbers

FEWEST = 10
"""Samples a side below which nothing is said: the intervals rest on sums of many terms."""


def one_each(fewest: int = FEWEST, **samples: Numbers) -> list[Numbers]:
    """Check samples of one number each, all of them before anything is refused.

    Args:
        fewest: how many samples each side must have.
        **samples: name of a side -> its numbers, shape (n,); the names stand in the message.

    Returns:
        The sides in the order given, each float64, shape (n,).

    Raises:
        ValueError: if a side has another shape, too few samples, or a number that is not finite.

    Example:
        >>> one_each(2, members=np.array([1, 2]))
        [array([1., 2.])]
    """
    return _checked(fewest, 1, samples)


def rows_each(fewest: int = FEWEST, **samples: Numbers) -> list[Numbers]:
    """Check samples of one row of features each; one number is a row of one.

    Args:
        fewest: how many rows each side must have.
        **samples: name of a side -> its rows, shape (n, D) or (n,); the names stand in the message.

    Returns:
        The sides in the order given, each float64, shape (n, D).

    Raises:
        ValueError: as `one_each`, or if the sides differ in D.

    Example:
        >>> rows_each(2, members=np.array([1, 2]))
        [array([[1.], [2.]])]
    """
    rows = _checked(fewest, 2, {name: np.asarray(v)[:, None] if np.ndim(v) == 1 else v for name, v in samples.items()})
    widths = {name: values.shape[1] for name, values in zip(samples, rows, strict=True)}
    if len(set(widths.values())) > 1:
        raise ValueError(f"Expected the same number of features on every side, got {widths}.")
    return rows


def fraction_of_one(**values: float) -> None:
    """Check that each value lies strictly between 0 and 1.

    Args:
        **values: name -> value; the names stand in the message.

    Raises:
        ValueError: if one does not.

    Example:
        >>> fraction_of_one(level=0.05)
    """
    wrong = {name: value for name, value in values.items() if not 0.0 < value < 1.0}
    if wrong:
        raise ValueError(f"Expected values strictly between 0 and 1, got {wrong}.")


def _checked(fewest: int, dimensions: int, samples: dict[str, Numbers]) -> list[Numbers]:
    problems = []
    arrays: list[Numbers] = [np.asarray(values, dtype=np.float64) for values in samples.values()]
    for name, values in zip(samples, arrays, strict=True):
        side = name.replace("non_", "non-").replace("_", " ")
        if values.ndim != dimensions:
            problems.append(f"Expected {side} of shape {('(n,)', '(n, D)')[dimensions - 1]}, got {values.shape}.")
        elif len(values) < fewest:
            problems.append(f"Expected at least {fewest} {side}, got {len(values)}.")
        if not np.isfinite(values).all():
            problems.append(f"Expected finite numbers, got {int((~np.isfinite(values)).sum())} others among {side}.")
    if problems:
        raise ValueError(" ".join(problems))
    return arrays
