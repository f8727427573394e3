"""Every score against its definition, written out for one sample at a time, and against autograd."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nabla_tau.auditing.bank import classification_bank, multi_label_bank, regression_bank, token_bank


def by_definition(z, y):
    p = torch.softmax(z.double(), 0).tolist()
    others = [p[j] for j in range(len(p)) if j != y]
    return {
        "confidence": math.log(p[y]) - math.log(sum(others)),
        "margin": float(z[y]) - max(float(z[j]) for j in range(len(p)) if j != y),
        "entropy": sum(q * math.log(q) for q in p),
        "modified_entropy": (1 - p[y]) * math.log(p[y]) + sum(q * math.log(1 - q) for q in others),
        "correct": float(p[y] == max(p)),
    }


def test_classification_and_that_no_sample_depends_on_its_batch():
    z, y = torch.randn(20, 5) * 3, torch.randint(5, (20,))
    bank = classification_bank(z, y)
    for row in range(20):
        alone = classification_bank(z[row : row + 1], y[row : row + 1])
        for name, value in by_definition(z[row], int(y[row])).items():
            assert float(bank[name][row]) == pytest.approx(value, rel=1e-6, abs=1e-9)
            assert float(bank[name][row]) == pytest.approx(float(alone[name]), rel=1e-12)


def test_confidence_orders_as_the_loss_does():
    z, y = torch.randn(100, 5).double(), torch.randint(5, (100,))
    loss = functional.cross_entropy(z, y, reduction="none")
    assert torch.equal(classification_bank(z, y)["confidence"].argsort(), (-loss).argsort())


def test_saturated_outputs_stay_finite():
    bank = classification_bank(torch.tensor([[800.0, 0.0], [0.0, 800.0]]), torch.tensor([0, 0]))
    assert all(values.isfinite().all() for values in bank.values())
    assert bank["confidence"].tolist() == [800.0, -800.0]


def gradient_norm(layer, h, loss):
    layer.zero_grad()
    loss(layer(h)).backward()
    return float(sum(p.grad.square().sum() for p in layer.parameters()).sqrt())


@pytest.mark.parametrize("task", ["classification", "multi_label", "regression"])
def test_gradient_norm_against_autograd(task):
    layer, h = nn.Linear(4, 3).double(), torch.randn(6, 4).double()
    targets = {
        "classification": torch.randint(3, (6,)),
        "multi_label": torch.randint(2, (6, 3)).double(),
        "regression": torch.randn(6, 3).double(),
    }[task]
    bank, loss = {
        "classification": (classification_bank, functional.cross_entropy),
        "multi_label": (multi_label_bank, functional.binary_cross_entropy_with_logits),
        "regression": (regression_bank, functional.mse_loss),
    }[task]
    found = bank(layer(h).detach(), targets, h)["gradient_norm"]
    for row in range(6):
        expected = gradient_norm(layer, h[row : row + 1], lambda z, row=row: loss(z, targets[row : row + 1]))
        assert float(found[row]) == pytest.approx(-expected)


def test_multi_label_is_the_two_class_case_for_one_label():
    z, y = torch.randn(10), torch.randint(2, (10,))
    two = classification_bank(torch.stack([torch.zeros(10), z], 1), y)
    one = multi_label_bank(z, y)
    for name in ("confidence", "margin", "entropy", "modified_entropy", "correct"):
        assert torch.allclose(one[name], two[name], atol=1e-9)


def test_tokens_are_averaged_over_those_that_count():
    z, labels = torch.randn(2, 4, 5), torch.tensor([[1, -100, 3, -100], [0, 1, 2, 4]])
    bank = token_bank(z, labels)
    for row in range(2):
        counted = (labels[row] != -100).nonzero().flatten()
        single = classification_bank(z[row, counted], labels[row, counted])
        for name in ("confidence", "entropy", "correct"):
            assert float(bank[name][row]) == pytest.approx(float(single[name].mean()))
        assert float(bank["margin"][row]) == pytest.approx(float(single["confidence"].min()))
