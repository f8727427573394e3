"""Cells as files hold them, made up."""

import json

from nabla_tau.bench.cells import RETRAINED, Cell


def record(method, seed, shift=0.0, **cell):
    """A cell whose shares are off by `shift`."""
    share = {"accuracy": {"value": 0.6 + shift}, "loss": {"value": 1 + shift}}
    attack = {"accuracy": 0.6 + shift, "samples": 600}
    return {
        "cell": {"scale": "quick", "task": "cifar10", "seed": seed, "forget": "random-0.15", "method": method, **cell},
        "status": "done",
        "key": "k",
        "code": "0a",
        "commit": "c" * 40,
        "dirty": False,
        "device": "CPU",
        "seconds": 2.0,
        "retraining_seconds": 10.0,
        "audit": {
            "utility": {part: share for part in ("test", "retain", "forget")},
            "verdict": {"kind": "residual", "forget_samples": 600, "test_samples": 600},
            "ks": {"value": 0.1 + shift},
            "over_forgetting": {"share": {"value": 0.01}},
            "paper_attacks": {"losses": attack, "entropies": attack},
            "attacks": [{"primary": False}, {"primary": True, "auc": {"value": 0.6 + shift}}],
        },
        "js_to_retrained": {name: abs(shift) for name in RETRAINED if name != method},
    }


def write(folder, *records):
    """Each in its place."""
    for one in records:
        path = folder / Cell(**one["cell"]).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    return folder
