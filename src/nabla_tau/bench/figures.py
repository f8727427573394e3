"""Plots as SVG, computed from the cells."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nabla_tau.bench.alpha import ALPHAS, STUDY
from nabla_tau.bench.cells import ORIGINAL
from nabla_tau.bench.comparing import mean_of
from nabla_tau.bench.reading import FLOOR, Group
from nabla_tau.methods.nabla_tau_published import ALPHA_PER_FORGET_FRACTION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, ROW_HEIGHT, MARGIN = 3.2, 0.24, 0.9  # inches, of each of the panels that stand side by side
SIDE_BY_SIDE = 3


def plot_gaps(groups: Sequence[Group], folder: Path) -> list[Path]:
    """For each task, the gap to retrained of every method and forget set, with 95 % intervals and the floor as a band.

    The grid of α₀ has a plot of its own: `plot_alpha_rho`.

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
    for title, name, some in by_task([group for group in groups if not group.study]):
        drawn = [group for group in some if any(group.gaps(name) for name in _drawn([group]) if name != ORIGINAL)]
        if drawn:
            path = folder / f"gap-{name}.svg"
            _draw(
                drawn, f"{title}: gap to retrained in points, less is better; grey: retrained against retrained", path
            )
            written.append(path)
    return written


def plot_alpha_rho(groups: Sequence[Group], folder: Path) -> list[Path]:
    """The α₀ × ρ grid as a heat map of the mean gap, the rule α₀ = 5/3 · ρ as a line, the best α₀ of each ρ marked.

    Args:
        groups: of any kind; those of the study are drawn, by scale, task and version of the code.
        folder: made if it does not exist.

    Returns:
        The files written.

    Example:
        >>> plot_alpha_rho([], Path("nowhere"))
        []
    """
    written = []
    study = [group for group in groups if group.study]
    for title, name, some in by_task(study):
        path = folder / f"alpha-rho-{name}.svg"
        _draw_grid(sorted(some, key=fraction_of), f"{title}: mean gap to retrained (points) by α₀ and ρ", path)
        written.append(path)
    return written


def by_task(groups: Sequence[Group]) -> Iterator[tuple[str, str, list[Group]]]:
    """What one picture is about: its title, a name for its file, and the groups of one scale, code and task.

    Example:
        >>> [(title, name) for title, name, _ in by_task([Group("quick", "0a", "cifar10", "class", {})])]
        [('cifar10, quick', 'quick-cifar10-0a')]
    """
    for (scale, code, task), some in groupby(groups, key=lambda group: (group.scale, group.code, group.task)):
        yield f"{task}, {scale}", f"{scale}-{task}-{code}", list(some)


def fraction_of(group: Group) -> float:
    """The share that a random forget set is of the training data.

    Example:
        >>> fraction_of(Group("quick", "0a", "cifar10", "random-0.15", {}))
        0.15
    """
    return float(group.forget.partition("-")[2])


def _drawn(groups: Sequence[Group]) -> list[str]:
    found = dict.fromkeys(name for group in groups for name in group.methods if group.gaps(name))
    return [name for name in found if name != FLOOR]


def rule_in_rows(fractions: Sequence[float]) -> np.ndarray[Any, Any]:
    """Where α₀ = 5/3 · ρ lies among the rows of the grid, on a logarithmic scale; NaN where it leads out of it.

    Example:
        >>> rule_in_rows([0.15, 0.5]).round(2)
        array([ 3., nan])
    """
    wanted, rows = np.log(np.array(fractions) * ALPHA_PER_FORGET_FRACTION), np.arange(len(ALPHAS))
    return np.interp(wanted, np.log(ALPHAS), rows, left=np.nan, right=np.nan)


def _draw_grid(columns: Sequence[Group], title: str, path: Path) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    gaps = np.full((len(STUDY), len(columns)), np.nan)
    for (row, name), (column, group) in product(enumerate(STUDY), enumerate(columns)):
        if found := group.gaps(name):
            gaps[row, column] = mean_of(list(found.values())).value
    fractions = [fraction_of(group) for group in columns]
    figure = Figure(figsize=(2 + 0.9 * len(columns), 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.imshow(gaps, origin="lower", cmap="viridis_r", aspect="auto")
    for row, column in np.argwhere(np.isfinite(gaps)):
        gap, best = gaps[row, column], gaps[row, column] == np.nanmin(gaps[:, column])
        color = "white" if 2 * gap > np.nanmin(gaps) + np.nanmax(gaps) else "black"  # large gaps lie on dark ground
        text = f"{gap:.1f}{' ★' * bool(best)}"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axis.plot(range(len(columns)), rule_in_rows(fractions), "r--", label="α₀ = 5/3 · ρ")
    axis.set_xticks(range(len(columns)), [f"{100 * fraction:g} %" for fraction in fractions])
    axis.set_yticks(range(len(ALPHAS)), [f"{alpha:g}" for alpha in ALPHAS])
    axis.set_xlabel("forget fraction ρ")
    axis.set_ylabel("α₀")
    figure.legend(fontsize=8, loc="outside lower right")
    figure.suptitle(title, fontsize=9)
    write_svg(figure, path)


def _draw(groups: Sequence[Group], title: str, path: Path) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names, across = _drawn(groups), min(SIDE_BY_SIDE, len(groups))
    down = -(-len(groups) // across)
    figure = Figure(
        figsize=(1.6 + WIDTH * across, 0.4 + down * (MARGIN + ROW_HEIGHT * len(names))), layout="constrained"
    )
    FigureCanvasSVG(figure)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    for axis, group in zip(axes, groups, strict=False):
        floor = group.gaps(FLOOR)
        if floor:
            axis.axvspan(0, mean_of(list(floor.values())).value, color="0.88")
        for place, name in enumerate(names):
            found = group.gaps(name)
            if not found:
                continue
            mean = mean_of(list(found.values()), within=(0.0, math.inf))
            axis.plot(mean.value, place, "o", color="C0" if name.startswith("nabla_tau") else "0.3")
            if mean.low is not None and mean.high is not None:
                axis.plot([mean.low, mean.high], [place, place], "-", color="0.3", linewidth=1)
        counts = [count for name in names if (count := len(group.gaps(name)))]
        fewest, most = min(counts), max(counts)
        seeds = f"{most}" if fewest == most else f"{fewest}–{most}"
        axis.set_title(f"{group.forget} ({seeds} seed{'s' * (most > 1)})", fontsize=9)
        axis.set_xlim(left=0)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.tick_params(labelbottom=True, labelsize=8)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    write_svg(figure, path)


def write_svg(figure: "Figure", path: Path) -> None:
    """As SVG that is the same, byte for byte, wherever the cells are; its folder is made if it does not exist.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_svg(Figure(), path := Path(folder) / "empty.svg")
        ...     "<svg" in path.read_text()
        True
    """
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})
