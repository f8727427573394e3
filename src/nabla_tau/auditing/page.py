"""The audit as one HTML page that opens anywhere: no network, no script, light and dark, on paper too."""

import json
from functools import cache
from math import isclose
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup

from nabla_tau.auditing import areas, plots
from nabla_tau.auditing.formats import FORMATS, NOT_AVAILABLE, estimate, fixed, p_is
from nabla_tau.auditing.passes import epochs

Json = dict[str, Any]

TITLES = {
    "verdict": "Verdict",
    "request": "Request",
    "controls": "Controls",
    "losses": "Loss distributions",
    "roc": "ROC curves",
    "epochs": "Pass by pass",
    "utility": "Utility",
    "attacks": "Attacks",
    "paper": "Attacks of the paper",
    "residual": "Residue and exposure",
    "classes": "Change by class",
    "reference": "Retrained reference",
    "settings": "Settings",
    "fingerprints": "Fingerprints",
    "threats": "Threat model",
    "limits": "Limits",
    "reproduce": "Reproduce",
    "signoff": "Sign-off",
}
VERDICTS = {
    "none_detectable": ("good", "✓ no residue detectable"),
    "residual": ("bad", "✗ residue detectable"),
    "over_forgotten": ("bad", "✗ over-forgotten"),
    "distinguishable": ("warn", "✗ distinguishable by shape"),
    "not_answerable": ("plain", "? not answerable"),
    "unreliable": ("plain", "? unreliable"),
    "nothing_memorised": ("plain", "? no memory seen to begin with"),
}
"""Colour and short name of a verdict by its kind; another kind has no colour and its own name."""

SETS = ("retain", "forget", "test")
PERCENT = ("calibration_error", "macro_f1")
CLASSES_SHOWN = 60
POSITIONS_SHOWN = 30
LONGEST = 1500
"""Characters of one setting that are shown; the rest is in report.json."""


def page(report: Json) -> str:
    """One HTML document that shows an audit.

    Everything from the report is escaped, and the page forbids its browser to load or run anything.

    Args:
        report: the audit's report, as in report.json. An entry that is None or not there is said to be absent,
            with the reason that `report["absent"]` gives for its key.

    Returns:
        The document, which needs no other file.

    Example:
        >>> text = page({"verdict": {"sentence": "No residual membership detectable above 0.02."}, "command": "<u>"})
        >>> "detectable above 0.02." in text, "&lt;u&gt;" in text, "<u>" in text
        (True, True, False)
    """
    models = report.get("models") or []
    named = {model["name"]: model for model in models}
    classes = _classes(named.get("original"), named.get("unlearned"))
    skipped = {"classes": not classes, "reference": not report.get("reference")}
    verdict = report.get("verdict") or {}
    text = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            verdict=verdict,
            short=VERDICTS.get(
                str(verdict.get("kind")), ("plain", str(verdict.get("kind") or "no verdict").replace("_", " "))
            ),
            titles={key: title for key, title in TITLES.items() if not skipped.get(key)},
            sets=SETS,
            models=models,
            original=named.get("original"),
            unlearned=named.get("unlearned"),
            retrained=[model for model in models if model["name"] not in plots.MARKS],
            roles=[
                role
                for role in (*plots.MARKS, "retrained")
                if any(plots.role(model["name"]) == role for model in models)
            ],
            measures=_measures(models),
            classes=classes[:CLASSES_SHOWN],
            classes_left_out=max(len(classes) - CLASSES_SHOWN, 0),
            losses=plots.losses(models),
            roc=plots.roc(models, verdict.get("test_samples") or 1000),
            epochs=epochs(report.get("epochs") or []),
            primary=areas.primary(models, verdict.get("margin")),
            scores=areas.every_attack(models),
            positions_shown=POSITIONS_SHOWN,
        )
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a file name in the command may not be valid Unicode


@cache
def _environment() -> Environment:
    loader = PackageLoader("nabla_tau", "auditing")
    environment = Environment(
        loader=loader, autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: _tolerant(show) for name, show in FORMATS.items()}
    environment.filters |= {
        "est": _cell,
        "plain": lambda value, kind="fixed": estimate(value or None, kind),
        "words": lambda value: str(value).replace("_", " "),
        "compact": _compact,
        "at_level": lambda rates, level: next((one for one in rates or [] if isclose(one["fpr"], level)), None),
        "points": _tolerant(lambda change: f"{'+' if change >= 0.0005 else ''}{fixed(100 * change, 1)}"),
        "of_accuracy": lambda attack: {**attack, "value": attack["accuracy"]} if attack else None,
        "p_is": lambda value: p_is(None if isinstance(value, ChainableUndefined) else value),
        "unit": lambda measure: "percent" if measure in PERCENT or measure.endswith("accuracy") else "number",
        "place": _place,
    }
    return environment


def _tolerant(show: Any) -> Any:
    """A number for a cell; what is absent looks so."""

    def filtered(value: Any, *options: int) -> str | Markup:
        text = NOT_AVAILABLE if value is None or isinstance(value, ChainableUndefined) else show(value, *options)
        return _absent() if text == NOT_AVAILABLE else text

    return filtered


def _absent() -> Markup:
    return Markup('<span class="none">{}</span>').format(NOT_AVAILABLE)


def _cell(value: Json | None, kind: str = "fixed") -> Markup:
    """An estimate for a cell of a table, its interval below it."""
    text, bracket, interval = estimate(value or None, kind).partition(" [")
    if text == NOT_AVAILABLE:
        return _absent()
    return Markup('{}<span class="ci">[{}</span>').format(text, interval) if bracket else Markup.escape(text)


def _compact(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters, all in report.json)"


def _measures(models: list[Json]) -> list[str]:
    """The names of all measures of utility, in the order in which they come."""
    of_sets = [(model.get("utility") or {}).get(name) or {} for model in models for name in SETS]
    return list(dict.fromkeys(measure for of_set in of_sets for measure in of_set))


def _classes(original: Json | None, unlearned: Json | None) -> list[Json]:
    """One row a class, those that changed most on the test set first where not all are shown."""
    before = {row["class"]: row for row in (original or {}).get("per_class") or []}
    rows = []
    for after in (unlearned or {}).get("per_class") or []:
        first = before.get(after["class"], {})
        pairs = {name: (first.get(name), after.get(name)) for name in SETS}
        changes = {name: None if None in pair else pair[1] - pair[0] for name, pair in pairs.items()}
        cells = {name: (*pairs[name], changes[name]) for name in SETS}
        rows.append({"class": after["class"], "cells": cells, "size": abs(changes["test"] or 0.0)})
    return sorted(rows, key=lambda row: -row["size"]) if len(rows) > CLASSES_SHOWN else rows


def _place(band: Json) -> float:
    """Where in its strip, in percent, a value stands; the band is the part from 30 to 70."""
    half: float = max((band["high"] - band["low"]) / 2, 1e-12)
    shift: float = (band["unlearned"] - (band["low"] + band["high"]) / 2) / half
    return min(max(50 + 20 * shift, 4), 96)


__all__ = ["page"]
