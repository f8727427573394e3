"""Everything the audit measures on one model, from its scores alone: no forward pass happens here."""

from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import f1_score, r2_score

from nabla_tau.auditing.attacks import FOLDS, boosted_attack
from nabla_tau.auditing.bands import bootstrap_interval, mean_interval
from nabla_tau.auditing.distances import energy_distance, kolmogorov_smirnov
from nabla_tau.auditing.equivalence import certified_margin, holm
from nabla_tau.auditing.matching import comparable
from nabla_tau.auditing.predictions import calibration_error
from nabla_tau.auditing.ranks import auc
from nabla_tau.auditing.rates import exact_rate, tpr_at_fpr
from nabla_tau.auditing.residual import over_forgetting, residual_fraction, worst_samples
from nabla_tau.auditing.samples import FEWEST
from nabla_tau.auditing.scoring import Numbers, Scores
from nabla_tau.auditing.verdict import FEWEST_UNSEEN, LEVEL
from nabla_tau.membership import SPLITS, attack

PRIMARY = "loss"
"""The attack that is declared beforehand: AUC of −loss. The others are a family, corrected by Holm."""

FEWEST_SAMPLES = FOLDS * FEWEST
"""What each set needs: attack and residual fraction look at halves of it."""

MOST_NATS = np.log(np.finfo(np.float64).max)
"""A mean loss beyond which there is no perplexity."""

FPRS = (0.01, 0.001)
SETS = ("forget", "retain", "test")
Measured = dict[str, Any]


def measure_model(name: str, scores: dict[str, Scores], matched: Numbers, task: str, *, seed: int = 0) -> Measured:
    """All measures of one model.

    Args:
        name: `original`, `unlearned` or `retrained K`.
        scores: forget, retain and test set -> `Scores`.
        matched: positions among the test scores that are comparable to the forget set; for a removed class, its test
            samples alone.
        task: what the per-sample loss reads, as `losses.task_of` says.
        seed: of resampling and permutations.

    Returns:
        The model's entry in the report, as JSON takes it. AUCs say how often a forget sample looks more like a member
        than an unseen one; losses in nats or squared units of the target; shares in [0, 1].

    Raises:
        ValueError: if forget set, retain set or matched test set has fewer than 20 samples.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> def scores_around(loss):  # of 60 samples, with no predictions
        ...     bank = {"loss": -generator.gamma(2, loss / 2, 60)}
        ...     return Scores(bank, np.zeros((60, 0)), np.zeros((60, 0)), np.arange(60))
        >>> scores = {"forget": scores_around(0.1), "retain": scores_around(0.1), "test": scores_around(2)}
        >>> measured = measure_model("original", scores, np.arange(60), "my_loss")
        >>> measured["attacks"][0]["auc"]["value"] > 0.95, measured["margin"] > 0.4
        (True, True)
    """
    forget, retain, test = scores["forget"], scores["retain"], scores["test"].take(matched)
    family, attacks = _attacks(forget, test, seed)
    features = [np.column_stack([side.bank[key] for key in forget.bank]) for side in (forget, test)]
    boosted = boosted_attack(features[0], features[1], seed=seed)
    ks = kolmogorov_smirnov(forget.losses, test.losses, seed=seed)
    energy = energy_distance(*_standardised(*features), seed=seed)
    family |= {"boosted": boosted.p, "ks": ks.p, "energy": energy.p}
    over = _over_forgetting(forget, test)
    if over is not None:
        family["over_forgetting"] = over["p"]
    adjusted = holm(family)
    for row in attacks:
        row["p_adjusted"] = row["p"] if row["primary"] else adjusted[row["score"]]
    if over is not None:
        over |= {"p_adjusted": adjusted["over_forgetting"], "alarm": adjusted["over_forgetting"] < LEVEL}
    residual = residual_fraction(
        forget=forget.bank[PRIMARY], retain=retain.bank[PRIMARY], test=test.bank[PRIMARY], seed=seed
    )
    worst = forget.positions[worst_samples(forget.bank[PRIMARY])]
    return {
        "name": name,
        "utility": {key: _utility(one, task, seed) for key, one in scores.items()},
        "per_class": _per_class(scores) if task == "classification" else None,
        "paper_attacks": _paper_attacks(forget, test, task, seed),
        "attacks": attacks,
        "boosted": {"auc": _estimate(boosted.auc, boosted.low, boosted.high), "p": boosted.p,
                    "p_adjusted": adjusted["boosted"]},
        "ks": {**_estimate(ks.value, ks.low, ks.high), "p": ks.p, "p_adjusted": adjusted["ks"]},
        "energy": {"value": energy.value, "p": energy.p, "p_adjusted": adjusted["energy"],
                   "samples": [energy.members, energy.non_members]},
        "margin": certified_margin(auc(forget.bank[PRIMARY], test.bank[PRIMARY])),
        "residual": {
            "fraction": None
            if residual.fraction is None
            else _estimate(residual.fraction, residual.low, residual.high),
            "worst": worst.tolist(),
        },
        "over_forgetting": over,
        "histogram": _histogram(scores),
        "roc": _roc(forget.bank[PRIMARY], test.bank[PRIMARY]),
        "retain_exposure": _exposure(scores),
    }  # fmt: skip


