"""A loss of one's own: what it reads tells rows apart, rows do not see each other, and what it holds stays."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional

from nabla_tau import audit, split, unlearn
from nabla_tau.doubts import row_doubts
from nabla_tau.own_losses import columns_read


@contextmanager
def told():
    texts = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: texts.append(str(message))
        yield texts


class Scores(nn.Module):
    """Takes the whole batch: what it reads stands nowhere but in its code."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(12, 4), nn.Embedding(60, 4)

    def forward(self, batch):
        return (self.users(batch["user"]) * self.items(batch["item"])).sum(1)


def liked(model, batch):
    return functional.binary_cross_entropy_with_logits(model(batch), batch["liked"], reduction="none")


def ratings(first, last):
    """Every pair of user and item once."""
    places = torch.arange(first, last)
    liked = torch.rand(len(places), generator=torch.Generator().manual_seed(first)).round()
    return {"user": places % 12, "item": places // 12, "row": places, "liked": liked}


def test_rows_that_a_loss_tells_apart_are_no_copies():
    torch.manual_seed(0)
    model, columns = Scores(), ratings(0, 480)
    parts = split(columns, forget=list(range(60)))
    sets = {"forget": parts.forget, "retain": parts.retain}
    with told() as caught:
        done = unlearn(model, **sets, validation=ratings(480, 600), loss=liked, batch_size=32, device="cpu")
        report = audit(done, original=model, **sets, test=ratings(600, 720), loss=liked, device="cpu")
    assert not [text for text in caught if "same content" in text or "stand in another" in text]
    assert report.data["controls"]["blind"] is not None
    new = ratings(480, 500)
    partly = {name: torch.cat([column[:30], new[name]]) for name, column in parts.forget.dataset.columns.items()}
    partly["row"] += 900  # which the loss does not read
    with told() as copies:
        unlearn(model, **sets, validation=partly, loss=liked, device="cpu")
    assert [text for text in copies if "30 rows of validation have the same content as rows of forget" in text]


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, batch: batch["a"] - batch.get("b"),
        lambda model, batch: functional.l1_loss(*(batch[name] for name in ("a", "b")), reduction="none"),
        lambda model, batch: (lambda a, b, **_: a - b)(**{name: batch[name] for name in ("a", "b")}),
        lambda model, batch: batch.pop("a") + batch["b"],
    ],
)
def test_the_columns_that_a_loss_reads_are_seen(loss):
    batch = {name: torch.ones(2) for name in ("a", "b", "c", "labels")}
    assert columns_read(nn.Identity(), loss, batch) == {"a", "b"}
    assert set(batch) == {"a", "b", "c", "labels"}


def test_a_loss_that_takes_all_reads_all():
    batch = {name: torch.ones(2) for name in ("a", "b", "labels")}
    takes_all = (
        lambda model, batch: (lambda **columns: columns["a"])(**batch),
        lambda model, batch: torch.stack(list(batch.values())).sum(0),
        lambda model, batch: sum(column for _, column in batch.items()),
        lambda model, batch: torch.zeros(2),  # nothing seen
    )
    for loss in takes_all:
        assert columns_read(nn.Identity(), loss, batch) == {"a", "b"}


def contrastive(model, batch):
    first, second = model(batch[0]), model(batch[1])
    return functional.cross_entropy(first @ second.T, torch.arange(len(first)), reduction="none")


def alone(model, batch):
    return (model(batch[0]) - model(batch[1])).pow(2).sum(1)


@pytest.mark.parametrize(("loss", "times"), [(contrastive, 1), (alone, 0)])
def test_rows_that_see_each_other_are_told(loss, times):
    torch.manual_seed(0)
    rows = torch.randn(60, 5), torch.randn(60, 5)
    cut = lambda first, last: tuple(column[first:last] for column in rows)  # noqa: E731
    with told() as caught:
        sets = {"forget": cut(0, 10), "retain": cut(10, 40), "validation": cut(40, 60)}
        unlearn(nn.Linear(5, 4), **sets, loss=loss, batch_size=8, device="cpu")
    assert sum("lets the rows of a batch see each other" in text for text in caught) == times


def test_a_model_in_which_rows_see_each_other_is_told_too():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    batch = torch.randn(9, 3), torch.arange(9) % 3
    loss = lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1], reduction="none")  # noqa: E731
    assert row_doubts(nn.Identity(), loss, batch) == []
    assert len(row_doubts(Centred(), loss, batch)) == 1
    assert row_doubts(Centred(), loss, (batch[0][:1], batch[1][:1])) == []  # nothing to compare


class Proxies(nn.Module):
    """Its centres were trained beside the model."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, 4))

    def forward(self, model, batch):
        return functional.cross_entropy(model(batch[0]) @ self.centres.T, batch[1], reduction="none")


def test_parameters_of_a_loss_are_told_and_left_alone():
    torch.manual_seed(0)
    loss = Proxies()
    loss.centres.grad = torch.ones_like(loss.centres)
    before = loss.centres.detach().clone()
    x, y = torch.randn(60, 5), torch.arange(60) % 3
    sets = {"forget": (x[:10], y[:10]), "retain": (x[10:40], y[10:40]), "validation": (x[40:], y[40:])}
    for one in (loss, loss.forward):
        with told() as caught:
            unlearn(nn.Linear(5, 4), **sets, loss=one, device="cpu")
        assert any("its own parameters (centres) stay as they are" in text for text in caught)
    assert torch.equal(loss.centres, before)
    assert torch.equal(loss.centres.grad, torch.ones_like(before))
    assert loss.centres.requires_grad
