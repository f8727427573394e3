"""The Fisher information sample by sample, and the dampening rule, against loops written from the paper."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from nabla_tau import losses, methods
from nabla_tau.fisher import PerSampleSquares, fisher
from nabla_tau.problem import NonFiniteLoss
from nabla_tau.unlearning import Request
from tests.methods.cases import case, ordered, unlearned


def importance(model, loader):
    """Diagonal Fisher: the mean of squared gradients, one sample at a time."""
    rows = list(zip(*loader.dataset.tensors, strict=True))
    sums = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in rows:
        loss = functional.cross_entropy(model(x[None]), y[None])
        for total, gradient in zip(sums, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total += gradient**2
    return [total / len(rows) for total in sums]


@pytest.mark.parametrize(("selection", "dampening"), [(10.0, 1.0), (1.5, 0.5), (0.5, 3.0)])
def test_the_dampening_rule(selection, dampening):
    model, forget, retain, validation = ordered()
    own, other = importance(model, forget), importance(model, retain)
    sizes = len(forget.dataset), len(retain.dataset)
    method = partial(methods.ssd, selection=selection, dampening=dampening)
    result = unlearned(method, model, forget, retain, validation)
    for before, after, f, r in zip(model.parameters(), result.model.parameters(), own, other, strict=True):
        everywhere = (sizes[0] * f + sizes[1] * r) / sum(sizes)
        for place in range(before.numel()):
            theta, f_i, d_i = (float(t.flatten()[place]) for t in (before.detach(), f, everywhere))
            expected = theta * min(dampening * d_i / f_i, 1) if f_i > selection * d_i else theta
            assert float(after.detach().flatten()[place]) == pytest.approx(expected, abs=1e-12)


def test_published_settings_are_ten_and_one():
    settings = unlearned(methods.ssd, *ordered()).settings
    assert (settings["selection"], settings["dampening"]) == (10, 1)


@pytest.mark.parametrize("size", [1, 4, 40])
def test_the_square_is_of_samples_whatever_the_batch(size):
    model, forget, retain, validation = ordered(batch_size=size)
    with Request(model, forget, retain, validation, device="cpu").prepared() as problem:
        found = fisher(problem, problem.retain)
    for one, other in zip(found, importance(model, retain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-15)
    x, y = retain.dataset.tensors
    of_batch = torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))
    assert all(float((g**2).sum()) < 0.9 * float(f.sum()) for g, f in zip(of_batch, found, strict=True))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Branching(nn.Module):
    """Its way depends on the values, which cannot be followed for all samples at once."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.one(x) if float(x.sum()) > 0 else self.other(x)


def branching():
    return Branching(), (torch.randn(6, 3, 4), torch.randint(3, (6,)))


def recurrent():
    return Recurrent(), (torch.randn(6, 3, 4), torch.randint(3, (6,)))


def of(domain):
    found = case(domain)
    return found.model, tuple(column[:6] for column in found.retain)


@pytest.mark.parametrize("build", [branching, recurrent, partial(of, "cnn"), partial(of, "transformer")])
def test_all_at_once_and_one_by_one_agree(build):
    model, batch = build()
    quick, slow = (PerSampleSquares(model.eval(), losses.classification) for _ in range(2))
    slow.how = "one by one"
    for one, other in zip(quick(batch), slow(batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)
    assert quick.how == ("one by one" if build is branching else "vectorised")


def test_an_unused_parameter_matters_to_nobody():
    model, batch = recurrent()
    found = PerSampleSquares(model, losses.classification)(batch)
    squares = dict(zip(dict(model.named_parameters()), found, strict=True))
    assert squares["unused.weight"].abs().sum() == 0 < squares["head.weight"].abs().sum()


def test_a_gradient_that_is_not_finite_is_told():
    """The loss of a row may be finite where its gradient is not."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.layer(inputs) * (self.layer.weight[0] * 0).abs().sqrt().sum()

    x, y = torch.randn(12, 3), torch.arange(12) % 2
    sets = (x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])
    with pytest.raises(NonFiniteLoss, match="got nan for the squared gradients of a set"):
        Request(Root(), *sets, methods.ssd, losses.classification, device="cpu").run()