def _attacks(forget: Scores, test: Scores, seed: int) -> tuple[dict[str, float], list[Measured]]:
    family, rows = {}, []
    for key in forget.bank:
        area = auc(forget.bank[key], test.bank[key])
        rates = [tpr_at_fpr(forget.bank[key], test.bank[key], fpr=fpr, seed=seed) for fpr in FPRS]
        rows.append(
            {
                "score": key,
                "primary": key == PRIMARY,
                "auc": _estimate(area.value, area.low, area.high),
                "p": area.p,
                "tpr": [
                    {
                        "fpr": rate.fpr,
                        "rate": rate.tpr and _estimate(rate.tpr.value, rate.tpr.low, rate.tpr.high),
                        "needed": rate.needed,
                    }
                    for rate in rates
                ],
            }
        )
        if key != PRIMARY:
            family[key] = area.p
    return family, rows


def _over_forgetting(forget: Scores, test: Scores) -> Measured | None:
    """Samples in the far tail of the losses; nothing where too few unseen samples reach that far."""
    if len(test) < FEWEST_UNSEEN:
        return None
    over = over_forgetting(forget=forget.losses, test=test.losses)
    return {
        "share": _estimate(over.beyond.value, over.beyond.low, over.beyond.high),
        "expected": over.expected,
        "p": over.p,
        "direction": over.direction,
    }


def _utility(scores: Scores, task: str, seed: int) -> Measured:
    found = {"loss": _interval(mean_interval(scores.losses, seed=seed))}
    predictions, targets = scores.predictions, scores.targets
    if task == "classification":
        hits = scores.bank["correct"]
        rate = exact_rate(int(hits.sum()), len(hits))
        found["accuracy"] = _estimate(rate.value, rate.low, rate.high)
        found["calibration_error"] = _interval(
            bootstrap_interval(calibration_error, predictions, targets, seed=seed, resamples=200)
        )
    elif task in ("binary", "multi_label"):
        found["macro_f1"] = _interval(bootstrap_interval(_macro_f1, predictions, targets, seed=seed, resamples=200))
        found["label_accuracy"] = _interval(mean_interval(scores.bank["correct"], seed=seed))
    elif task == "regression":
        found["r2"] = _interval(bootstrap_interval(_r2, predictions, targets, seed=seed, resamples=500))
        found["mean_absolute_error"] = _interval(mean_interval(np.abs(predictions - targets).mean(1), seed=seed))
    elif "correct" in scores.bank:
        found["token_accuracy"] = _interval(mean_interval(scores.bank["correct"], seed=seed))
        if max(filter(None, found["loss"].values())) < MOST_NATS:
            found["perplexity"] = {key: float(np.exp(value)) for key, value in found["loss"].items()}
    return found


