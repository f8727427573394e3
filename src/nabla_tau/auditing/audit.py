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
from nabla_tau.auditing.arguments import argument_problems, named_models, naming, recorded_loss
from nabla_tau.auditing.attacks import boosted_attack
from nabla_tau.auditing.inputs import input_features
from nabla_tau.auditing.matching import comparable, one_of_each, what_was_compared
from nabla_tau.auditing.measures import FEWEST_SAMPLES, PRIMARY, SETS, measure_model
from nabla_tau.auditing.power import smallest_detectable
from nabla_tau.auditing.ranks import auc, auc_difference
from nabla_tau.auditing.record import describe_set
from nabla_tau.auditing.reference import compare
from nabla_tau.auditing.report import Report
from nabla_tau.auditing.samples import FEWEST
from nabla_tau.auditing.scoring import Numbers, Scores, rows_change, score, scores_change
from nabla_tau.auditing.verdict import CONTROL_LEVEL, LEVEL, decide
from nabla_tau.batches import Batch
from nabla_tau.doubts import probability_doubts
from nabla_tau.engine import Engine, start_engine
from nabla_tau.errors import InvalidRequest, Problems, some
from nabla_tau.losses import PerSampleLoss, name_of, task_of
from nabla_tau.memory import PUBLISHED_BATCH_SIZE
from nabla_tau.modes import WithoutDropout, buffers_kept, reads_the_batch, unlearning_modes
from nabla_tau.own_losses import columns_read
from nabla_tau.randomness import seeded
from nabla_tau.sets import Source, base_rows, chosen_rows, generators_of
from nabla_tau.storage import Unlearned, fingerprint
from nabla_tau.tasks import TaskInDoubt, infer_loss

FEWEST_IDS = 20
"""Ids below which a forget set with several rows of each is somebody's rather than a sample."""


