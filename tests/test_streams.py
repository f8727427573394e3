"""A retain set that can only be read from its first sample on, and one that lies on disk."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from nabla_tau import InvalidRequest, audit, checks, losses, methods, unlearn
from nabla_tau.planning import plan
from nabla_tau.sets import open_set
from nabla_tau.stream_log import StreamLog
from nabla_tau.streams import BUFFERED, Stream, shuffled_within
from nabla_tau.unlearning import Request
from tests.conftest import clusters, fit, require
from tests.two_processes import worker

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")


@pytest.fixture
def request_():
    rows = clusters(60, 1)
    model = fit(nn.Linear(6, 3), *rows, steps=20)
    retain = clusters(700, 4)
    sets = {"forget": [0, 20], "validation": [20, 60]}
    parts = {name: tuple(column[first:last] for column in rows) for name, (first, last) in sets.items()}
    return {"model": model, **parts, "retain": retain, "batch_size": 16, "device": "cpu"}


@pytest.mark.parametrize(
    "method", [methods.nabla_tau, methods.nabla_tau_published, methods.finetune, methods.neggrad_plus]
)
def test_a_stream_is_unlearned_beside_as_its_rows_are(request_, method):
    """The same lengths, α and batches follow from what the check counted."""
    wanted = unlearn(**request_, method=method).settings
    found = unlearn(**worker.streamed(request_), method=method).settings
    differing = {name for name in wanted if wanted[name] != found[name]}
    assert all("loss" in name or "trial" in name or name in ("damaged", "overshot") for name in differing)
    assert found["samples"]["retain"] == 700
    assert found["batches"]["retain"] == 44


def test_no_more_is_read_than_the_recipe_needs(request_):
    """One whole pass, to check and count; steps then take what they need, and a buffer."""
    request_["retain"] = clusters(9000, 4)
    arguments = worker.streamed({**request_, "forget": tuple(column[:10] for column in request_["forget"])})
    result = unlearn(**arguments)
    read = arguments["retain"].read
    assert read.count(9000) == 1
    assert sorted(read)[-2] == 16 * (result.settings["steps_done"] + BUFFERED)


def test_a_plan_counts_a_stream_by_its_check(request_):
    planned = plan(Request(**worker.streamed(request_)))
    assert planned.samples["retain"] == 700
    assert planned.steps == plan(Request(**request_)).steps


def test_copies_in_a_stream_are_found(request_):
    request_["retain"] = tuple(
        torch.cat([keep, gone[:2]]) for keep, gone in zip(request_["retain"], request_["forget"], strict=True)
    )
    result = unlearn(**worker.streamed(request_))
    assert any(
        "2 rows of retain have the same content" in text and "retain rows 700, 701" in text for text in result.warnings
    )


def test_a_pass_holds_every_sample_once_and_its_order_follows_the_generator(request_):
    source = open_set(worker.Stream(request_["retain"]), 16)
    first, second, again = (
        torch.cat([x for x, _ in source.one_pass(torch.Generator().manual_seed(seed))]) for seed in (0, 1, 0)
    )
    ordered = torch.cat([x for x, _ in source.ordered()])
    assert torch.equal(ordered, request_["retain"][0])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, ordered)
    for passed in (first, second):
        assert torch.equal(passed.unique(dim=0), ordered.unique(dim=0))
        assert len(passed) == 700


def test_neighbours_are_parted_and_none_comes_too_early():
    mixed = torch.tensor(list(shuffled_within(iter(range(1000)), 100, torch.Generator().manual_seed(0))))
    assert torch.equal(mixed.sort().values, torch.arange(1000))
    assert int((mixed - torch.arange(1000)).max()) <= 100
    assert float((mixed.diff() == 1).double().mean()) < 0.05


def test_the_rows_of_a_stream_are_not_kept(request_):
    """It is read last, past the hashes of the other sets: nothing is kept of what is in none of them."""
    sets = {"forget": request_["forget"], "retain": worker.Stream(request_["forget"])}
    sources = {name: open_set(data, 16) for name, data in sets.items()}
    found = checks.survey_sets(sets, sources, request_["model"], losses.classification, outputs=3)
    assert list(found.equal) == [("forget", "retain")]


def test_a_loader_over_a_stream_keeps_its_batches(request_):
    rows = worker.Stream(request_["retain"])
    request_["retain"] = DataLoader(rows, batch_size=30, drop_last=True)
    with Request(**request_).prepared() as problem:
        assert (problem.retain.size, problem.retain.batches, problem.retain.batch_size) == (690, 23, 30)
        assert [len(x) for x, _ in problem.one_pass(problem.retain, problem.generator(1))] == [30] * 23


class Once(IterableDataset):
    def __init__(self):
        self.passes = iter([(torch.zeros(6), 0)] * 20)

    def __iter__(self):
        return self.passes


class Dry(Once):
    def __iter__(self):
        yield from self.passes


def test_a_stream_that_does_not_start_anew_is_refused(request_):
    for data in (Once(), DataLoader(Once())):
        with pytest.raises(InvalidRequest, match=r"retain: .*a stream that can be read again, got Once"):
            unlearn(**{**request_, "retain": data})
    with pytest.raises(ValueError, match="let its __iter__ start anew"):
        unlearn(**{**request_, "retain": Dry()})


def test_other_sets_are_no_streams(request_):
    stream = worker.Stream(request_["forget"])
    for name in ("forget", "validation"):
        with pytest.raises(
            InvalidRequest, match=f"{name}: expected a set whose rows can be read by position, got a stream"
        ):
            unlearn(**{**request_, name: stream})
    sets = {"forget": request_["forget"], "retain": stream, "test": request_["validation"]}
    with pytest.raises(InvalidRequest, match="retain: expected a set whose rows can be read by position"):
        audit(request_["model"], original=request_["model"], **sets, device="cpu")


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(x)


@pytest.mark.parametrize("streamed", [False, True])
def test_hugging_face_datasets_from_disk(request_, tmp_path, streamed):
    """Memory-mapped, or read as a stream: both give what the tensors give."""
    datasets = require("datasets")

    def columns(rows):
        return {"x": rows[0], "labels": rows[1]}

    model = Named()
    model.head.load_state_dict(request_.pop("model").state_dict())
    tensors = {**request_, **{name: columns(request_[name]) for name in ("forget", "retain", "validation")}}
    rows = {name: column.tolist() for name, column in tensors["retain"].items()}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "rows")
    on_disk = datasets.load_from_disk(str(tmp_path / "rows"))
    wanted = unlearn(model, **tensors)
    retain = on_disk.to_iterable_dataset() if streamed else on_disk
    found = unlearn(model, **{**tensors, "retain": retain})
    assert found.settings["samples"] == wanted.settings["samples"]
    assert rows_kept(model, {**tensors, "retain": retain}) == rows_kept(model, tensors)
    if not streamed:
        assert torch.equal(found.model.head.weight, wanted.model.head.weight)


def rows_kept(model, sets):
    """What tells the retain set from any other."""
    with Request(model, **sets).prepared() as problem:
        return problem.fingerprints["retain"]


class Growing(IterableDataset):
    """One row less, or more, from the pass of that number on."""

    def __init__(self, rows, change, since):
        self.rows, self.change, self.since, self.passes = rows, change, since, 0

    def __iter__(self):
        self.passes += 1
        size = len(self.rows[1]) + (self.change if self.passes >= self.since else 0)
        for place in range(size):
            yield tuple(column[place % len(column)] for column in self.rows)


@pytest.mark.parametrize("change", [-1, 16])
@pytest.mark.parametrize("of_a_loader", [False, True])
def test_a_pass_of_another_length_is_warned_about_once(request_, change, of_a_loader):
    rows = tuple(column[:48] for column in request_["retain"])
    found = [
        unlearn(**{**request_, "retain": DataLoader(stream, batch_size=16) if of_a_loader else stream}).warnings
        for stream in (Growing(rows, change, since=8), Growing(rows, 0, since=8))
    ]
    told, untold = ([text for text in warnings if "its check counted" in text] for warnings in found)
    assert len(told) == 1
    assert f"retain: its check counted 48 rows, a later pass gave {48 + change}" in told[0]
    assert untold == []


class NoisyStream(worker.Stream):
    """Noise of every global state in its rows."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield x + torch.randn(()) + random.gauss(0, 1) + np.random.randn(), y