def _paper_attacks(forget: Scores, test: Scores, task: str, seed: int) -> Measured:
    """Exactly as published: multi-label losses summed over labels, entropies of the softmax over them."""
    if min(len(forget), len(test)) < SPLITS:
        return {"losses": None, "entropies": None}
    labels = forget.predictions.shape[1] if task == "multi_label" else 1
    found: Measured = {"losses": asdict(attack(forget.losses * labels, test.losses * labels, seed=seed))}
    sides = [_entropies(one, task) for one in (forget, test)]
    found["entropies"] = None
    if sides[0] is not None and sides[1] is not None:
        found["entropies"] = asdict(attack(sides[0], sides[1], seed=seed))
    return found


def _entropies(scores: Scores, task: str) -> Numbers | None:
    if task == "multi_label":
        p = np.clip(scores.predictions.astype(np.float64), 1e-12, 1 - 1e-12)
        softmax = p / (1 - p)  # exp(logit), up to the common factor that the softmax takes out
        softmax /= softmax.sum(1, keepdims=True)
        return np.asarray(-(softmax * np.log(softmax)).sum(1))
    return -scores.bank["entropy"] if "entropy" in scores.bank else None


def _per_class(scores: dict[str, Scores]) -> list[Measured]:
    classes = sorted(set().union(*(np.unique(one.targets).tolist() for one in scores.values())))
    rows = []
    for label in classes:
        row: Measured = {"class": int(label)}
        for key, one in scores.items():
            hits = one.bank["correct"][one.targets == label]
            row[key] = float(hits.mean()) if len(hits) else None
        rows.append(row)
    return rows


def _histogram(scores: dict[str, Scores], bins: int = 40) -> Measured:
    logs = {key: np.log10(np.maximum(one.losses, 1e-8)) for key, one in scores.items()}
    low, high = (float(end([end(values) for values in logs.values()])) for end in (np.min, np.max))
    edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    shares = {key: (np.histogram(values, edges)[0] / len(values)).tolist() for key, values in logs.items()}
    return {"edges": edges.tolist(), **shares}


def _roc(members: Numbers, others: Numbers, points: int = 200) -> Measured:
    """True-positive rate at up to so many false-positive rates, thinned towards low ones."""
    thresholds = np.sort(others)[::-1]
    places = np.unique(np.geomspace(1, len(others), points).astype(int))
    tpr = [float((members > thresholds[place - 1]).mean()) for place in places]
    return {"fpr": ((places - 1) / len(others)).tolist(), "tpr": tpr}


def _standardised(members: Numbers, others: Numbers) -> tuple[Numbers, Numbers]:
    """Ranks over both sides in [0, 1]: a score with heavy tails does not drown the others."""
    together = np.concatenate([members, others])
    ranks = rankdata(together, axis=0) / len(together)
    return ranks[: len(members)], ranks[len(members) :]


def _macro_f1(predictions: Numbers, targets: Numbers) -> float:
    """Over the labels that are there or predicted: of a small set many are neither, and count for nothing."""
    mean = float(f1_score(targets > 0.5, predictions > 0.5, average="macro", zero_division=np.nan))
    return 1.0 if np.isnan(mean) else mean


def _r2(predictions: Numbers, targets: Numbers) -> float:
    return float(r2_score(targets, predictions))


def _exposure(scores: dict[str, Scores]) -> Measured | None:
    retained, others = comparable(scores["retain"], scores["test"])
    if min(len(retained), len(others)) < FEWEST:
        return None
    area = auc(scores["retain"].bank[PRIMARY][retained], scores["test"].bank[PRIMARY][others])
    return _estimate(area.value, area.low, area.high)


def _interval(interval: Any) -> Measured:
    return _estimate(interval.value, interval.low, interval.high)


def _estimate(value: float, low: float | None, high: float | None) -> Measured:
    ends = {key: None if end is None else float(end) for key, end in (("low", low), ("high", high))}
    return {"value": float(value), **ends}
