"""`audit()`: whether the forget set can still be told from data the model never saw, and what that could not show."""

import copy
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from nabla_tau import checks
from nabla_tau.auditing.attacks import boosted_attack
from nabla_tau.auditing.inputs import input_features
from nabla_tau.auditing.measures import FEWEST_SAMPLES, PRIMARY, SETS, beside_retained, measure_model
from nabla_tau.auditing.power import smallest_detectable
from nabla_tau.auditing.ranks import auc, auc_difference
from nabla_tau.auditing.record import describe_set
from nabla_tau.auditing.reference import compare
from nabla_tau.auditing.report import Report
from nabla_tau.auditing.samples import FEWEST
from nabla_tau.auditing.scoring import Numbers, Scores, rows_change, score
from nabla_tau.auditing.verdict import CONTROL_LEVEL, LEVEL, decide
from nabla_tau.checks import InvalidRequest
from nabla_tau.engine import Engine, start_engine
from nabla_tau.losses import PerSampleLoss, name_of
from nabla_tau.memory import PUBLISHED_BATCH_SIZE
from nabla_tau.modes import unlearning_modes
from nabla_tau.randomness import seeded
from nabla_tau.sets import Source, generators_of
from nabla_tau.storage import Unlearned, fingerprint
from nabla_tau.tasks import TaskInDoubt, infer_loss


def audit(
    unlearned: Unlearned | nn.Module,
    *,
    forget: Any,
    retain: Any,
    test: Any,
    original: nn.Module | None = None,
    retrained: Sequence[nn.Module] = (),
    validation: Any = None,
    loss: PerSampleLoss | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    salt: bytes | None = None,
    request: Mapping[str, str] | None = None,
) -> Report:
    """Test whether the forget set can still be told from data that the model never saw.

    Population attacks on per-sample scores, forward passes only. Every model goes through the same code on the same
    samples, so that each number stands beside what doing nothing and what retraining score.

    Args:
        unlearned: what `unlearn` gave back, or any module (then passes and settings are absent, and that is said).
        forget: D_f, the samples that were removed.
        retain: D_r, the samples that were kept.
        test: D_t, samples never trained on and not the validation set that gave τ.
        original: the model before; without it, whether it had memorised the forget set cannot be said.
        retrained: K models trained without D_f; from 3 on they give bands, 5 are advised.
        validation: D_v, the set that gave τ, if it is at hand: test samples must not be among it.
        loss: per-sample loss; None takes the one of `unlearned` or chooses it as `unlearn` does.
        seed: of resampling and permutations.
        batch_size: samples per forward pass; None is 256.
        device: None is Accelerate's choice.
        salt: secret bytes, to be kept apart from the report; under them the contents of the sets get fingerprints, from
            which rows cannot be guessed, and so do the ids that `split` chose rows by. None: neither.
        request: fields of the request as they shall stand in the report (its number, dates, legal basis, ...).

    Returns:
        A `Report`: print it, or save it as `report.json` and `report.html`.

    Raises:
        InvalidRequest: if the audit cannot be made, with every problem found.

    Reference:
        The attacks of Trippa et al., arXiv:2403.14339, and of the wider literature; see `docs/audit.md`.

    Example:
        >>> from nabla_tau.demo import noisy_digits, network
        >>> train, _, test = noisy_digits(0)
        >>> parts = [tuple(column[rows] for column in train) for rows in (slice(0, 180), slice(180, 400))]
        >>> report = audit(network(), forget=parts[0], retain=parts[1], test=test, device="cpu")
        >>> report.verdict["kind"]  # a network that was trained on nothing
        'none_detectable'
    """
    models = {"original": original, "unlearned": unlearned.model if isinstance(unlearned, Unlearned) else unlearned}
    models |= {f"retrained {number}": model for number, model in enumerate(retrained, 1)}
    given = {name: model for name, model in models.items() if model is not None}
    sets = {"forget": forget, "retain": retain, "test": test}
    if validation is not None:
        sets["validation"] = validation
    sources, problems = checks.open_sets(sets, batch_size or PUBLISHED_BATCH_SIZE)
    problems += [
        f"{name}: expected rows in a known order, got a DataLoader with a sampler of its own: give its dataset."
        for name, source in sources.items()
        if name in SETS and source.loader is not None and source.measured is None
    ]
    problems += [f"{name} {problem}" for name, model in given.items() for problem in _model_problems(model)]
    if problems:
        raise InvalidRequest(problems)
    engine = start_engine(device)
    generators = [generator for data in sets.values() for generator in generators_of(data)]
    with seeded(seed, generators, on_gpu=engine.device.type == "cuda"):
        return _Audit(unlearned, given, sets, sources, loss, seed, engine, salt, dict(request or {})).run()