@pytest.mark.parametrize("of_a_loader", [False, True])
def test_a_pass_depends_on_its_seed_alone(request_, of_a_loader):
    """Whatever else draws meanwhile; so all processes read the same."""
    rows = NoisyStream(tuple(column[:48] for column in request_["retain"]))
    source = open_set(DataLoader(rows, batch_size=16) if of_a_loader else rows, 16)
    for make in (source.ordered, lambda: source.one_pass(torch.Generator().manual_seed(3))):
        passes = []
        for draws in (0, 5):
            before = torch.get_rng_state()
            passes.append([(float(x.double().sum()), torch.rand(draws)) for x, _ in make()])
            torch.set_rng_state(before)
        assert [one for one, _ in passes[0]] == [one for one, _ in passes[1]]


def test_a_pass_that_was_cut_off_and_is_not_read_again_yet_is_still_known():
    log = StreamLog({3: b"digest"}, kept=True)
    assert log.read() == {3: b"digest"}
    assert log.length(3, (5, 40)) is None
    log.end(3, (2, 16), (5, 40), whole=False)
    assert (log.read(), log.length(3, (5, 40))) == ({}, (5, 40))


def test_an_empty_stream_is_refused(request_):
    with pytest.raises(InvalidRequest, match=r"retain: .*samples"):
        unlearn(**{**request_, "retain": worker.Stream(clusters(0, 1))})
    with pytest.raises(ValueError, match="start anew"):
        next(Stream([], torch.tensor).batches(3))
