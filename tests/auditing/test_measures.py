"""All measures of one model together, on scores of known truth."""

import numpy as np
import pytest
from scipy.special import expit

from nabla_tau.auditing.measures import FEWEST_SAMPLES, measure_model
from nabla_tau.auditing.scoring import Scores
from nabla_tau.auditing.verdict import decide
from nabla_tau.membership import attack_accuracy, entropies

CALM = {"test_vs_test": {"alarm": False}, "original": {"alarm": True}, "blind": {"alarm": False}}


def scores(losses, labels=None):
    targets = np.zeros((len(losses), 0)) if labels is None else labels
    return Scores({"loss": -losses}, np.zeros((len(losses), 0)), targets, np.arange(len(losses)))


def measured(forget, retain, test, matched=None):
    sets = {"forget": scores(forget), "retain": scores(retain), "test": scores(test)}
    return measure_model("unlearned", sets, np.arange(len(test)) if matched is None else matched, "my_loss")


def test_equal_means_of_another_shape():
    """Forget losses pushed onto their target, the mean unseen loss: the paper's attack is blind, the verdict is not."""
    generator = np.random.default_rng(0)
    test, retain = generator.normal(5.0, size=500), generator.gamma(1.0, 0.1, 600)
    forget = generator.normal(scale=0.3, size=500)
    forget += test.mean() - forget.mean()
    found = measured(forget, retain, test)
    assert found["paper_attacks"]["losses"]["low"] < 0.5
    assert found["attacks"][0]["p"] > 0.05
    assert all(found[name]["p_adjusted"] < 0.01 for name in ("ks", "energy", "boosted"))
    assert decide(found, CALM, (500, 500))["kind"] == "distinguishable"


def test_swapping_forget_and_unseen_samples_mirrors_areas_and_leaves_distances():
    generator = np.random.default_rng(3)
    sides = [scores(generator.gamma(1.0, scale, rows)) for scale, rows in ((1.5, 80), (2.0, 110))]
    for side in sides:
        side.bank["entropy"] = side.bank["loss"] + generator.normal(size=len(side))
    retain = sides[0]
    one, other = (
        measure_model("m", {"forget": first, "retain": retain, "test": second}, np.arange(len(second)), "my_loss")
        for first, second in (sides, sides[::-1])
    )
    for here, there in zip(one["attacks"], other["attacks"], strict=True):
        assert here["p"] == pytest.approx(there["p"])
        for ends in (("value", "value"), ("low", "high"), ("high", "low")):
            assert here["auc"][ends[0]] == pytest.approx(1 - there["auc"][ends[1]])
    for distance in ("ks", "energy"):
        assert [one[distance][key] for key in ("value", "p")] == pytest.approx(
            [other[distance][key] for key in ("value", "p")]
        )
    assert one["boosted"]["auc"]["value"] == pytest.approx(other["boosted"]["auc"]["value"])
    assert one["margin"] == pytest.approx(other["margin"])
    assert one["ks"]["low"] < one["ks"]["value"] < one["ks"]["high"]
    assert one["energy"]["samples"] == other["energy"]["samples"][::-1] == [80, 110]


def test_unseen_samples_pass_and_holm_counts_every_test_but_the_primary():
    generator = np.random.default_rng(1)
    found = measured(*(generator.gamma(1.0, scale, 300) for scale in (2.0, 0.1, 2.0)))
    assert decide(found, CALM, (300, 300))["kind"] == "none_detectable"
    family = [found[name] for name in ("boosted", "ks", "energy", "over_forgetting")]
    least = min(family, key=lambda one: one["p"])
    assert least["p_adjusted"] == pytest.approx(min(1.0, 4 * least["p"]))
    assert found["attacks"][0]["p_adjusted"] == found["attacks"][0]["p"]


def test_a_blown_up_tail_is_over_forgotten_although_ranks_see_nothing():
    generator = np.random.default_rng(0)
    forget, retain, test = (generator.gamma(1.0, scale, 600) for scale in (2.0, 0.1, 2.0))
    forget[:30] += 100
    forget[30:60] = 0
    found = measured(forget, retain, test)
    assert found["attacks"][0]["p"] > 0.05
    assert decide(found, CALM, (600, 600))["kind"] == "over_forgotten"


