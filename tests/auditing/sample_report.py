"""A report as the audit's page takes it, with numbers such as a network on images gives."""

import hashlib
from statistics import NormalDist

import numpy as np

FORGET, TEST, RETAIN = 1500, 5000, 12000
EDGES = np.linspace(-5, 1.25, 51)
MODELS = {  # mean and spread of log10 of the loss: forget, test, retain
    "original": ((-2.1, 0.7), (-0.55, 0.75), (-2.1, 0.7)),
    "unlearned": ((-0.57, 0.71), (-0.54, 0.76), (-2.0, 0.7)),
    "retrained 1": ((-0.55, 0.75), (-0.55, 0.75), (-2.1, 0.7)),
    "retrained 2": ((-0.53, 0.76), (-0.56, 0.75), (-2.1, 0.7)),
    "retrained 3": ((-0.56, 0.74), (-0.54, 0.74), (-2.1, 0.7)),
}
SCORES = ("loss", "confidence", "margin", "entropy", "modified_entropy", "correct", "gradient_norm")
PRIMARY = "loss"


def sample_report(**changes):
    """The report, with some of its entries replaced."""
    generator = np.random.default_rng(17)
    report = {
        "format": 1,
        "created": "2026-11-23T09:14:07+00:00",
        "verdict": {
            "kind": "none_detectable",
            "sentence": "No residual membership detectable above a margin of 0.021 AUC with 1,500 forget and 5,000 "
            "unseen samples (AUC 0.507, 95 % interval 0.491 to 0.523); smaller effects could not have been seen.",
            "over_forgetting": "No over-forgetting detected: 1.1 % of the forget samples cost more than 99 % of the "
            "unseen ones (1.0 % expected).",
            "primary": "AUC of the loss, forget against test, level 0.05",
            "margin": 0.021,
            "forget_samples": FORGET,
            "test_samples": TEST,
        },
        "models": [_model(name, *shapes, generator) for name, shapes in MODELS.items()],
        "pair": {"auc": _area(0.861), "p": 1e-12},
        "controls": {
            "test_vs_test": {"p": 0.412, "alarm": False},
            "original": {"auc": _area(0.932), "p": 1e-16, "alarm": True},
            "blind": {"auc": _area(0.506), "p": 0.46, "alarm": False},
        },
        "power": {"smallest_fraction": 0.067, "power": 0.8, "level": 0.05},
        "reference": {
            "models": 3,
            "factor": 4.968,
            "bands": [
                _band("test accuracy", 0.9021, 0.9263, 0.9107),
                _band("forget accuracy", 0.8934, 0.9301, 0.9087),
                _band("retain accuracy", 0.9958, 1.0, 0.9921),
                _band("AUC loss", 0.478, 0.527, 0.507),
                _band("paper, losses", 0.471, 0.529, 0.498),
            ],
            "divergence": {"unlearned": 0.0412, "floor": 0.0376},
            "alarms": 0,
        },
        "epochs": [_epoch(place) for place in range(10)],
        "settings": {
            "method": "nabla_tau",
            "loss": "classification",
            "steps_done": 160,
            "learning_rate": 0.00012,
            "batch_size": {"forget": 64, "retain": 256},
            "alpha": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
            "seed": 0,
            "deterministic": True,
            "target_loss_source": "validation set, 5,000 samples",
        },
        "sets": {
            "forget": {"samples": FORGET, "fingerprint": _fingerprint("forget")},
            "retain": {"samples": RETAIN, "fingerprint": _fingerprint("retain")},
            "test": {"samples": TEST, "fingerprint": _fingerprint("test")},
        },
        "absent": {},
        "warnings": ["test and retain: 3 rows of test have the same content as rows of retain; they were dropped."],
        "versions": {"python": "3.11.2", "nabla-tau": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        "command": "nabla-tau audit runs/request-17 my_project.py:sets",
    }
    return report | changes


def _model(name, forget, test, retain, generator):
    logs = {
        "forget": generator.normal(*forget, FORGET),
        "test": generator.normal(*test, TEST),
        "retain": generator.normal(*retain, RETAIN),
    }
    curve = _roc(-logs["forget"], -logs["test"])
    area = float(np.trapezoid(curve["tpr"], curve["fpr"]))
    accuracy = {set_name: _right(values).mean() for set_name, values in logs.items()}
    return {
        "name": name,
        "fingerprint": _fingerprint(name),
        "utility": {
            set_name: {
                "loss": _around(float(np.mean(10 ** np.minimum(values, 1.2))), 2.2 / len(values) ** 0.5),
                "accuracy": _around(float(accuracy[set_name]), 0.6 / len(values) ** 0.5),
                "calibration_error": _around(0.021 + 0.2 / len(values) ** 0.5, 0.2 / len(values) ** 0.5),
            }
            for set_name, values in logs.items()
        },
        "per_class": [
            {"class": place, **{s: float(min(a + 0.03 * generator.normal(), 1)) for s, a in accuracy.items()}}
            for place in range(10)
        ],
        "paper_attacks": {
            "losses": _attack_of_the_paper(0.5 + 0.7 * (area - 0.5)),
            "entropies": _attack_of_the_paper(0.5 + 0.6 * (area - 0.5)),
        },
        "attacks": [_attack(score, area + 0.004 * generator.normal(), curve) for score in SCORES],
        "boosted": {"auc": _area(area + 0.003), **_corrected(_p(area + 0.003))},
        "ks": {"value": 1.6 * abs(area - 0.5) + 0.016, **_corrected(_p(area))},
        "energy": {"value": 4 * (area - 0.5) ** 2 + 0.0002, **_corrected(_p(area))},
        "margin": abs(area - 0.5) + 0.014,
        "residual": {
            "fraction": _around(min(max(2.1 * (area - 0.5), 0.003), 0.97), 0.03),
            "worst": [17, 402, 911, 1204],
        },
        "over_forgetting": {"expected": 0.01, "share": _around(0.011, 0.005), "p": 0.31, "alarm": False},
        "histogram": {"edges": EDGES.tolist(), **{s: _shares(values) for s, values in logs.items()}},
        "roc": curve,
        "retain_exposure": _area(0.934 if name != "unlearned" else 0.921),
    }


def _attack(score, area, curve):
    tpr = float(np.interp(0.01, curve["fpr"], curve["tpr"]))
    p = _p(area)
    rates = [{"fpr": 0.01, "rate": _around(tpr, 0.006), "needed": 1000}, {"fpr": 0.001, "rate": None, "needed": 10000}]
    return {
        "score": score,
        "primary": score == PRIMARY,
        "auc": _area(area),
        "p": p,
        "p_adjusted": p if score == PRIMARY else min(1.0, 9 * p),
        "tpr": rates,
    }


def _roc(members, others):
    scores = np.concatenate([members, others])
    member = np.repeat([True, False], [len(members), len(others)])[np.argsort(-scores)]
    tpr, fpr = np.cumsum(member) / len(members), np.cumsum(~member) / len(others)
    return {"fpr": [0.0, *fpr.tolist()], "tpr": [0.0, *tpr.tolist()]}


def _shares(values):
    counts, _ = np.histogram(np.clip(values, EDGES[0], EDGES[-1]), EDGES)
    return (counts / len(values)).tolist()


def _right(logs):
    return logs < 0.35


def _around(value, half):
    return {
        "value": value,
        "low": max(value - half, 0.0),
        "high": value + half if value > 1 else min(value + half, 1.0),
    }


def _area(value):
    return _around(value, 0.016 * (1 - abs(value - 0.5)))


def _p(area):
    return 2 * (1 - NormalDist().cdf(abs(area - 0.5) / 0.0085))


def _corrected(p):
    return {"p": p, "p_adjusted": min(1.0, 9 * p)}


def _attack_of_the_paper(accuracy):
    return {"accuracy": accuracy, "low": accuracy - 0.018, "high": accuracy + 0.018, "samples": FORGET}


def _band(measure, low, high, unlearned):
    return {"measure": measure, "low": low, "high": high, "unlearned": unlearned, "inside": low <= unlearned <= high}


def _epoch(place):
    forget = 0.84 - 0.8 * np.exp(-place / 2)
    return {
        "alpha": 1 - 0.1 * place,
        "target_loss": 0.86 + 0.01 * np.sin(place),
        "forget_loss": float(forget),
        "retain_loss": 0.021 + 0.06 * np.exp(-((place - 2) ** 2) / 4),
        "ascent_weight": float(2 * (1 - 0.1 * place) * max(0.86 - forget, 0)),
        "seconds": 4.1 + 0.1 * place,
    }


def _fingerprint(text):
    return hashlib.sha256(text.encode()).hexdigest()
