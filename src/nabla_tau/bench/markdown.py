"""Tables in Markdown, and the means that stand in them."""

import math
from collections.abc import Iterable, Sequence

from nabla_tau.bench.comparing import Comparison, mean_of

NONE = "–"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; none where there are no rows.

    Example:
        >>> table(["task", "gap"], [["cifar10", "7.6"]])
        ['| task | gap |', '| --- | --- |', '| cifar10 | 7.6 |']
        >>> table(["task", "gap"], [])
        []
    """
    lines = [row(one) for one in rows]
    return [row(heads), row(["---"] * len(heads)), *lines] if lines else []


def row(cells: Sequence[str]) -> str:
    """A line of a table.

    Example:
        >>> row(["cifar10", "7.6"])
        '| cifar10 | 7.6 |'
    """
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def section(title: str, about: str, lines: Sequence[str]) -> list[str]:
    """A table under its heading, with what it shows in words; nothing where it is empty.

    Example:
        >>> section("Gaps", "In points.", ["| 7.6 |"])
        ['## Gaps', '', 'In points.', '', '| 7.6 |', '']
        >>> section("Gaps", "In points.", [])
        []
    """
    return [f"## {title}", "", *([about, ""] if about else []), *lines, ""] if lines else []


def mean(by_seed: dict[int, float], within: tuple[float, float] = (0.0, math.inf)) -> str:
    """Mean over seeds and its interval, cut where no value can be; a dash where there is nothing.

    Example:
        >>> mean({5: 1.0, 6: 2.0, 7: 3.0}), mean({})
        ('2.0 [0.0, 4.5]', '–')
    """
    return str(mean_of(list(by_seed.values()), within=within)) if by_seed else NONE


def advantage(compared: Comparison | None) -> str:
    """By how much one is nearer than another, and what follows.

    Example:
        >>> from nabla_tau.bench.comparing import compare
        >>> advantage(compare({5: 1.0, 6: 1.0}, {5: 4.0, 6: 4.0}))
        '3.0 [3.0, 3.0], win'
        >>> advantage(None)
        '–'
    """
    return f"{compared.advantage}, {compared.outcome}" if compared else NONE
