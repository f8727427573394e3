"""The verdict in its order: what cannot be answered, then alarms, and a pass only where there was something to find."""

import pytest

from nabla_tau.auditing.verdict import KINDS, decide


def measured(*, area=0.5, p=0.9, family=(), tail=False):
    interval = {"value": area, "low": area - 0.1, "high": area + 0.1}
    attacks = [{"score": "loss", "primary": True, "p": p, "auc": interval}]
    attacks += [{"score": "entropy", "primary": False, "p_adjusted": 0.001 if "entropy" in family else 1.0}]
    others = {name: {"p_adjusted": 0.001 if name in family else 1.0} for name in ("boosted", "ks", "energy")}
    over = {"alarm": tail, "share": {"value": 0.08}, "expected": 0.01, "p": 0.5}
    return {"attacks": attacks, **others, "over_forgetting": over, "margin": 0.0173}


def controls(*, blind=False, halves=False, original=True):
    alarms = {"blind": blind, "test_vs_test": halves, "original": original}
    return {name: {"alarm": alarm} for name, alarm in alarms.items()}


def kind(measures, checks=None):
    return decide(measures, checks or controls(), (1500, 1600))["kind"]


RESIDUAL = {"area": 0.6, "p": 0.01}


OVER = (measured(area=0.4, p=0.01), measured(tail=True))

CASES = [
    (RESIDUAL, {"blind": True, "halves": True}, "not_answerable"),
    (RESIDUAL, {"halves": True}, "unreliable"),
    (RESIDUAL, {}, "residual"),
    ({"area": 0.4, "p": 0.01, "family": ["ks"]}, {}, "over_forgotten"),
    ({"tail": True, "family": ["ks"]}, {}, "over_forgotten"),
    ({"family": ["entropy"]}, {}, "distinguishable"),
    ({"family": ["boosted"]}, {}, "distinguishable"),
    ({}, {"original": False}, "nothing_memorised"),
    ({}, {}, "none_detectable"),
]


@pytest.mark.parametrize(("measures", "checks", "expected"), CASES)
def test_in_this_order(measures, checks, expected):
    assert kind(measured(**measures), controls(**checks)) == expected


def test_every_kind_is_reached_in_the_order_stated():
    assert tuple(dict.fromkeys(expected for _, _, expected in CASES)) == KINDS


def test_an_original_that_memorised_nothing_takes_a_pass_away_but_hides_no_alarm():
    assert kind(measured(), controls(original=False)) == "nothing_memorised"
    assert kind(measured(**RESIDUAL), controls(original=False)) == "residual"
    assert kind(measured(tail=True), controls(original=False)) == "over_forgotten"


def test_what_the_tail_alone_shows_is_not_said_of_all():
    by_rank, by_tail = (decide(one, controls(), (1500, 1600))["sentence"] for one in OVER)
    assert "forgotten samples cost more than unseen ones" in by_rank
    assert "p = 0.01" in by_rank
    assert "in part" in by_tail
    assert "by rank all of them together do not stand out" in by_tail


def test_controls_that_could_not_be_run_do_not_alarm():
    without = {"blind": None, "test_vs_test": {"alarm": False}, "original": None}
    assert kind(measured(), without) == "none_detectable"


def test_the_sentence_says_margin_and_samples_and_never_too_much():
    found = decide(measured(), controls(), (1500, 1600))
    assert "margin of 0.017 AUC with 1,500 forget and 1,600 unseen samples" in found["sentence"]
    for measures in ({}, RESIDUAL, {"tail": True}, {"family": ["ks"]}):
        sentence = decide(measured(**measures), controls(), (1500, 1600))["sentence"].lower()
        assert not any(word in sentence for word in ("delete", "certif", "prove", "guarantee"))


def test_the_attacks_that_alarm_are_named():
    sentence = decide(measured(family=["entropy", "ks"]), controls(), (1500, 1600))["sentence"]
    assert "entropy, Kolmogorov–Smirnov alarm after correction" in sentence
