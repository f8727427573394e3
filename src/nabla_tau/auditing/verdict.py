"""From measures to one plain sentence. It says what was not detectable, and never that anything is gone."""

from typing import Any

LEVEL = 0.05
CONTROL_LEVEL = 0.001

FEWEST_UNSEEN = 99  # for a threshold beyond which at most 1 % of unseen samples are expected

RULE = (
    f"Controls first. Then the primary attack, two-sided at level {LEVEL}; then all others and the tail of the losses, "
    f"corrected together by Holm at level {LEVEL}. Only if none alarms, the margin that two one-sided tests at level "
    f"{LEVEL} allow. Otherwise: unlearn again, retrain without the forget set, or withdraw the model."
)
"""Declared before any number is seen; the same for every audit."""

SHOWN = {
    "tail": "the tail of the losses",
    "boosted": "boosted trees",
    "ks": "Kolmogorov–Smirnov",
    "energy": "energy distance",
    "correct": "correctness",
}
"""Names of attacks where a reader needs others than the code's."""

ADVICE = {
    "not_answerable": "Give unseen samples of the same kind as the forget set, or retrained models to compare with.",
    "unreliable": "Put the test samples in random order, see that they are of one kind, and audit again.",
    "residual": "Unlearn from the original again, in the batch that it was trained in and with no copy of a forgotten "
    "row among those to keep; if that does not help, retrain without the forget set.",
    "over_forgotten": "Unlearn from the original again, in smaller batches; if that does not help, retrain without the "
    "forget set.",
    "distinguishable": "Retrain without the forget set where this is not acceptable.",
    "nothing_memorised": "Report exactly this; with more samples, audit again.",
    "none_detectable": "Decide whether the margin is narrow enough for the request; keep this report with its record.",
}
"""What to do next, by kind of verdict."""

FEW_IDS = (
    "Give unseen samples of these very ids alone, with matched=True ('matched': True in the dict of a command), or "
    "retrained models to compare with."
)
"""The same, where the forget set is the data of a few."""

KINDS = (
    "not_answerable",
    "unreliable",
    "residual",
    "over_forgotten",
    "distinguishable",
    "nothing_memorised",
    "none_detectable",
)
"""Every kind of verdict, in the order in which they are decided."""


