"""The plots of what unlearning did, pass by pass."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nabla_tau.auditing import svg
from nabla_tau.auditing.formats import number
from nabla_tau.auditing.plots import Plot

Json = dict[str, Any]


def epochs(passes: Sequence[Json]) -> list[Plot]:
    """The losses of every pass over the forget set, and how hard it pushed.

    Args:
        passes: as in the report.

    Returns:
        Two plots, or none where there are no passes.

    Example:
        >>> one = {"alpha": 1.0, "target_loss": 0.5, "forget_loss": 0.1, "retain_loss": 0.05, "ascent_weight": 0.8}
        >>> print(epochs([one])[1].text)
        1 pass. Ascent weight w from 0.800 to 0.800; forget weight α from 1.00 to 1.00.
    """
    if not passes:
        return []
    price = {
        "forget loss L_f": ("forget_loss", svg.FORGET, "-", "o"),
        "target loss τ": ("target_loss", svg.TEST, "--", ""),
        "retain loss L_r": ("retain_loss", svg.RETAIN, "-.", "^"),
    }
    push = {
        "ascent weight w": ("ascent_weight", svg.UNLEARNED, "-", "o"),
        "forget weight α": ("alpha", svg.MUTED, ":", ""),
    }
    return [_curves(passes, "Mean losses of each pass", price), _curves(passes, "Weights of each pass", push)]


def _curves(passes: Sequence[Json], title: str, lines: dict[str, tuple[str, str, str, str]]) -> Plot:
    values = {label: [_drawable(one.get(key)) for one in passes] for label, (key, *_) in lines.items()}

    def paint(axes: Axes) -> None:
        for label, (_, colour, line, mark) in lines.items():
            mark = mark if len(passes) <= 30 else ""
            axes.plot(range(1, len(passes) + 1), values[label], color=colour, linestyle=line, marker=mark, markersize=4)
        axes.set(xlabel="pass over the forget set", ylabel="loss" if "losses" in title else "weight")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))  # a change is judged against 0
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))

    ends = "; ".join(f"{label} from {number(v[0])} to {number(v[-1])}" for label, v in values.items())
    count = f"{len(passes)} pass" + ("es" if len(passes) > 1 else "")
    return Plot(title, svg.drawing(title, paint, width=360, height=230), f"{count}. {ends[0].upper() + ends[1:]}.")


def _drawable(value: float | None) -> float:
    """A gap in the curve where there is nothing to draw."""
    return value if value is not None and math.isfinite(value) else math.nan


__all__ = ["epochs"]
