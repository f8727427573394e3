"""Quality against the share of the training data that is forgotten, as SVG, computed from the cells."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nabla_tau.bench.cells import ORIGINAL
from nabla_tau.bench.comparing import Mean, mean_of
from nabla_tau.bench.figures import by_task, fraction_of, write_svg
from nabla_tau.bench.reading import FLOOR, Group
from nabla_tau.bench.tables import OURS, PUBLISHED, best_baseline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_SHARES = 3
"""That make a curve."""

BEST = "best baseline"
STYLES = {
    ORIGINAL: ("0.6", "s", ":"),
    BEST: ("C2", "^", "-"),
    PUBLISHED: ("C1", "D", "-"),
    FLOOR: ("0.1", "v", "--"),
    OURS: ("C0", "o", "-"),
}
"""Curve -> colour, mark, line."""

GAP = "gap"
PANELS = {
    GAP: ("gap to retrained, less is better", tuple(STYLES)),
    "test": ("utility on the test set", (PUBLISHED, FLOOR, OURS)),
    "retain": ("utility on the retain set", (PUBLISHED, FLOOR, OURS)),
}
"""The gap, or a component of it -> title of its panel, and which curves are drawn."""


def plot_shares(groups: Sequence[Group], folder: Path) -> list[Path]:
    """For each task, gap, test and retain utility against the random share that is forgotten, with 95 % intervals.

    The best baseline is chosen share by share, as in the table. A task with fewer than three shares has no such
    picture.

    Args:
        groups: of any scales and versions of the code; each has a file of its own.
        folder: made if it does not exist.

    Returns:
        The files written.

    Example:
        >>> plot_shares([], Path("nowhere"))
        []
    """
    written = []
    for title, name, some in by_task(groups):
        drawn = sorted((one for one in some if one.forget.startswith("random-") and one.gaps(OURS)), key=fraction_of)
        if len(drawn) >= FEWEST_SHARES:
            path = folder / f"shares-{name}.svg"
            _draw(drawn, f"{title}: in points, by the share of the training data that is forgotten", path)
            written.append(path)
    return written


def _draw(groups: Sequence[Group], title: str, path: Path) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(PANELS), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, len(PANELS))
    for axis, (component, (panel, names)) in zip(axes, PANELS.items(), strict=True):
        axis.set_xscale("logit")
        for name in names:
            _draw_curve(axis, name, {fraction_of(group): _mean(group, name, component) for group in groups})
        axis.set_title(panel, fontsize=9)
        fractions = [fraction_of(group) for group in groups]
        axis.set_xticks(fractions, [f"{100 * fraction:g} %" for fraction in fractions], rotation=60)
        axis.set_xticks([], minor=True)
        axis.tick_params(labelsize=8)
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    axes[0].set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=len(STYLES), loc="outside lower center")
    figure.suptitle(title, fontsize=10)
    write_svg(figure, path)


def _draw_curve(axis: "Axes", name: str, means: Mapping[float, Mean | None]) -> None:
    """Means with their intervals; a gap where a share was not measured, or a method does not apply."""
    color, mark, line = STYLES[name]
    values = [mean.value if mean else math.nan for mean in means.values()]
    axis.plot(list(means), values, line, label=name, color=color, marker=mark, markersize=4, linewidth=1.2)
    for fraction, mean in means.items():
        if mean and mean.low is not None and mean.high is not None:
            axis.plot([fraction, fraction], [mean.low, mean.high], color=color, linewidth=0.8)


def _mean(group: Group, name: str, component: str) -> Mean | None:
    row = best_baseline(group, OURS) if name == BEST else name
    if component == GAP:
        found, within = group.gaps(row or ""), (0.0, math.inf)
    else:
        found, within = group.values(row or "").get(component, {}), group.possible()[component]
    return mean_of(list(found.values()), within=within) if found else None