@dataclass
class _Audit:
    unlearned: Unlearned | nn.Module
    models: dict[str, nn.Module]
    sets: checks.Sets
    sources: dict[str, Source]
    loss: PerSampleLoss | None
    seed: int
    engine: Engine
    salt: bytes | None
    request: dict[str, str]

    def run(self) -> Report:
        started = time.perf_counter()
        loss, findings = self.check_data()
        scores = self.score_all(loss)
        dropped = sorted({pair[names.index("test")] for names, pairs in findings.equal.items() if "test" in names
                          for pair in pairs})  # fmt: skip
        for one in scores.values():
            one["test"] = one["test"].take(np.flatnonzero(~np.isin(one["test"].positions, dropped)))
        matched = _matched(scores["unlearned"])
        sizes = len(scores["unlearned"]["forget"]), len(matched)
        counts = {"forget": sizes[0], "retain": len(scores["unlearned"]["retain"]), "test": sizes[1]}
        if few := {name: count for name, count in counts.items() if count < FEWEST_SAMPLES}:
            raise InvalidRequest(
                [
                    f"{name}: expected at least {FEWEST_SAMPLES} comparable samples, got {count}: no statement about "
                    "so few would hold."
                    for name, count in few.items()
                ]
            )
        task = name_of(loss)
        measured = [measure_model(name, one, matched, task, seed=self.seed) for name, one in scores.items()]
        controls = self.controls(scores, matched)
        ours = next(row for row in measured if row["name"] == "unlearned")
        fingerprints = {name: fingerprint(model) for name, model in self.models.items()}
        for row in measured:
            row["fingerprint"] = fingerprints[row["name"]]
        data = {
            "format": 1,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "verdict": decide(ours, controls, sizes),
            "models": measured,
            "pair": _pair(scores, matched),
            "controls": controls,
            "power": _power(scores, matched),
            "reference": compare(measured, scores, task),
            "request": self.request or None,
            "sets": {
                name: describe_set(
                    self.sets[name],
                    source.size,
                    findings.contents[name],
                    scores["unlearned"].get(name),
                    self.salt,
                )
                for name, source in self.sources.items()
            },
            "warnings": findings.warnings + self.another_original(fingerprints),
            "command": None,
            **self.procedure(loss, time.perf_counter() - started),
        }
        return Report({**data, "absent": _absent(data)})

    def check_data(self) -> tuple[PerSampleLoss, checks.Findings]:
        """The loss, and what reading every row found."""
        models = {name: self.placed(name) for name in self.models}
        model = models["unlearned"]
        batches = checks.first_batches(self.sources, self.engine.device)
        with ExitStack() as modes:
            for one in models.values():
                modes.enter_context(unlearning_modes(one))  # else the statistics of batch norm would move
            try:
                loss = self.loss or infer_loss(model, list(batches.values()))
            except TaskInDoubt as doubt:
                raise InvalidRequest([f"loss: {doubt}"]) from None
            outputs = checks.output_size(model, loss, batches["forget"])
            shapes = {name: checks.output_size(one, loss, batches["forget"]) for name, one in models.items()}
            findings = checks.survey_sets(self.sets, self.sources, model, loss, outputs)
            problems = findings.problems or checks.batch_problems(model, loss, batches)
        problems = problems + [
            f"{name}: expected rows that read the same each time, got others (random augmentation?): give the samples "
            "as the model is used on them, like those that they are compared with."
            for name in SETS
            if rows_change(self.sources[name])
        ]
        problems = problems + [
            f"{name}: expected {outputs} outputs as the unlearned model has, got {size}: give models of one kind."
            for name, size in shapes.items()
            if size != outputs
        ]
        if problems:
            raise InvalidRequest(problems)
        return loss, findings

    def placed(self, name: str) -> nn.Module:
        """A model on the engine's device; a copy, if it is elsewhere."""
        model = self.models[name]
        parameter = next(model.parameters(), None)
        if parameter is None or parameter.device == self.engine.device:
            return model
        return copy.deepcopy(model).to(self.engine.device)

    def score_all(self, loss: PerSampleLoss) -> dict[str, dict[str, Scores]]:
        """One forward pass per model and set."""
        scores: dict[str, dict[str, Scores]] = {}
        problems = []
        for name in self.models:
            model = self.placed(name)
            for key in SETS:
                try:
                    scores.setdefault(name, {})[key] = score(model, loss, self.sources[key], self.engine)
                except ValueError as error:
                    problems.append(f"{name} on {key}: {error}")
        if problems:
            raise InvalidRequest(problems)
        return scores

    def controls(self, scores: dict[str, dict[str, Scores]], matched: Numbers) -> dict[str, Any]:
        """Test against test, original against test, and the inputs alone."""
        test = scores["unlearned"]["test"].take(matched)
        order = np.random.default_rng(self.seed).permutation(len(test))
        halves = [test.bank[PRIMARY][part] for part in np.array_split(order, 2)]
        p = auc(*halves).p if min(map(len, halves)) >= FEWEST else 1.0
        found: dict[str, Any] = {"test_vs_test": {"p": p, "alarm": p < CONTROL_LEVEL}, "original": None, "blind": None}
        if "original" in scores:
            one = scores["original"]
            area = auc(one["forget"].bank[PRIMARY], one["test"].take(matched).bank[PRIMARY])
            found["original"] = {
                "auc": {"value": area.value, "low": area.low, "high": area.high},
                "p": area.p,
                "alarm": area.p < LEVEL and area.value > 0.5,
            }
        sides = [input_features(self.models["unlearned"], self.sources[key]) for key in ("forget", "test")]
        if sides[0] is not None and sides[1] is not None:
            kept = scores["unlearned"]["forget"].positions, test.positions
            blind = boosted_attack(sides[0][kept[0]], sides[1][kept[1]], seed=self.seed)
            found["blind"] = {
                "auc": {"value": blind.auc, "low": blind.low, "high": blind.high},
                "p": blind.p,
                "alarm": blind.p < CONTROL_LEVEL,
            }
        return found

    def another_original(self, fingerprints: dict[str, str]) -> list[str]:
        """A warning, if the original is not the model that was unlearned."""
        settings = self.unlearned.settings if isinstance(self.unlearned, Unlearned) else {}
        expected = settings.get("original_fingerprint")
        if expected is None or fingerprints.get("original", expected) == expected:
            return []
        return ["original: its weights are not those that unlearn() was given; what is said about it may be wrong."]

    def procedure(self, loss: PerSampleLoss, seconds: float) -> dict[str, Any]:
        """How the model was made and audited, as far as it is known."""
        result = self.unlearned if isinstance(self.unlearned, Unlearned) else None
        unlearning = {} if result is None else {**result.settings, "unlearning_seconds": round(result.seconds, 2)}
        audited = {
            "audit_loss": name_of(loss),
            "audit_seed": self.seed,
            "audit_device": str(self.engine.device),
            "audit_seconds": round(seconds, 2),
            "audit_machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
        }
        return {
            "epochs": None if result is None else [asdict(epoch) for epoch in result.epochs],
            "settings": {**unlearning, **audited},
            "reached_target": None if result is None else result.reached_target,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("nabla-tau", "torch", "numpy", "scikit-learn", "scipy")},
            },
        }


