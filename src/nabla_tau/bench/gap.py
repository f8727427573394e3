"""The gap to retrained: how far a model is from ones that never saw the forget set, defined here and nowhere else."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from nabla_tau.bench.storing import Json

POINTS = 100
HIGHER, LOWER, AS_RETRAINED = "higher", "lower", "as retrained"
UTILITIES = ("accuracy", "macro_f1", "r2")
"""What utility is, by task: classes, several labels, numbers."""


@dataclass(frozen=True)
class Component:
    """One part of the gap.

    Attributes:
        name: as in tables.
        direction: what is better, where nothing has been forgotten by retraining to compare with.
        value: record of a cell -> value in points; None where the task has no such thing.
    """

    name: str
    direction: str
    value: Callable[[Json], float | None]


def _utility(part: str) -> Callable[[Json], float | None]:
    def value(record: Json) -> float | None:
        found = record["audit"]["utility"][part]
        return next((POINTS * found[name]["value"] for name in UTILITIES if name in found), None)

    return value


def _paper_attack(feature: str) -> Callable[[Json], float | None]:
    def value(record: Json) -> float | None:
        found = record["audit"]["paper_attacks"][feature]
        return None if found is None else POINTS * float(found["accuracy"])

    return value


def _primary(record: Json) -> float | None:
    return POINTS * float(next(one["auc"]["value"] for one in record["audit"]["attacks"] if one["primary"]))


def _divergence(record: Json) -> float | None:
    found = record["js_to_retrained"]
    return POINTS * fmean(found.values()) if found else None


JS = "JS"
COMPONENTS = (
    Component("test", HIGHER, _utility("test")),
    Component("retain", HIGHER, _utility("retain")),
    Component("forget", AS_RETRAINED, _utility("forget")),
    Component("loss attack", LOWER, _paper_attack("losses")),
    Component("entropy attack", LOWER, _paper_attack("entropies")),
    Component("primary AUC", LOWER, _primary),
    Component(JS, LOWER, _divergence),
)
"""Utility of the three sets, the paper's two attacks, the audit's primary attack, and the predictions themselves."""

ATTACKS = ("loss attack", "entropy attack", "primary AUC")


def values(record: Json) -> dict[str, float]:
    """Components of a finished cell, in points.

    Example:
        >>> auc = {"primary": True, "auc": {"value": 0.61}}
        >>> audit = {"utility": dict.fromkeys(("test", "retain", "forget"), {"accuracy": {"value": 0.9}}),
        ...          "paper_attacks": {"losses": {"accuracy": 0.6}, "entropies": None}, "attacks": [auc]}
        >>> values({"audit": audit, "js_to_retrained": {"retrained-1": 0.125, "retrained-2": 0.25}})
        {'test': 90.0, 'retain': 90.0, 'forget': 90.0, 'loss attack': 60.0, 'primary AUC': 61.0, 'JS': 18.75}
    """
    found = {component.name: component.value(record) for component in COMPONENTS}
    return {name: value for name, value in found.items() if value is not None}


def possible(record: Json) -> dict[str, tuple[float, float]]:
    """The least and the largest value that each component can have, in points: R² has no least.

    Example:
        >>> cell = {"audit": {"utility": {"test": {"r2": {"value": 0.3}}}}}
        >>> possible(cell)["test"], possible(cell)["JS"]
        ((-inf, 100.0), (0.0, 100.0))
    """
    utilities, bounded = ("test", "retain", "forget"), "r2" not in record["audit"]["utility"]["test"]
    return {
        component.name: (0.0 if bounded or component.name not in utilities else -math.inf, float(POINTS))
        for component in COMPONENTS
    }


def distances(record: Json, retrained: Sequence[Json]) -> dict[str, float]:
    """Distance of each component from the retrained models, in points.

        d_c = |v_c − mean over retrained models of v_c|,    d_JS = mean over retrained models of JS to them

    JS is a distance already. A retrained model among `retrained` is compared with the others: its distances are the
    retrain-to-retrain floor.

    Args:
        record: a finished cell.
        retrained: finished cells of the same task, forget set and seed.

    Returns:
        Component -> distance; 0 is a model that cannot be told from the retrained ones.

    Example:
        >>> def cell(method, test, js):
        ...     audit = {"utility": {part: {"accuracy": {"value": test}} for part in ("test", "retain", "forget")},
        ...              "paper_attacks": {"losses": None, "entropies": None},
        ...              "attacks": [{"primary": True, "auc": {"value": 0.5}}]}
        ...     return {"cell": {"method": method}, "audit": audit, "js_to_retrained": js}
        >>> references = [cell(f"retrained-{k}", k / 4, {f"retrained-{3 - k}": 0.25}) for k in (1, 2)]
        >>> ours = cell("nabla_tau", 0.25, {"retrained-1": 0.5, "retrained-2": 0.5})
        >>> distances(ours, references)["test"], distances(ours, references)["JS"]
        (12.5, 50.0)
        >>> distances(references[0], references)["test"]  # the floor
        25.0
    """
    others = [one for one in retrained if one["cell"]["method"] != record["cell"]["method"]]
    ours, theirs = values(record), [values(one) for one in others]
    return {
        name: value if name == JS else abs(value - fmean(other[name] for other in theirs))
        for name, value in ours.items()
    }


def gap(record: Json, retrained: Sequence[Json]) -> float:
    """The gap to retrained: the mean of `distances`, in points.

    Args:
        record: a finished cell.
        retrained: finished cells of the same task, forget set and seed.

    Example:
        >>> audit = {"utility": {part: {"r2": {"value": 0.5}} for part in ("test", "retain", "forget")},
        ...          "paper_attacks": {"losses": None, "entropies": None},
        ...          "attacks": [{"primary": True, "auc": {"value": 0.75}}]}
        >>> one = {"cell": {"method": "retrained-1"}, "audit": audit, "js_to_retrained": {}}
        >>> gap({**one, "cell": {"method": "scrub"}}, [one])
        0.0
    """
    return fmean(distances(record, retrained).values())
