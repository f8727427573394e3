"""What retrained models say: bands for every measure, and how far the predictions are from theirs."""

from itertools import combinations
from typing import Any

import numpy as np

from nabla_tau.auditing.bands import prediction_band
from nabla_tau.auditing.predictions import js_divergence
from nabla_tau.auditing.scoring import Scores

FEWEST_RETRAINED = 3


def compare(measured: list[dict[str, Any]], scores: dict[str, dict[str, Scores]], task: str) -> dict[str, Any] | None:
    """Set the unlearned model against K retrained ones, or nothing for K < 3.

    Args:
        measured: the report's entry of each model.
        scores: model -> set -> `Scores`.
        task: name of the per-sample loss.

    Returns:
        models: K; factor: c_K of the bands; bands: for each measure the band in which a new retrained model lies with
        95 %, and the unlearned model's value; divergence: mean JS of predictions on the forget set, base 2, to the
        retrained models and among them; alarms: how many of the retrained models the primary attack alarms on, a count
        without interval, because they share the samples.

    Example:
        >>> compare([], {"unlearned": {}}, "classification") is None
        True
    """
    retrained = [row for row in measured if row["name"].startswith("retrained")]
    if len(retrained) < FEWEST_RETRAINED:
        return None
    ours = next(row for row in measured if row["name"] == "unlearned")
    bands = []
    values = [_values(row) for row in retrained]
    for measure, value in _values(ours).items():
        if any(measure not in one for one in values):
            continue
        band = prediction_band(np.array([one[measure] for one in values]))
        bands.append(
            {
                "measure": measure,
                "low": band.low,
                "high": band.high,
                "unlearned": value,
                "inside": bool(band.low <= value <= band.high),
                "gap": abs(value - band.mean),
            }
        )
    primary = [next(attack for attack in row["attacks"] if attack["primary"]) for row in retrained]
    return {
        "models": len(retrained),
        "factor": band.factor,
        "bands": bands,
        "divergence": _divergence(scores) if task == "classification" else None,
        "alarms": sum(attack["p"] < 0.05 for attack in primary),
    }


def _values(row: dict[str, Any]) -> dict[str, float]:
    """The measures that are compared, by name."""
    found = {
        f"{key} {measure}": estimate["value"]
        for key, measures in row["utility"].items()
        for measure, estimate in measures.items()
    }
    found |= {f"AUC {attack['score']}": attack["auc"]["value"] for attack in row["attacks"]}
    found |= {f"paper, {name}": one["accuracy"] for name, one in row["paper_attacks"].items() if one is not None}
    found["AUC boosted"] = row["boosted"]["auc"]["value"]
    return found


def _divergence(scores: dict[str, dict[str, Scores]]) -> dict[str, float]:
    retrained = [one["forget"].predictions for name, one in scores.items() if name.startswith("retrained")]
    ours = scores["unlearned"]["forget"].predictions
    return {
        "unlearned": float(np.mean([js_divergence(ours, other).mean() for other in retrained])),
        "floor": float(np.mean([js_divergence(one, other).mean() for one, other in combinations(retrained, 2)])),
    }