def _model_problems(model: Any) -> list[str]:
    """A model to be audited need not be trainable."""
    return [problem for problem in checks.model_problems(model) if "trainable parameters" not in problem]


def _matched(scores: dict[str, Scores]) -> Numbers:
    """Test samples comparable to the forget set: where whole classes were removed, those of these classes alone."""
    forget, retain, test = (scores[key].targets for key in ("forget", "retain", "test"))
    if forget.ndim == 1 and not np.isin(np.unique(forget), retain).any():
        return np.flatnonzero(np.isin(test, forget))
    return np.arange(len(scores["test"]))


def _pair(scores: dict[str, dict[str, Scores]], matched: Numbers) -> dict[str, Any] | None:
    """The attack of someone who holds both models: how much the loss of a sample rose from one to the other.

    And the change in how well retained samples can be told from unseen ones, AUC after less AUC before.
    """
    if "original" not in scores:
        return None
    rises = [scores["unlearned"][key].losses - scores["original"][key].losses for key in ("forget", "test")]
    area = auc(rises[0], rises[1][matched])
    return {
        "auc": {"value": area.value, "low": area.low, "high": area.high},
        "p": area.p,
        "retain_exposure": _exposure_change(scores, matched),
    }


def _exposure_change(scores: dict[str, dict[str, Scores]], matched: Numbers) -> dict[str, Any] | None:
    after, before = (scores[name] for name in ("unlearned", "original"))
    others = beside_retained(len(after["test"]), matched)
    if len(others) < FEWEST:
        return None
    change = auc_difference(
        after["retain"].bank[PRIMARY],
        after["test"].bank[PRIMARY][others],
        other_members=before["retain"].bank[PRIMARY],
        other_non_members=before["test"].bank[PRIMARY][others],
    )
    return {"value": change.value, "low": change.low, "high": change.high, "p": change.p}


