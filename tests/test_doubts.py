"""What a reader should know beforehand: outputs that nobody reads, unseen rows that are none, or of another kind."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from nabla_tau import InvalidRequest, losses, split, unlearn
from nabla_tau.doubts import scale_doubts, unread_outputs
from tests.conftest import clusters, fit
from tests.test_own_losses import told

X, Y = clusters(120, 1)
SETS = {"forget": (X[:20], Y[:20]), "retain": (X[20:80], Y[20:80]), "validation": (X[80:], Y[80:])}


class Heads(nn.Module):
    """Logits, and whatever else it is made to give."""

    def __init__(self, give):
        super().__init__()
        self.body, self.logits, self.value, self.give = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 1), give

    def forward(self, x):
        features = self.body(x)
        return self.give(self.logits(features), self.value(features), features)


Two = namedtuple("Two", "logits value")


@pytest.mark.parametrize(
    ("give", "times"),
    [
        (lambda logits, value, features: (logits, value), 1),
        (lambda logits, value, features: [logits, {"value": [value]}], 1),
        (lambda logits, value, features: {"value": value, "logits": logits}, 1),
        (lambda logits, value, features: Two(logits, value), 1),
        (lambda logits, value, features: (logits, value.mean()), 1),
        (lambda logits, value, features: (logits,), 0),
        (lambda logits, value, features: logits, 0),
        (lambda logits, value, features: (logits, None, features.softmax(1)), 0),  # which the logits are made of
        (lambda logits, value, features: {"logits": logits, "embedding": features}, 0),
        (lambda logits, value, features: (logits, value.detach()), 0),
    ],
)
def test_outputs_that_no_loss_reads_are_told(give, times):
    model = Heads(give)
    with told() as texts:
        unlearn(model, **SETS, loss=losses.classification, device="cpu")
    found = [text for text in texts if "lead to outputs that" in text]
    assert len(found) == times
    assert all(text.startswith("model: value.weight, value.bias lead to outputs") for text in found)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_of_ones_own_may_read_all_of_them():
    own = lambda model, batch: model(batch[0])[0].sum(1)  # noqa: E731
    assert unread_outputs(Heads(lambda logits, value, features: (logits, value)), own, (X, Y)) == []


@pytest.mark.parametrize(
    ("change", "times"),
    [(lambda x: 25 * x + 3, 1), (lambda x: x / 255, 1), (lambda x: x + 0.3, 0), (lambda x: 5 * x, 0)],
)
def test_unseen_rows_on_another_scale_are_told(change, times):
    with told() as texts:
        unlearn(nn.Linear(6, 3), **{**SETS, "validation": (change(X[80:]), Y[80:])}, device="cpu")
    assert sum("times as large as those of the retain set" in text for text in texts) == times


class Named(nn.Module):
    def forward(self, small, large):
        return small + large


def test_scales_are_compared_where_they_are_read_and_by_more_than_outliers():
    def doubts(retain, validation, read=()):
        return scale_doubts(Named(), {"retain": retain, "validation": validation}, read)

    x = torch.randn(64, 3)
    heavy = torch.cat([x, 1e4 * torch.ones(2, 3)])
    assert doubts((x, Y), (heavy, Y)) == []
    columns = {"small": x, "large": 1000 * x, "when": x, "labels": Y}
    assert doubts(columns, dict(reversed(columns.items()))) == []
    assert len(doubts(columns, {**columns, "large": x})) == 1
    assert doubts(columns, {**columns, "labels": 99 * x, "when": 99 * x}) == []
    assert len(doubts(columns, {**columns, "when": 99 * x}, read=("when",))) == 1
    assert doubts((x[:8], Y), (99 * x, Y)) == []  # eight rows say nothing
    wide = torch.randn(64, 4000) * torch.tensor([1.0, 1e4]).repeat(2000)  # features of two scales, and many of them
    assert doubts((wide, Y), (wide[:40], Y)) == []
    dark = x * (torch.rand(64, 3) < 0.2)
    assert len(doubts((dark, Y), (255 * dark, Y))) == 1
    assert doubts((x.to_sparse(), Y), (99 * x.to_sparse(), Y)) == []


def test_few_unseen_rows_are_called_few():
    model = fit(nn.Linear(6, 3), *(column[:80] for column in (X, Y)), steps=5)
    for count, word in ((5, "5 rows of validation are too few to tell"), (40, "there was little to forget")):
        with told() as texts:
            unlearn(model, **{**SETS, "validation": (X[80 : 80 + count], Y[80 : 80 + count])}, device="cpu")
        found = [text for text in texts if "no more apart than by chance" in text]
        assert all(word in text for text in found)


@pytest.mark.parametrize(
    ("loss", "targets", "words"),
    [
        (losses.binary, torch.where(Y > 0, 1.0, -1.0), r"expected targets in \[0, 1\], got .* write 0 and 1"),
        (
            losses.regression,
            torch.where(Y > 0, 1.0, float("nan")),
            "expected finite targets, .* leave these rows out",
        ),
    ],
)
def test_targets_that_a_loss_cannot_take_are_called_by_what_they_should_be(loss, targets, words):
    class One(nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, 0]

    sets = {name: (x, targets[: len(x)]) for name, (x, _) in SETS.items()}
    with pytest.raises(InvalidRequest, match=words):
        unlearn(One(6, 1), **sets, loss=loss, device="cpu")


def test_a_loss_of_one_output_is_no_loss_of_an_image():
    masks = torch.zeros(30, 1, 4, 4)
    sets = {
        "forget": (masks[:5], masks[:5]),
        "retain": (masks[5:20], masks[5:20]),
        "validation": (masks[20:], masks[20:]),
    }
    with pytest.raises(InvalidRequest, match="expected one output and one target a row for binary, got"):
        unlearn(nn.Conv2d(1, 1, 1), **sets, loss=losses.binary, device="cpu")
    with pytest.raises(InvalidRequest, match="targets of more dimensions, as masks are: name the rows"):
        split((masks, masks[:, 0].long()), classes=[1])


def test_spectral_norms_stay_what_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(spectral_norm(nn.Linear(6, 32)), nn.ReLU(), spectral_norm(nn.Linear(32, 32)), nn.ReLU())
    model = fit(nn.Sequential(*model, nn.Linear(32, 3)), *(column[:80] for column in (X, Y)), steps=200).eval()
    with told():
        found = unlearn(model, **SETS, batch_size=16, device="cpu").model
    for layer in (0, 2):
        sigma = [float(torch.linalg.matrix_norm(one[layer].weight.detach(), 2)) for one in (model, found)]
        assert sigma[1] < 1.05  # frozen, the first ends at 1.11


def test_spectral_norms_stand_beside_other_parametrizations():
    layer = nn.Linear(6, 16)
    model = nn.Sequential(spectral_norm(weight_norm(layer)), nn.ReLU(), nn.Linear(16, 3))
    with told():
        found = unlearn(model, **SETS, batch_size=16, device="cpu")
    assert float(torch.linalg.matrix_norm(found.model[0].weight.detach(), 2)) < 1.2