def decide(
    measured: dict[str, Any],
    controls: dict[str, Any],
    samples: tuple[int, int],
    original: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The verdict on the unlearned model.

    The controls come first: a question that these sets cannot answer gets no answer. Then the primary attack at level
    0.05, in both directions; then all others, which Holm's correction holds to 0.05 together: the tail of
    over-forgetting, then the rest. So a model that never saw the forget set alarms with probability 0.1 at most. Only
    if none alarms, and only if the original model had memorised the forget set, is the verdict the margin within which
    the forget set and unseen data are indistinguishable.

    Args:
        measured: the unlearned model's measures.
        controls: `test_vs_test`, `original` and `blind`, each with `alarm`; None where it could not be run. `group`, if
            the forget samples belong to a few ids and no unseen samples of theirs were given.
        samples: forget and test samples.
        original: the original model's measures, which the sentence tells more of than its primary attack.

    Returns:
        kind, one of `KINDS`; the sentence; another on over-forgetting; the primary attack, its margin, and samples.

    Example:
        >>> area = {"value": 0.5, "low": 0.48, "high": 0.52}
        >>> measured = {
        ...     "attacks": [{"score": "loss", "primary": True, "auc": area, "p": 0.9, "p_adjusted": 0.9}],
        ...     "boosted": {"p_adjusted": 1.0}, "ks": {"p_adjusted": 1.0}, "energy": {"p_adjusted": 1.0},
        ...     "over_forgetting": {"alarm": False, "share": {"value": 0.01}, "expected": 0.01, "p": 0.5},
        ...     "margin": 0.017,
        ... }
        >>> controls = {"test_vs_test": {"alarm": False}, "original": {"alarm": True}, "blind": {"alarm": False}}
        >>> decide(measured, controls, (1500, 1500))["kind"]
        'none_detectable'
    """
    primary = next(row for row in measured["attacks"] if row["primary"])
    alarms = _family_alarms(measured)
    kind = _kind(primary, alarms, measured, controls)
    return {
        "kind": kind,
        "sentence": _sentence(kind, primary, alarms, measured, controls, samples)
        + (_found_on(original) if kind == "nothing_memorised" and original is not None else ""),
        "advice": FEW_IDS if kind == "not_answerable" and controls.get("group") is not None else ADVICE[kind],
        "over_forgetting": _over_forgetting(measured["over_forgetting"]),
        "rule": RULE,
        "primary": f"AUC of the {primary['score']}, forget against test, level {LEVEL}",
        "margin": measured["margin"],
        "forget_samples": samples[0],
        "test_samples": samples[1],
    }


def _kind(primary: dict[str, Any], alarms: list[str], measured: dict[str, Any], controls: dict[str, Any]) -> str:
    original, blind = controls["original"], controls["blind"]
    if (blind is not None and blind["alarm"]) or controls.get("group") is not None:
        return "not_answerable"
    if controls["test_vs_test"]["alarm"]:
        return "unreliable"
    if primary["p"] < LEVEL:
        return "residual" if primary["auc"]["value"] > 0.5 else "over_forgotten"
    if measured["over_forgetting"] is not None and measured["over_forgetting"]["alarm"]:
        return "over_forgotten"
    if alarms:
        return "distinguishable"
    return "nothing_memorised" if original is not None and not original["alarm"] else "none_detectable"


def _family_alarms(measured: dict[str, Any]) -> list[str]:
    family = {row["score"]: row["p_adjusted"] for row in measured["attacks"] if not row["primary"]}
    family |= {name: measured[name]["p_adjusted"] for name in ("boosted", "ks", "energy")}
    return [name for name, p in family.items() if p < LEVEL]


def _sentence(
    kind: str,
    primary: dict[str, Any],
    alarms: list[str],
    measured: dict[str, Any],
    controls: dict[str, Any],
    samples: tuple[int, int],
) -> str:
    area = primary["auc"]
    seen = f"AUC {area['value']:.3f}, 95 % interval {area['low']:.3f} to {area['high']:.3f}"
    told_by = f"{seen}, p = {primary['p']:.2g}"
    sizes = f"with {samples[0]:,} forget and {samples[1]:,} unseen samples"
    named = ", ".join(SHOWN.get(name, name.replace("_", " ")) for name in alarms)
    others = f"; of the other attacks {named} alarm{'s' * (len(alarms) == 1)} after correction" if alarms else ""
    sentences = {
        "not_answerable": _unanswered(controls.get("group"), samples),
        "unreliable": "Unreliable: two halves of the test set are told apart by the primary attack, which must not "
        "happen; check that the test samples are in random order and of one kind.",
        "nothing_memorised": "The primary attack finds on the original model, too, no sign that it memorised the "
        f"forget set, so a pass would mean nothing ({sizes}).",
        "residual": "Residual membership is detectable: forgotten samples cost less than unseen ones, as members do "
        f"({told_by}, {sizes}{others}).",
        "over_forgotten": _over_forgotten(primary, measured, f"({told_by}, {sizes}{others})"),
        "distinguishable": "Forget and unseen samples are distinguishable by other scores or by the shape of the "
        f"losses, although not by their rank ({seen}, {sizes}{others}).",
        "none_detectable": f"No residual membership detectable above a margin of {measured['margin']:.3f} AUC {sizes} "
        f"({seen}); smaller effects could not have been seen."
        + (
            ""
            if controls["original"] is not None
            else " No original model was given: whether there was anything to forget is not known."
        ),
    }
    return sentences[kind]


def _found_on(original: dict[str, Any]) -> str:
    """What the others than the primary attack find on the original model."""
    if not (alarms := _family_alarms(original)):
        return ""
    named = ", ".join(SHOWN.get(name, name.replace("_", " ")) for name in alarms)
    return f" By {named} the original does tell the forget set, and this model does not."


def _unanswered(group: dict[str, Any] | None, samples: tuple[int, int]) -> str:
    if group is not None:
        return (
            f"Not answerable this way: the {samples[0]:,} forget samples belong to "
            f"{group['ids']} {'id' if group['ids'] == 1 else 'ids'} alone, and unseen samples of others differ from "
            "them, memory or not."
        )
    return (
        "Not answerable this way: forget and test set can be told apart by their inputs alone, without any model, so "
        "an attack that succeeds shows nothing about memory."
    )


def _over_forgotten(primary: dict[str, Any], measured: dict[str, Any], found: str) -> str:
    over = measured["over_forgetting"]
    if primary["p"] < LEVEL or over is None:
        return f"Over-forgotten: forgotten samples cost more than unseen ones, which gives them away as well {found}."
    share = over["share"]["value"]
    return (
        f"Over-forgotten in part: {100 * share:.1f} % of the forgotten samples cost more than 99 % of the unseen ones, "
        f"which gives them away, although by rank all of them together do not stand out {found}."
    )


def _over_forgetting(over: dict[str, Any] | None) -> str:
    if over is None:
        return f"Over-forgetting in the tail was not tested: that takes {FEWEST_UNSEEN} unseen samples."
    share, expected = over["share"]["value"], over["expected"]
    found = (
        f"{100 * share:.1f} % of the forget samples cost more than 99 % of the unseen ones "
        f"({100 * expected:.1f} % expected)"
    )
    return f"Over-forgetting detected: {found}." if over["alarm"] else f"No over-forgetting detected: {found}."
