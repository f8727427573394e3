"""The plots of the audit's page, each with a text that states its numbers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from nabla_tau.auditing import svg
from nabla_tau.auditing.formats import number, percent
from nabla_tau.membership import Numbers

Json = dict[str, Any]

RETRAINED_SHOWN = 4
"""Retrained models drawn; the others are in the tables. More would hide each other."""

MARKS = {"original": (svg.ORIGINAL, "s", "--"), "unlearned": (svg.UNLEARNED, "o", "-")}
SETS = {"forget": (svg.FORGET, "-"), "test": (svg.TEST, "-"), "retain": (svg.RETAIN, "--")}
RETRAINED_MARK = (svg.RETRAINED, "D", "-")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Plot:
    """A drawing for the page.

    Attributes:
        title: what stands above it.
        svg: the drawing.
        text: the same in words and numbers, for who cannot see it.
    """

    title: str
    svg: Markup
    text: str


def shown(models: Sequence[Json]) -> list[Json]:
    """The models that are drawn: the first few of the retrained ones, and all others.

    Args:
        models: as in the report.

    Returns:
        Those of them, in their order.

    Example:
        >>> [model["name"] for model in shown([{"name": name} for name in ("original", *"abcdef")])]
        ['original', 'a', 'b', 'c', 'd']
    """
    retrained = [model["name"] for model in models if model["name"] not in MARKS][:RETRAINED_SHOWN]
    return [model for model in models if model["name"] in MARKS or model["name"] in retrained]


def role(name: str) -> str:
    """What a model is to the audit.

    Args:
        name: of the model.

    Returns:
        original, unlearned or retrained.

    Example:
        >>> role("unlearned"), role("retrained 2")
        ('unlearned', 'retrained')
    """
    return name if name in MARKS else "retrained"


def losses(models: Sequence[Json]) -> list[Plot]:
    """How the losses of the three sets are distributed, one plot for each model, all on the same axes.

    Args:
        models: as in the report; those without a histogram are left out.

    Returns:
        Plots.

    Example:
        >>> histogram = {"edges": [-2, -1, 0], "forget": [0.5, 0.5], "test": [0, 1], "retain": None}
        >>> losses([{"name": "original", "histogram": histogram}])[0].text
        'Losses, original. Median: forget 0.100, test 0.316. Share below 0.1: forget 50.0 %, test 0.0 %.'
    """
    drawn = [(model["name"], model["histogram"]) for model in shown(models) if model.get("histogram")]
    top = max((max(shares[name]) for _, shares in drawn for name in SETS if shares.get(name)), default=1.0)
    plots = []
    for place, (title, histogram) in enumerate(drawn):
        edges, given = histogram["edges"], {name: histogram[name] for name in SETS if histogram.get(name)}
        medians = ", ".join(f"{name} {number(10 ** _median(edges, given[name]))}" for name in given)
        low = ", ".join(f"{name} {percent(_below(edges, given[name], -1.0))}" for name in given)
        text = f"Losses, {title}. Median: {medians}. Share below 0.1: {low}."
        paint = _histogram(edges, given, top)
        plots.append(Plot(title, svg.drawing(f"losses{place}", paint, width=260, height=172), text))
    return plots


def roc(models: Sequence[Json], samples: int) -> Plot | None:
    """What the primary attack finds at which price, on two logarithmic axes.

    Args:
        models: as in the report; those without a curve are left out.
        samples: of the test set; a rate below one of them cannot be measured.

    Returns:
        The plot, or None where no model has a curve.

    Example:
        >>> curve = {"fpr": [0, 0.01, 1], "tpr": [0, 0.25, 1]}
        >>> roc([{"name": "original", "roc": curve}], samples=1000).text
        'True-positive rate at a false-positive rate of 1 %, 10 %: original 25.0 %, 25.0 %; guessing 1 %, 10 %.'
    """
    drawn = [model for model in shown(models) if model.get("roc")]
    if not drawn:
        return None
    lowest = 10 ** math.floor(math.log10(1 / max(samples, 10)))
    grid = np.geomspace(1 / max(samples, 10), 1, 160)
    curves = [(model["name"], _steps(model["roc"], grid)) for model in drawn]

    def paint(axes: Axes) -> None:
        axes.plot([lowest, 1], [lowest, 1], color=svg.MUTED, linestyle=":", linewidth=1.2)
        for name, rates in sorted(curves, key=lambda curve: curve[0] == "unlearned"):  # the unlearned one on top
            colour, _, line = MARKS.get(name, RETRAINED_MARK)
            width = 2.4 if name == "unlearned" else 1.4
            axes.plot(grid, np.maximum(rates, lowest / 10), color=colour, linestyle=line, linewidth=width)
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15), aspect="equal")
        axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            axis.set_minor_locator(NullLocator())

    rates = [rate for rate in (0.001, 0.01, 0.1) if rate * samples >= 10] or [0.1]
    wanted = ", ".join(f"{100 * rate:g} %" for rate in rates)
    found = [f"{m['name']} {', '.join(percent(v) for v in _steps(m['roc'], np.array(rates)))}" for m in drawn]
    text = f"True-positive rate at a false-positive rate of {wanted}: {'; '.join(found)}; guessing {wanted}."
    return Plot("ROC of the primary attack", svg.drawing("roc", paint, width=360, height=340), text)


def _histogram(edges: Sequence[float], given: dict[str, Sequence[float]], top: float) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for name, shares in given.items():
            colour, line = SETS[name]
            if name == "forget":
                axes.stairs(shares, edges, color=colour, fill=True, alpha=0.35, linewidth=0)
            axes.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.6)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.05 * top), xlabel="loss of a sample", ylabel="share of the set")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_power))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))

    return paint


def _steps(curve: Json, grid: Numbers) -> Numbers:
    """The highest true-positive rate that does not exceed each false-positive rate."""
    places = np.searchsorted(curve["fpr"], grid, side="right") - 1
    return np.where(places >= 0, np.asarray(curve["tpr"])[places], 0.0)


def _median(edges: Sequence[float], shares: Sequence[float]) -> float:
    heights = np.concatenate([[0.0], np.cumsum(shares)])
    return float(np.interp(heights[-1] / 2, heights, edges))


def _below(edges: Sequence[float], shares: Sequence[float], limit: float) -> float:
    heights = np.concatenate([[0.0], np.cumsum(shares)])
    return float(np.interp(limit, edges, heights) / heights[-1])


def _power(exponent: float, _: object) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else f"10{str(round(exponent)).translate(SUPERSCRIPTS)}"


__all__ = ["MARKS", "RETRAINED_MARK", "RETRAINED_SHOWN", "Plot", "losses", "roc", "role", "shown"]
