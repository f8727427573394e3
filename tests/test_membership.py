"""The paper's attack against a transcription of its definition, and its interval against known noise."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit

from nabla_tau.membership import _accuracy, attack, attack_accuracy, entropies

GENERATOR = np.random.default_rng(5)


def transcription(forget, test):
    """method.md's parity definition, step by step, without scikit-learn's cross-validation helper."""
    forget, test = forget.copy(), test.copy()
    size = min(len(forget), len(test))
    if len(forget) > size:
        np.random.default_rng(1).shuffle(forget)
    if len(test) > size:
        np.random.default_rng(1).shuffle(test)
    rows = np.concatenate([test[:size], forget[:size]]).reshape(-1, 1)
    labels = np.array([0] * size + [1] * size)
    scores = []
    for train, held_out in StratifiedShuffleSplit(n_splits=10, random_state=0).split(rows, labels):
        fitted = LogisticRegression().fit(rows[train], labels[train])
        scores.append((fitted.predict(rows[held_out]) == labels[held_out]).mean())
    return np.mean(scores)


@pytest.mark.parametrize(("members", "others"), [(60, 60), (60, 200), (200, 60)])
def test_parity(members, others):
    forget, test = GENERATOR.exponential(0.5, members), GENERATOR.exponential(2.0, others)
    assert attack_accuracy(forget, test) == transcription(forget, test)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_the_bootstrap_fits_as_scikit_learn_does(scale, shift):
    generator = np.random.default_rng(2)
    forget, test = scale * generator.exponential(1.0, 120), scale * (generator.exponential(1.0, 200) ** 2 + shift)
    assert _accuracy(forget, test) == pytest.approx(attack_accuracy(forget, test), abs=0.005)
    assert _accuracy(np.zeros(50), np.ones(60)) == 1.0


def test_the_callers_arrays_are_not_shuffled():
    forget, test = np.arange(30.0), np.arange(50.0)
    attack_accuracy(forget, test)
    assert test.tolist() == list(range(50))


def test_blind_to_shape():
    """Equal means, other shapes: this attack sees little; it is reported for parity, not as proof."""
    forget = np.r_[np.full(180, 0.9), np.full(20, 1.9)]
    test = GENERATOR.permutation(np.r_[np.zeros(100), np.full(100, 2.0)])
    assert attack_accuracy(forget, test) < 0.65


def test_interval_covers_guessing_on_equal_distributions_and_not_on_others():
    equal = attack(GENERATOR.normal(size=150), GENERATOR.normal(size=300), resamples=30)
    assert equal.low < 0.5 < equal.high
    assert equal.samples == 150
    apart = attack(GENERATOR.normal(size=150), GENERATOR.normal(3, size=300), resamples=30)
    assert apart.low > 0.8
    assert 0.01 < (equal.high - equal.low) / 2 < 0.12  # about 6 points at n = 150


def test_entropies_against_scipy():
    logits = GENERATOR.normal(size=(6, 4)) * 5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert entropies(logits) == pytest.approx(entropy(p, axis=1))
    assert entropies(np.array([[0.0, -np.inf]])).tolist() == [0.0]


def test_bad_numbers():
    with pytest.raises(ValueError, match="at least 10 members"):
        attack_accuracy(np.zeros(5), np.zeros(50))
    with pytest.raises(ValueError, match="1 others among non-members"):
        attack_accuracy(np.zeros(50), np.r_[np.zeros(20), np.nan])