def _power(scores: dict[str, dict[str, Scores]], matched: Numbers) -> dict[str, Any] | None:
    """The smallest fraction still memorised that this many samples would have revealed."""
    if "original" not in scores:
        return None
    one = scores["original"]
    found = smallest_detectable(one["forget"].bank[PRIMARY], one["test"].take(matched).bank[PRIMARY], level=LEVEL)
    return {"smallest_fraction": found.fraction, "power": found.power, "level": found.level}


def _absent(data: dict[str, Any]) -> dict[str, str]:
    """Why an entry is missing."""
    reasons = {
        "validation": "not given: whether test samples are among it was not checked",
        "pair": "no original model was given",
        "power": "no original model was given, so it is not known what full memory would look like",
        "reference": "fewer than 3 retrained models were given",
        "epochs": "a bare model was given, not the result of unlearn()",
        "request": "no fields of the request were given",
        "command": "audit() was called from Python",
    }
    given = {**data, "validation": data["sets"].get("validation")}
    absent = {key: reason for key, reason in reasons.items() if given[key] is None}
    if data["controls"]["original"] is None:
        absent["original"] = "no original model was given: whether it had memorised the forget set cannot be said"
    scores = [attack["score"] for attack in data["models"][0]["attacks"]]
    if scores == ["loss"]:
        absent["scores"] = "the loss is not one that the library knows: it is the only score"
    elif "gradient_norm" not in scores:
        absent["gradient norm"] = "no last linear layer was found whose outputs are the model's"
    ours = next(model for model in data["models"] if model["name"] == "unlearned")
    if ours["residual"]["fraction"] is None:
        absent["residual fraction"] = "retained and unseen samples cost too much alike for a share between them"
    if any(entry["fingerprint"] is None for entry in data["sets"].values()):
        absent["fingerprints of the sets"] = "no salt was given, and rows could be guessed from a hash without one"
    if data["controls"]["blind"] is None:
        absent["blind"] = "the inputs have no fixed shape that a classifier could read"
    return absent
