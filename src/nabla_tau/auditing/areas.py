"""The plots of areas under the ROC curve, with their intervals, beside 0.5."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from matplotlib.axes import Axes

from nabla_tau.auditing import svg
from nabla_tau.auditing.formats import estimate, fixed
from nabla_tau.auditing.plots import MARKS, RETRAINED_MARK, RETRAINED_SHOWN, Plot, role, shown

Json = dict[str, Any]
LONGEST_LABEL = 24
"""Characters of a row's label; a longer one would leave no room to draw."""

Rows = Sequence[tuple[str, Sequence[tuple[str, Json]]]]


def primary(models: Sequence[Json], margin: float | None) -> Plot | None:
    """The primary attack's area for each model, and the margin around 0.5.

    Args:
        models: as in the report.
        margin: half the width of the shaded band; None draws none.

    Returns:
        The plot, or None where no model has a primary attack.

    Example:
        >>> attack = {"score": "loss", "primary": True, "auc": {"value": 0.8, "low": 0.7, "high": 0.9}}
        >>> primary([{"name": "original", "attacks": [attack]}], 0.1).text
        'Primary attack: AUC, where 0.5 is guessing: original 0.800 [0.700, 0.900]. The margin is ± 0.100.'
    """
    found = [(model["name"], one["auc"]) for model in models for one in _attacks(model) if one.get("primary")]
    rows = [(name, [(name, area)]) for name, area in found][: 2 + RETRAINED_SHOWN]
    return _plot(rows, "Primary attack: AUC", margin) if rows else None


def every_attack(models: Sequence[Json]) -> Plot | None:
    """The area of every attack, for each model.

    Args:
        models: as in the report.

    Returns:
        The plot, or None where there are no attacks.

    Example:
        >>> models = [{"name": "unlearned", "boosted": {"auc": {"value": 0.5, "low": 0.4, "high": 0.6}}}]
        >>> every_attack(models).text
        'AUC of every attack, where 0.5 is guessing: boosted, all scores: unlearned 0.500 [0.400, 0.600].'
    """
    drawn = shown(models)
    names = dict.fromkeys(one["score"] for model in drawn for one in _attacks(model))
    of_models = [(model["name"], {one["score"]: one["auc"] for one in _attacks(model)}) for model in drawn]
    rows = [(name.replace("_", " "), [(m, found[name]) for m, found in of_models if name in found]) for name in names]
    boosted = [(model["name"], model["boosted"]["auc"]) for model in drawn if _known(model.get("boosted"))]
    rows += [("boosted, all scores", boosted)] if boosted else []
    return _plot(rows, "AUC of every attack", None) if rows else None


def _attacks(model: Json) -> list[Json]:
    return [attack for attack in model.get("attacks") or [] if _known(attack)]


def _known(attack: Json | None) -> bool:
    value = ((attack or {}).get("auc") or {}).get("value")
    return value is not None and isfinite(value)


def _plot(rows: Rows, title: str, margin: float | None) -> Plot:
    many = any(label != name for label, points in rows for name, _ in points)  # else a row is a model
    lanes = list(dict.fromkeys(role(name) for _, points in rows for name, _ in points))

    def paint(axes: Axes) -> None:
        if margin and isfinite(margin):
            axes.axvspan(0.5 - margin, 0.5 + margin, color=svg.BAND, linewidth=0)
        axes.axvline(0.5, color=svg.MUTED, linewidth=1.2, linestyle=":")
        for place, (_, points) in enumerate(rows):
            for name, area in points:
                colour, mark, _ = MARKS.get(name, RETRAINED_MARK)
                height = place + (lanes.index(role(name)) - (len(lanes) - 1) / 2) * 0.27 * many
                ends = [area["low"], area["high"]] if area.get("low") is not None else [area["value"]] * 2
                axes.plot(ends, [height, height], color=colour, linewidth=1.6, solid_capstyle="butt")
                axes.plot([area["value"]], [height], color=colour, marker=mark, markersize=5.5, linestyle="")
        axes.set(
            yticks=range(len(rows)), yticklabels=[_short(label) for label, _ in rows], ylim=(len(rows) - 0.5, -0.5)
        )
        axes.set(xlabel="area under the ROC curve")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.44), max(high, 0.56))
        axes.tick_params(axis="y", length=0, labelcolor=svg.INK)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    told = [f"{label}: {_named(points)}" if many else _named(points) for label, points in rows]
    band = f" The margin is ± {fixed(margin)}." if margin else ""
    picture = svg.drawing(title, paint, width=360, height=48 + (34 if many else 24) * len(rows))
    return Plot(title, picture, f"{title}, where 0.5 is guessing: {'; '.join(told)}.{band}")


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def _named(points: Sequence[tuple[str, Json]]) -> str:
    return ", ".join(f"{name} {estimate(area)}" for name, area in points)


__all__ = ["every_attack", "primary"]
