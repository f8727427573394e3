"""Divergence and calibration error, by hand and against SciPy."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from nabla_tau.auditing.predictions import calibration_error, js_divergence


def probabilities(seed, rows=40, classes=10):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), size=rows)


def test_js_against_scipy():
    p, q = probabilities(0), probabilities(1)
    assert js_divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2, axis=1) ** 2)
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p))


def test_js_by_hand():
    """p = (1, 0), q = (½, ½), m = (¾, ¼): ½ log₂(4/3) + ½ (½ log₂(2/3) + ½ log₂ 2) = 0.3113 bits."""
    assert js_divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])) == pytest.approx([0.3112781])


@pytest.mark.parametrize("classes", [2, 100])
def test_js_is_a_sum_over_classes(classes):
    """A mean over them would shrink with their number."""
    apart = np.eye(classes)[:1], np.eye(classes)[1:2]
    assert js_divergence(*apart).tolist() == [1.0]
    assert js_divergence(apart[0], apart[0]).tolist() == [0.0]


def test_js_stays_in_its_range():
    p = probabilities(0).astype(np.float32)
    assert (js_divergence(p, p * (1 + 1e-7)) >= 0).all()


def test_calibration_error_by_hand():
    """Two of four right at confidence 0.9, one of one at 1: 4/5 · |0.5 − 0.9| + 1/5 · 0."""
    p = np.array([[0.9, 0.1]] * 4 + [[0.0, 1.0]])
    assert calibration_error(p, np.array([0, 0, 1, 1, 1])) == pytest.approx(0.32)


def test_a_confidence_on_the_edge_belongs_to_the_lower_bin():
    """0.8 = 12/15 shares no bin with 0.85, so errors of opposite sign do not cancel; certainty is counted."""
    p = np.array([[0.8, 0.2], [0.85, 0.15]])
    assert calibration_error(p, np.array([0, 1])) == pytest.approx((0.2 + 0.85) / 2)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1.0


def test_calibrated_predictions():
    generator = np.random.default_rng(0)
    p = probabilities(2, 20_000, 3)
    target = (generator.random((20_000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert calibration_error(p, target) < 0.02


def test_bad_predictions():
    good = probabilities(0)
    with pytest.raises(ValueError, match="rows of second to be probabilities"):
        js_divergence(good, good * 3 - 1)
    with pytest.raises(ValueError, match=r"same samples, got shapes \(40, 10\) and \(39, 10\)"):
        js_divergence(good, good[1:])
    with pytest.raises(ValueError, match="1 others among probabilities"):
        calibration_error(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(ValueError, match="one target for each of 40 samples"):
        calibration_error(good, np.zeros(39))
