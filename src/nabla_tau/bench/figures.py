"""Plots as SVG, computed from the cells."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from nabla_tau.bench.comparing import mean_of
from nabla_tau.bench.reading import FLOOR, Group

WIDTH, ROW_HEIGHT, MARGIN = 3.2, 0.24, 1.2  # inches


def plot_gaps(groups: Sequence[Group], folder: Path) -> list[Path]:
    """For each task, the gap to retrained of every method and forget set, with 95 % intervals and the floor as a band.

    Args:
        groups: of any scales and versions of the code; each has a file of its own.
        folder: made if it does not exist.

    Returns:
        The files written.

    Example:
        >>> plot_gaps([], Path("nowhere"))
        []
    """
    written = []
    for (scale, code, task), some in groupby(groups, key=lambda group: (group.scale, group.code, group.task)):
        drawn = [group for group in some if any(group.gaps(name) for name in group.methods)]
        if drawn:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"gap-{scale}-{task}-{code}.svg"
            _draw(drawn, f"{task}, {scale}: gap to retrained (points; less is better)", path)
            written.append(path)
    return written


def _draw(groups: Sequence[Group], title: str, path: Path) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for group in groups for name in group.methods if name != FLOOR))
    figure = Figure(figsize=(1.6 + WIDTH * len(groups), MARGIN + ROW_HEIGHT * len(names)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        floor = group.gaps(FLOOR)
        if floor:
            axis.axvspan(0, mean_of(list(floor.values())).value, color="0.88", label="retrained against retrained")
        for place, name in enumerate(names):
            found = group.gaps(name)
            if not found:
                continue
            mean = mean_of(list(found.values()))
            axis.plot(mean.value, place, "o", color="C0" if name.startswith("nabla_tau") else "0.3")
            if mean.low is not None and mean.high is not None:
                axis.plot([mean.low, mean.high], [place, place], "-", color="0.3", linewidth=1)
        seeds = max(len(group.gaps(name)) for name in names)
        axis.set_title(f"{group.forget} ({seeds} seed{'s' * (seeds > 1)})", fontsize=9)
        axis.set_xlim(left=0)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=7, loc="lower right")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Date": None})