def test_f1_is_the_mean_over_labels_that_are_there_or_predicted():
    generator = np.random.default_rng(4)
    targets = np.zeros((40, 5))  # three labels that no row has
    targets[:20, 0] = targets[20:, 1] = 1
    losses = generator.gamma(1.0, 0.1, 40)
    bank = {"loss": -losses, "correct": np.ones(40)}
    right = Scores(bank, targets.copy(), targets, np.arange(40))
    nothing = Scores(bank, np.zeros((40, 5)), np.zeros((40, 5)), np.arange(40))
    wrong = Scores(bank, np.eye(5)[np.full(40, 4)], targets, np.arange(40))
    sets = {"forget": right, "retain": nothing, "test": wrong}
    found = measure_model("unlearned", sets, np.arange(40), "multi_label")["utility"]
    assert [found[name]["macro_f1"]["value"] for name in ("forget", "retain", "test")] == [1.0, 1.0, 0.0]


def test_no_perplexity_beyond_all_numbers():
    sides = {}
    for key, loss in (("forget", 2.0), ("retain", 2.0), ("test", 900.0)):
        one = scores(np.full(40, loss) + np.linspace(0, 1, 40))
        one.bank["correct"] = np.ones(40)
        sides[key] = one
    utility = measure_model("unlearned", sides, np.arange(40), "causal_language_model")["utility"]
    assert ["perplexity" in utility[key] for key in ("forget", "retain", "test")] == [True, True, False]


def test_a_removed_class_does_not_count_against_the_retained_ones():
    """Its test samples cost much, by intent: the exposure of the others is measured without them."""
    generator = np.random.default_rng(0)
    retain, kept = generator.gamma(1.0, 1.0, (2, 400))
    forget, removed = generator.gamma(20.0, 1.0, (2, 100))
    test, matched = np.r_[removed, kept], np.arange(100)

    def exposure(others, stray=0):
        sets = {
            "forget": scores(forget, np.ones(100, int)),
            "retain": scores(retain, np.repeat([1, 0], [stray, 400 - stray])),
            "test": scores(test[: 100 + others], np.repeat([1, 0], [100, others])),
        }
        return measure_model("unlearned", sets, matched, "my_loss")["retain_exposure"]

    assert exposure(400, stray=1)["value"] == pytest.approx(0.5, abs=0.05)
    assert exposure(400, stray=100)["value"] > 0.55
    assert exposure(5) is None


@pytest.mark.parametrize("short", range(3))
def test_the_fewest_samples_are_enough_and_one_less_is_not(short):
    generator = np.random.default_rng(0)
    sizes = [FEWEST_SAMPLES] * 3
    assert measured(*(generator.random(size) for size in sizes))["over_forgetting"] is None  # takes 99 unseen ones
    sizes[short] -= 1
    with pytest.raises(ValueError, match=f"at least {FEWEST_SAMPLES}"):
        measured(*(generator.random(size) for size in sizes))


def test_the_papers_attacks_on_labels_sum_losses_and_take_the_softmax_over_labels():
    """The notebooks' definitions, from logits; the per-sample loss here is a mean over labels."""
    generator = np.random.default_rng(0)
    sides, losses, disorder = {}, {}, {}
    for name, sharpness in (("forget", 3.0), ("retain", 3.0), ("test", 1.0)):
        logits, labels = sharpness * generator.normal(size=(60, 4)), generator.integers(0, 2, (60, 4))
        losses[name] = np.logaddexp(0, -logits * (2 * labels - 1)).mean(1)
        disorder[name] = entropies(logits)
        bank = {"loss": -losses[name], "correct": ((logits > 0) == labels).mean(1)}
        sides[name] = Scores(bank, expit(logits), labels, np.arange(60))
    found = measure_model("m", sides, np.arange(60), "multi_label")["paper_attacks"]
    assert found["losses"]["accuracy"] == attack_accuracy(4 * losses["forget"], 4 * losses["test"])
    assert found["entropies"]["accuracy"] == pytest.approx(attack_accuracy(disorder["forget"], disorder["test"]))
