"""A loss of one's own: what it reads tells rows apart, rows do not see each other, and what it holds stays."""

import copy
import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from nabla_tau import InvalidRequest, audit, split, unlearn
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


READING = {
    "by key": lambda model, batch: batch["a"] - batch.get("b"),
    "by names": lambda model, batch: functional.l1_loss(*(batch[name] for name in ("a", "b")), reduction="none"),
    "as arguments": lambda model, batch: (lambda a, b, **_: a - b)(**batch),
    "taken out": lambda model, batch: batch.pop("a") + batch.pop("b"),
    "copied": lambda model, batch: dict(batch.items())["a"] - (batch | {})["b"],
    "moved": lambda model, batch: {name: column.to("cpu") for name, column in batch.items()}["a"] * batch["b"],
    "with a default": lambda model, batch: batch.setdefault("a", torch.zeros(2)) - copy.copy(batch)["b"],
    "where there is one": lambda model, batch: batch["a"] - sum(batch[name] for name in ("b",) if name in batch),
    "changed": lambda model, batch: batch["a"].mul_(2) - batch["b"].add_(1),
    "with dropout": lambda model, batch: functional.dropout(batch["a"] - batch["b"]),
}


@pytest.mark.parametrize("loss", READING.values(), ids=READING)
def test_the_columns_that_a_loss_reads_are_found(loss):
    batch = {"a": torch.rand(2) + 1, "b": torch.rand(2) + 3, "c": torch.ones(2), "labels": torch.ones(2)}
    before = {name: column.clone() for name, column in batch.items()}
    assert columns_read(nn.Identity(), loss, batch) == {"a", "b"}
    assert set(batch) == set(before)
    assert all(torch.equal(batch[name], column) for name, column in before.items())


def test_where_nothing_shows_all_columns_count():
    batch = {name: torch.ones(2) for name in ("a", "b", "labels")}

    def failing(model, batch):
        raise ValueError

    for loss in (failing, lambda model, batch: torch.zeros(2)):
        assert columns_read(nn.Identity(), loss, batch) == {"a", "b"}


@pytest.mark.parametrize(
    "change", [lambda batch: batch.pop("labels"), lambda batch: batch.update(x=batch["x"] / 2) or batch["labels"]]
)
def test_a_loss_that_changes_the_batch_is_refused(change):
    def changing(model, batch):
        labels = change(batch)
        return functional.cross_entropy(model(batch["x"]), labels, reduction="none")

    rows = {"x": torch.randn(60, 5), "labels": torch.arange(60) % 3}
    sets = dict(zip(("forget", "retain", "validation"), split_in_three(rows), strict=True))
    with pytest.raises(InvalidRequest, match=r"changing to leave the batch as it is.* batch = dict\(batch\)"):
        unlearn(nn.Linear(5, 3), **sets, loss=changing, device="cpu")


def split_in_three(rows):
    parts = zip(*(column.split(20) for column in rows.values()), strict=True)
    return [dict(zip(rows, part, strict=True)) for part in parts]


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
    for one in (loss, loss.forward, partial(loss.forward)):
        with told() as caught:
            unlearn(nn.Linear(5, 4), **sets, loss=one, device="cpu")
        assert any("its own parameters (centres) stay as they are" in text for text in caught)
    assert torch.equal(loss.centres, before)
    assert torch.equal(loss.centres.grad, torch.ones_like(before))
    assert loss.centres.requires_grad
    model = nn.Linear(5, 4)
    loss.model = model  # which has its own
    with told() as caught:
        unlearn(model, **sets, loss=loss, device="cpu")
    assert sum("(centres) stay as they are" in text for text in caught) == 1