def audit(
    unlearned: Unlearned | nn.Module,
    *,
    forget: Any,
    retain: Any,
    test: Any,
    original: Unlearned | nn.Module | None = None,
    retrained: Sequence[Unlearned | nn.Module] | nn.Module = (),
    validation: Any = None,
    matched: bool = False,
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
        unlearned: what `unlearn` gave back, or any module (then passes and settings are absent, and that is said). The
            other models may be either as well.
        forget: D_f, the samples that were removed.
        retain: D_r, the samples that were kept.
        test: D_t, samples never trained on and not the validation set that gave τ.
        original: the model before; without it, whether it had memorised the forget set cannot be said.
        retrained: K models trained without D_f; from 3 on they give bands, 5 are advised.
        validation: D_v, the set that gave τ, if it is at hand: test samples must not be among it.
        matched: the test samples are unseen ones of the very ids in the forget set (of one person, say). Without such
            samples, a forget set of few ids with several rows each is compared with retrained models alone.
        loss: per-sample loss; None takes the one of `unlearned` or chooses it as `unlearn` does.
        seed: of resampling and permutations.
        batch_size: samples per forward pass; None is 256.
        device: None is Accelerate's choice.
        salt: secret bytes, 16 at least, to be kept apart from the report; under them the contents of the sets get
            fingerprints, from which rows cannot be guessed, and so do the ids that `split` chose rows by. None: none.
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
        >>> _ = torch.manual_seed(0)
        >>> report = audit(network(), forget=parts[0], retain=parts[1], test=test, device="cpu")
        >>> report.verdict["kind"]  # a network that was trained on nothing
        'none_detectable'
    """
    given, wrong = named_models(unlearned, original, retrained)
    wrong += argument_problems(seed, batch_size, device, loss, salt, request)
    sets = {"forget": forget, "retain": retain, "test": test}
    if validation is not None:
        sets["validation"] = validation
    size = PUBLISHED_BATCH_SIZE if wrong or batch_size is None else batch_size
    sources, problems = checks.open_sets(sets, size, sharing_ids=("test",) if matched else ())
    problems[:0] = wrong
    problems += [
        f"{name}: expected rows in a known order, got a DataLoader with a sampler of its own: give its dataset."
        for name, source in sources.items()
        if name in SETS and source.loader is not None and source.measured is None
    ]
    problems.refuse()
    engine = start_engine(device)
    generators = [generator for data in sets.values() for generator in generators_of(data)]
    with seeded(int(seed), generators, on_gpu=engine.device.type == "cuda"):
        return _Audit(
            unlearned, given, sets, sources, loss, int(seed), engine, salt, dict(request or {}), matched
        ).run()


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
    matched: bool
    read: frozenset[str] = frozenset()

    def run(self) -> Report:
        started = time.perf_counter()
        loss, findings = self.check_data()
        dropped = _left_out(findings)
        _require_enough({name: self.sources[name].size - len(dropped.get(name, ())) for name in SETS}, dropped)
        scores = self.score_all(loss)
        described = dict(scores["unlearned"])
        for one in scores.values():
            for key, places in dropped.items():
                one[key] = one[key].take(np.flatnonzero(~np.isin(one[key].positions, places)))
        compared = self.one_row_each(scores)
        compared += what_was_compared(scores["unlearned"]["forget"], scores["unlearned"]["test"])
        kept, matched = comparable(scores["unlearned"]["forget"], scores["unlearned"]["test"])
        for one in scores.values():
            one["forget"] = one["forget"].take(kept)
        sizes = len(kept), len(matched)
        _require_enough({"forget": sizes[0], "retain": len(scores["unlearned"]["retain"]), "test": sizes[1]}, dropped)
        task = task_of(loss)
        measured = [measure_model(name, one, matched, task, seed=self.seed) for name, one in scores.items()]
        controls = self.controls(scores, matched)
        by_name = {row["name"]: row for row in measured}
        ours = by_name["unlearned"]
        fingerprints = {name: fingerprint(model) for name, model in self.models.items()}
        for row in measured:
            row["fingerprint"] = fingerprints[row["name"]]
        data = {
            "format": 1,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "verdict": decide(ours, controls, sizes, by_name.get("original")),
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
                    described.get(name),
                    self.salt,
                    forgotten=name == "forget",
                )
                for name, source in self.sources.items()
            },
            "warnings": findings.warnings
            + compared
            + self.doubts(fingerprints, loss, findings.warnings)
            + _told_nothing(measured, scores),
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
            modes.enter_context(self.engine.autocast())
            modes.enter_context(WithoutDropout())
            for one in models.values():
                modes.enter_context(unlearning_modes(one))  # else the statistics of batch norm would move
                modes.enter_context(buffers_kept(one))
            problems, shapes = Problems(), {}
            with naming("unlearned", problems):
                loss = self.choose_loss(model, list(batches.values()))
            problems.refuse()
            for name, one in models.items():
                with naming(name, problems):
                    shapes[name] = checks.output_size(one, loss, batches["forget"])
            problems.refuse()
            outputs = shapes["unlearned"]
            self.read = columns_read(model, loss, batches["forget"])
            findings = checks.survey_sets(self.sets, self.sources, model, loss, outputs, self.read)
            problems += findings.problems or checks.batch_problems(model, loss, batches)
            if not problems:
                findings.warnings.extend(probability_doubts(model, loss, batches["forget"]))
            for name, one in models.items() if not problems else ():
                with naming(name, problems):
                    if scores_change(one, loss, batches["forget"]):
                        problems.append(
                            f"{name} model: expected the same losses each time, got others on the first forget batch: "
                            f"let neither it nor {name_of(loss)} draw at random."
                        )
        problems += [
            f"{name}: expected rows that read the same each time, got others (random augmentation, in dataset or "
            "collate_fn?): give the samples as the model is used on them, like those that they are compared with."
            for name in SETS
            if rows_change(self.sources[name])
        ]
        problems += [
            f"{name}: expected {outputs} outputs as the unlearned model has, got {size}: give models of one kind."
            for name, size in shapes.items()
            if size != outputs
        ]
        problems.refuse()
        return loss, findings

    def choose_loss(self, model: nn.Module, batches: list[Batch]) -> PerSampleLoss:
        """The one given, or that of `unlearn`, or the one that leaves no doubt.

        Raises:
            InvalidRequest: if there is doubt, or `unlearn` had one of the user's own.
        """
        try:
            return self.loss or recorded_loss(self.unlearned) or infer_loss(model, batches)
        except TaskInDoubt as doubt:
            raise InvalidRequest([f"loss: {doubt}"]) from None

    def placed(self, name: str) -> nn.Module:
        """A model on the engine's device; a copy, if it is elsewhere."""
        model = self.models[name]
        parameter = next(model.parameters(), None)
        if parameter is None or parameter.device == self.engine.device:
            return model
        return copy.deepcopy(model).to(self.engine.device)

    def score_all(self, loss: PerSampleLoss) -> dict[str, dict[str, Scores]]:
        """One forward pass per model and set, and of the scores those that every model has."""
        scores: dict[str, dict[str, Scores]] = {}
        problems = Problems()
        for name in self.models:
            model = self.placed(name)
            for key in SETS:
                with problems.gathered(f"{name} on {key}", "a loss for every batch", "mend model, set or loss."):
                    scores.setdefault(name, {})[key] = score(model, loss, self.sources[key], self.engine)
                if self.engine.share[1] > 1:
                    problems.refuse()  # the others are a set ahead
        problems.refuse()
        banks = [one.bank for by_set in scores.values() for one in by_set.values()]
        shared = [name for name in banks[0] if all(name in bank for bank in banks)]
        return {name: {key: one.of(shared) for key, one in by_set.items()} for name, by_set in scores.items()}

    def controls(self, scores: dict[str, dict[str, Scores]], matched: Numbers) -> dict[str, Any]:
        """Test against test, original against test, and the inputs alone."""
        test = scores["unlearned"]["test"].take(matched)
        order = np.random.default_rng(self.seed).permutation(len(test))
        halves = [test.bank[PRIMARY][part] for part in np.array_split(order, 2)]
        p = auc(*halves).p if min(map(len, halves)) >= FEWEST else 1.0
        found: dict[str, Any] = {
            "test_vs_test": {"p": p, "alarm": p < CONTROL_LEVEL},
            "original": None,
            "blind": None,
            "group": self.few_ids(),
        }
        if "original" in scores:
            one = scores["original"]
            area = auc(one["forget"].bank[PRIMARY], one["test"].take(matched).bank[PRIMARY])
            found["original"] = {
                "auc": {"value": area.value, "low": area.low, "high": area.high},
                "p": area.p,
                "alarm": area.p < LEVEL and area.value > 0.5,
            }
        sides = input_features(self.models["unlearned"], self.sources["forget"], self.sources["test"], read=self.read)
        if sides is not None:
            kept = scores["unlearned"]["forget"].positions, test.positions
            blind = boosted_attack(sides[0][kept[0]], sides[1][kept[1]], seed=self.seed)
            found["blind"] = {
                "auc": {"value": blind.auc, "low": blind.low, "high": blind.high},
                "p": blind.p,
                "alarm": blind.p < CONTROL_LEVEL,
            }
        return found

    def one_row_each(self, scores: dict[str, dict[str, Scores]]) -> list[str]:
        """Leave one row of each id in forget and test set, and say so; matched sets are of the same ids both."""
        rows = chosen_rows(self.sets["forget"])
        if self.matched or rows is None or rows.id_column is None:
            return []
        told = []
        for key in ("forget", "test"):
            ids = checks.ids_of(self.sets[key], base_rows(self.sets[key]), rows.id_column)
            if ids is None:
                continue
            mine = [ids[place] for place in scores["unlearned"][key].positions]
            kept = one_of_each(mine, self.seed)
            if len(kept) == len(mine) or len(kept) < FEWEST_IDS:
                continue
            for one in scores.values():
                one[key] = one[key].take(kept)
            told.append(
                f"{key}: its {len(mine):,} rows belong to {len(kept):,} ids; one row of each, drawn at random, is "
                "compared, as rows of one id are not independent."
            )
        return told

    def few_ids(self) -> dict[str, Any] | None:
        """A forget set that is the data of a few, with no unseen data of theirs: others are no match for it."""
        rows = chosen_rows(self.sets["forget"])
        if self.matched or rows is None or rows.ids is None:
            return None
        ids = len({str(one) for one in rows.ids})
        return {"ids": ids, "alarm": True} if ids < min(FEWEST_IDS, len(rows.ids)) else None

    def doubts(self, fingerprints: dict[str, str], loss: PerSampleLoss, told: list[str]) -> list[str]:
        """Warnings: what `unlearn` warned about, another original or request, and scores that hang on the batch."""
        result = self.unlearned if isinstance(self.unlearned, Unlearned) else None
        settings = {} if result is None else result.settings
        warnings = [] if result is None else [f"unlearning: {text}" for text in result.warnings if text not in told]
        expected = settings.get("original_fingerprint")
        if expected is not None and fingerprints.get("original", expected) != expected:
            warnings.append(
                "original: its weights are not those that unlearn() was given; what is said about it may be wrong."
            )
        warnings += [
            f"{name.replace('_', ' ')}: it has the weights of the {other}, so it is no reference: give a model that "
            "was trained without the forget set."
            for name, digest in fingerprints.items()
            for other in ("original", "unlearned")
            if name not in ("original", "unlearned") and digest == fingerprints.get(other)
        ]
        if (of_run := settings.get("loss")) is not None and name_of(loss) != of_run:
            warnings.append(
                f"loss: {name_of(loss)}, and unlearn() was given {of_run}: what the samples cost then is not what is "
                "compared here."
            )
        given = settings.get("samples", {})
        warnings += [
            f"{name}: {self.sources[name].size:,} rows, unlearn() was given {given[name]:,}; is this the request that "
            "was unlearned?"
            for name in ("forget", "retain")
            if given.get(name, self.sources[name].size) != self.sources[name].size
        ]
        warnings += [
            f"{name}: batch norm without running statistics ({some(norms)}): the scores of a sample depend on the "
            "others of its batch."
            for name, model in self.models.items()
            if (norms := reads_the_batch(model))
        ]
        retrained = [digest for name, digest in fingerprints.items() if name not in ("original", "unlearned")]
        if len(set(retrained)) < len(retrained):  # their bands would have no width
            warnings.append("retrained: some have the same weights; give models trained with different seeds.")
        return warnings

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


def _told_nothing(measured: list[dict[str, Any]], scores: dict[str, dict[str, Scores]]) -> list[str]:
    """Models of which no attack says what it should, whatever it finds."""
    told = []
    unseen = scores["unlearned"]["test"]
    answers = unseen.predictions if unseen.predictions.size else unseen.losses
    if np.ptp(answers, axis=0).max() == 0:
        told.append(
            "unlearned: it answers every unseen sample alike, as a model that tells nothing any more: that no attack "
            "succeeds means nothing then."
        )
    for row in measured:
        name, primary = row["name"], next(attack for attack in row["attacks"] if attack["primary"])
        if name not in ("original", "unlearned") and primary["p"] < CONTROL_LEVEL and primary["auc"]["value"] > 0.5:
            told.append(
                f"{name}: the primary attack tells the forget set on it (AUC {primary['auc']['value']:.3f}); was it "
                "trained without that?"
            )
    return told


def _left_out(findings: checks.Findings) -> dict[str, list[int]]:
    """Positions in forget and test set of rows that say nothing more: repeats, and test rows that stand elsewhere."""
    left = {name: set(findings.repeats.get(name, ())) for name in ("forget", "test")}
    for names, sides in findings.equal.items():
        if "test" in names:
            left["test"].update(sides[names.index("test")])
    return {name: sorted(places) for name, places in left.items()}


def _require_enough(counts: dict[str, int], dropped: dict[str, list[int]]) -> None:
    def without(name: str) -> str:
        count = len(dropped.get(name, ()))
        return f", after {count:,} that are repeats or stand in another set too were left out" if count else ""

    if few := {name: count for name, count in counts.items() if count < FEWEST_SAMPLES}:
        raise InvalidRequest(
            [
                f"{name}: expected at least {FEWEST_SAMPLES} comparable samples, got {count}{without(name)}: no "
                "statement about so few would hold."
                for name, count in few.items()
            ]
        )


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
        "retain_exposure": _exposure_change(scores),
    }


def _exposure_change(scores: dict[str, dict[str, Scores]]) -> dict[str, Any] | None:
    after, before = (scores[name] for name in ("unlearned", "original"))
    retained, others = comparable(after["retain"], after["test"])
    if min(len(retained), len(others)) < FEWEST:
        return None
    change = auc_difference(
        after["retain"].bank[PRIMARY][retained],
        after["test"].bank[PRIMARY][others],
        other_members=before["retain"].bank[PRIMARY][retained],
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
    if scores == ["loss"] and data["settings"]["audit_loss"] == "regression":
        absent["scores"] = "outputs (N, D) of a last linear layer would bring the norm of its gradient as another score"
    elif scores == ["loss"]:
        absent["scores"] = "the loss is not one that the library knows: it is the only score"
    elif "gradient_norm" not in scores:
        absent["gradient norm"] = "only of a model whose outputs, one row a sample, are those of its last linear layer"
    ours = next(model for model in data["models"] if model["name"] == "unlearned")
    if ours["residual"]["fraction"] is None:
        absent["residual fraction"] = "retained and unseen samples cost too much alike for a share between them"
    if any(entry["fingerprint"] is None for entry in data["sets"].values()):
        absent["fingerprints of the sets"] = "no salt was given, and rows could be guessed from a hash without one"
    if data["controls"]["blind"] is None:
        absent["blind"] = "the inputs have no fixed shape that a classifier could read"
    return absent
