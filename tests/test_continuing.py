"""Cut off after any step, by an exception here, a run is continued to the same bits; whatever is wrong is refused."""

import copy
import json
import math
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset, WeightedRandomSampler

from nabla_tau import (
    InvalidRequest,
    UnlearningWarning,
    checkpoint,
    collapse,
    compatibility,
    continuing,
    losses,
    methods,
    outcome,
    unlearn,
    unlearning,
)
from nabla_tau.checkpoint import NotSaved
from nabla_tau.collapse import UtilityCollapse, look, most_allowed
from nabla_tau.facts import facts_of
from nabla_tau.problem import NonFiniteLoss
from nabla_tau.state import copy_into
from nabla_tau.unlearning import Request
from tests.conftest import clusters
from tests.methods.cases import case, ready

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")

CONTINUED = [name for name, method in methods.METHODS.items() if facts_of(method).not_continued is None]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing here cuts the power


class Killed(Exception):  # noqa: N818
    pass


def cut_off(make, folder, calls):
    """A run that is cut off when so many steps, those of trials among them, were made; each from fresh arguments."""
    for call in calls:
        left = iter(range(call))

        def on_step(done, total, left=left):
            if next(left, None) is None:
                raise Killed

        with pytest.raises(Killed):
            Request(**make(), checkpoint=folder, checkpoint_every=0, on_step=on_step).run()


def continued(make, folder, calls):
    cut_off(make, folder, calls)
    return unlearn(**make(), checkpoint=folder, checkpoint_every=0)


def uninterrupted(make):
    """Its result, and after how many steps those that count began and ended."""
    steps = []
    result = Request(**make(), on_step=lambda done, total: steps.append(done)).run()
    return result, len(steps) - steps[-1], len(steps)


def same_bits(one, other):
    states = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in states)


def assert_same(found, expected):
    assert same_bits(found, expected)
    told, before = ([{**vars(epoch), "seconds": 0} for epoch in result.epochs] for result in (found, expected))
    assert told == before
    assert {name: value for name, value in found.settings.items() if name != "checkpoints"} == expected.settings
    assert len(found.continued_after_steps) >= 3
    assert found.record()["continued_after_steps"] == found.settings["checkpoints"]["continued_after_steps"]
    assert expected.record()["continued_after_steps"] == []


@pytest.mark.parametrize("name", CONTINUED)
def test_every_method_to_the_same_bits(name, tmp_path, monkeypatch):
    monkeypatch.setattr(unlearning, "most_allowed", lambda *losses: math.inf)  # some of them do lose it all
    found = case("cnn")  # with batch norm, which some of them move

    def make():
        return {"model": found.model, **found.sets(), "method": ready(name, "cnn")}

    expected, first, last = uninterrupted(make)
    middle = (first + last) // 2
    assert_same(continued(make, tmp_path, [first // 2, first + 2, middle, middle + 1, last - 1]), expected)


def test_the_default_while_it_waits_for_the_retain_set(tmp_path, monkeypatch):
    """Cut off in, before and after the passes that it adds to the planned ones."""
    monkeypatch.setattr(sys.modules["nabla_tau.methods.nabla_tau"], "LEAST_STEPS", 40)
    monkeypatch.setattr(sys.modules["nabla_tau.methods.nabla_tau"], "REPAIRED", -1.0)  # never back
    found = case("cnn")

    def make():
        return {"model": found.model, **found.sets(), "batch_size": 32}

    expected, first, last = uninterrupted(make)
    planned = first + expected.settings["steps"]
    assert planned + 2 < last
    assert_same(continued(make, tmp_path, [planned - 1, planned, planned + 1, last - 1]), expected)


def test_frozen_weights_are_not_kept(task, tmp_path):
    model, forget, retain, validation = task
    model = copy.deepcopy(model)
    model[0].requires_grad_(False)
    sets = {"forget": forget, "retain": retain, "validation": validation, "batch_size": 11, "device": "cpu"}

    def make():
        return {"model": model, **sets, "method": methods.nabla_tau_published}

    cut_off(make, tmp_path, [9])
    assert set(checkpoint.newest(tmp_path)[0].tensors("model.safetensors")) == {"2.weight", "2.bias"}
    assert same_bits(unlearn(**make(), checkpoint=tmp_path), unlearn(**make()))


def test_after_each_step(task, tmp_path):
    model, forget, retain, validation = task

    def make():
        sets = {"forget": forget, "retain": retain, "validation": validation}
        return {"model": model, **sets, "method": methods.nabla_tau_published, "batch_size": 11, "device": "cpu"}

    expected, _, last = uninterrupted(make)
    assert_same(continued(make, tmp_path, range(2, last)), expected)


def test_nothing_is_kept_of_a_trial(task, tmp_path):
    model, forget, retain, validation = task
    sets = {"forget": forget, "retain": retain, "validation": validation}
    cut_off(lambda: {"model": model, **sets, "device": "cpu"}, tmp_path, [15])
    assert names(tmp_path) == []


class Noisy(Dataset):
    """Rows with noise from every global state."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[1])

    def __getitem__(self, row):
        noise = 0.1 * torch.randn(6) + random.gauss(0, 0.1) + 0.1 * np.random.randn()
        return (self.columns[0][row] + noise).float(), self.columns[1][row]


class Shuffled(Sampler):
    """An order from NumPy's global state."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(np.random.permutation(self.size).tolist())

    def __len__(self):
        return self.size


def noisy(columns):
    return Noisy(columns)


def plain_loader(columns):
    return DataLoader(Noisy(columns), batch_size=7, shuffle=True)


def loader_with_a_generator(columns):
    return DataLoader(Noisy(columns), batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(5))


def sampler_of_numpy(columns):
    return DataLoader(Noisy(columns), batch_size=7, sampler=Shuffled(len(columns[1])))


def weighted(columns):
    size = len(columns[1])
    return DataLoader(Noisy(columns), batch_size=7, sampler=WeightedRandomSampler(torch.ones(size), size))


def workers(columns):
    return DataLoader(Noisy(columns), batch_size=7, shuffle=True, num_workers=1)


def dropout_network():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize("method", ["nabla_tau_published", "random_label"])
@pytest.mark.parametrize(
    "sets", [noisy, plain_loader, loader_with_a_generator, sampler_of_numpy, weighted], ids=lambda sets: sets.__name__
)
def test_however_sets_are_read(sets, method, tmp_path, monkeypatch):
    monkeypatch.setattr(unlearning, "most_allowed", lambda *losses: math.inf)
    rows = {"forget": clusters(15, 1), "retain": clusters(36, 2), "validation": clusters(20, 3)}

    def make():
        named = {name: sets(columns) for name, columns in rows.items()}
        settings = {"batch_size": 7} if sets is noisy else {}
        return {"model": dropout_network(), **named, "method": methods.METHODS[method], "device": "cpu", **settings}

    expected, first, last = uninterrupted(make)
    calls = [first + 2, first + 5, (first + last) // 2, last - 2]
    assert_same(continued(make, tmp_path, calls), expected)


def test_with_workers(tmp_path):
    rows = {"forget": clusters(15, 1), "retain": clusters(36, 2), "validation": clusters(20, 3)}

    def make():
        named = {"forget": noisy(rows["forget"]), "validation": noisy(rows["validation"])}
        retain = workers(rows["retain"])
        return {"model": dropout_network(), **named, "retain": retain, "method": methods.neggrad_plus, "device": "cpu"}

    expected, _, last = uninterrupted(make)
    kept = Request(**make(), checkpoint=tmp_path, checkpoint_every=0, on_step=stop_after(last // 2))
    with pytest.raises(Killed):
        kept.run()
    assert same_bits(unlearn(**make(), checkpoint=tmp_path), expected)


class RowByRow(IterableDataset):
    """The rows of a dataset, of which none can be asked for."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return map(self.rows.__getitem__, range(len(self.rows)))


class ShuffledStream(RowByRow):
    """An order of its own in every pass, from the global state, drawn while it is read."""

    def __iter__(self):
        left = list(range(len(self.rows)))
        while left:
            yield self.rows[left.pop(random.randrange(len(left)))]


class Sampled(RowByRow):
    """Most of the rows, others and another number of them in every pass."""

    def __iter__(self):
        return (row for row in super().__iter__() if np.random.rand() < 0.8)


def a_stream(rows):
    return RowByRow(rows)


def a_loader(rows):
    return DataLoader(RowByRow(rows), batch_size=7)


def a_loader_with_a_generator_and_a_worker(rows):
    return DataLoader(RowByRow(rows), batch_size=7, num_workers=1, generator=torch.Generator().manual_seed(5))


def a_loader_of_a_shuffled_stream(rows):
    return DataLoader(ShuffledStream(rows), batch_size=7)


@pytest.mark.parametrize(
    ("stream", "method"),
    [
        (a_stream, "neggrad_plus"),
        (ShuffledStream, "nabla_tau_published"),
        (Sampled, "nabla_tau"),  # whose trials give passes up
        (Sampled, "neggrad_plus"),
        (a_loader, "nabla_tau_published"),
        (a_loader_of_a_shuffled_stream, "nabla_tau"),
        (a_loader_of_a_shuffled_stream, "neggrad_plus"),
    ],
)
def test_with_a_stream(stream, method, tmp_path, monkeypatch):
    monkeypatch.setattr(unlearning, "most_allowed", lambda *losses: math.inf)
    rows = {"forget": clusters(15, 1), "retain": clusters(36, 2), "validation": clusters(20, 3)}

    def make():
        sets = {**rows, "retain": stream(Noisy(rows["retain"]))}
        return {
            "model": dropout_network(), **sets, "method": methods.METHODS[method], "device": "cpu", "batch_size": 7
        }  # fmt: skip

    expected, first, last = uninterrupted(make)
    found = continued(make, tmp_path, [first + 2, first + 5, (first + last) // 2, last - 2])
    assert_same(found, expected)
    assert found.warnings == expected.warnings  # of passes of another length too, which are not read again


def streamed(stream, **more):
    sets = {"forget": clusters(15, 1), "retain": stream(TensorDataset(*clusters(36, 2))), "validation": clusters(20, 3)}
    return {"model": dropout_network(), **sets, "device": "cpu", "batch_size": 7, **more}


def test_passes_that_are_repeated_are_not_read(tmp_path):
    read = []

    class Counted(RowByRow):
        def __iter__(self):
            for row in super().__iter__():
                read.append(row)
                yield row

    make = lambda: streamed(Counted, method=methods.finetune)  # noqa: E731
    expected = unlearn(**make())
    whole = len(read)
    cut_off(make, tmp_path, [20])  # of six a pass
    assert whole > 7 * 36
    read.clear()
    assert same_bits(unlearn(**make(), checkpoint=tmp_path), expected)
    assert len(read) < whole - 3 * 36 + 3 * 8


def test_a_stream_with_a_worker(tmp_path):
    make = lambda: streamed(a_loader_with_a_generator_and_a_worker, method=methods.neggrad_plus)  # noqa: E731
    expected, _, last = uninterrupted(make)
    cut_off(make, tmp_path, [last // 2])
    assert same_bits(unlearn(**make(), checkpoint=tmp_path), expected)


class Counting(RowByRow):
    """Counts its passes, and gives other rows in later ones: where it is read anew, the count begins anew."""

    passes = 0

    def __iter__(self):
        type(self).passes += 1
        later = type(self).passes > 8
        return (row if place < 30 or not later else self.rows[0] for place, row in enumerate(super().__iter__()))


def test_a_stream_that_gives_something_else_than_before_is_refused(tmp_path, monkeypatch):
    make = lambda: streamed(Counting, method=methods.finetune)  # noqa: E731
    cut_off(make, tmp_path, [20])
    before = names(tmp_path)
    monkeypatch.setattr(Counting, "passes", 0)
    with pytest.raises(InvalidRequest, match=r"a stream that gives the samples of a pass again .* got others"):
        unlearn(**make(), checkpoint=tmp_path)
    assert names(tmp_path) == before
    with pytest.raises(InvalidRequest, match=r"retain set, as of .* got another"):
        unlearn(**streamed(lambda rows: RowByRow(list(rows)[::-1]), method=methods.finetune), checkpoint=tmp_path)


def stop_after(step):
    def on_step(done, total):
        if done == step:
            raise Killed

    return on_step


class OwnNoise(Noisy):
    """Rows with noise that no global state determines."""

    def __init__(self, columns):
        super().__init__(columns)
        self.random = np.random.default_rng(0)

    def __getitem__(self, row):
        return self.columns[0][row] + float(self.random.normal()), self.columns[1][row]


class OwnOrder(Shuffled):
    def __init__(self, size):
        super().__init__(size)
        self.random = random.Random(0)

    def __iter__(self):
        return iter(self.random.sample(range(self.size), self.size))


class DrawnWhileRead(Shuffled):
    def __iter__(self):
        left = list(range(self.size))
        while left:
            yield left.pop(int(torch.randint(len(left), ())))


def of_tensors(columns, **settings):
    return DataLoader(TensorDataset(*columns), batch_size=7, **settings)


@pytest.mark.parametrize(
    ("retain", "reason"),
    [
        (OwnNoise, "rows that differ from one reading to the next"),
        (lambda columns: DataLoader(OwnNoise(columns), batch_size=7), "rows that differ"),
        (lambda columns: of_tensors(columns, sampler=OwnOrder(36)), "global random state does not determine"),
        (lambda columns: of_tensors(columns, sampler=DrawnWhileRead(36)), "global random state does not determine"),
        (lambda columns: of_tensors(columns, num_workers=1, persistent_workers=True), "persistent workers"),
        (lambda columns: of_tensors(columns, num_workers=1, in_order=False), "batches come in any order"),
        (lambda columns: RowByRow(OwnNoise(columns)), "rows that differ"),
        (lambda columns: DataLoader(RowByRow(OwnNoise(columns)), batch_size=7), "rows that differ"),
    ],
    ids=[
        "rows",
        "rows of a loader",
        "order",
        "order drawn while read",
        "persistent workers",
        "any order",
        "stream",
        "loader of a stream",
    ],
)
def test_a_set_that_cannot_be_read_again_is_refused(retain, reason, tmp_path):
    sets = {"forget": clusters(15, 1), "retain": retain(clusters(36, 2)), "validation": clusters(20, 3)}
    with pytest.raises(InvalidRequest, match=f"checkpoint: expected a retain set .*{reason}"):
        unlearn(dropout_network(), **sets, device="cpu", checkpoint=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_set_that_cannot_be_read_at_all_is_told_as_ever(tmp_path):
    class Broken(Noisy):
        def __getitem__(self, row):
            raise OSError("the disk is gone")

    sets = {"forget": clusters(15, 1), "retain": Broken(clusters(36, 2)), "validation": clusters(20, 3)}
    with pytest.raises(InvalidRequest, match="the disk is gone"):
        unlearn(dropout_network(), **sets, device="cpu", checkpoint=tmp_path)


@pytest.mark.parametrize("name", sorted(set(methods.METHODS) - set(CONTINUED)))
def test_a_method_that_cannot_be_continued_is_refused(name, tmp_path):
    found = case("mlp")
    with pytest.raises(InvalidRequest, match=f"a method that can be continued, got {name}: it"):
        unlearn(found.model, **found.sets(), method=ready(name, "mlp"), checkpoint=tmp_path)


def unnamed(problem):
    yield from methods.nabla_tau(problem)


def test_a_method_without_facts_is_refused(tmp_path):
    found = case("mlp")
    with pytest.raises(InvalidRequest, match="a method that can be continued, got unnamed: it has no facts"):
        unlearn(found.model, **found.sets(), method=unnamed, checkpoint=tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that was cut off, with two checkpoints; how to make the call again; and where it ends."""

    def make(**changes):
        found = case("mlp")
        return {"model": found.model, **found.sets(), "method": methods.nabla_tau_published, **changes}

    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        cut_off(make, folder, [8])
    return folder, make, unlearn(**make())


@pytest.fixture
def folder(kept, tmp_path):
    return shutil.copytree(kept[0], tmp_path / "kept")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept(folder):
    assert names(folder) == ["step-0000000007", "step-0000000008"]


def test_epochs_that_are_repeated_took_the_time_they_took(folder, kept):
    before = checkpoint.newest(folder)[0].facts
    found = unlearn(**kept[1](), checkpoint=folder)
    assert len(before["epochs"]) == 2
    assert [vars(epoch) for epoch in found.epochs[:2]] == before["epochs"]
    assert found.epochs[2].seconds > before["pass_seconds"] > 0
    assert found.seconds > before["seconds"] > sum(epoch["seconds"] for epoch in before["epochs"])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-10])


FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "journal.safetensors", "process-0.safetensors"]


@pytest.mark.parametrize("harm", [flipped, truncated, os.remove])
@pytest.mark.parametrize("file", FILES)
def test_of_two_the_good_one_is_used_and_said(file, harm, folder, kept):
    harm(folder / "step-0000000008" / file)
    with pytest.warns(UnlearningWarning, match=rf"step-0000000008/{file} .*: continued from the one before it, .*7\."):
        found = unlearn(**kept[1](), checkpoint=folder)
    assert same_bits(found, kept[2])
    assert found.settings["checkpoints"]["continued_after_steps"] == [7]
    assert any("continued from the one before" in text for text in found.warnings)


def test_a_damaged_one_does_not_count_as_kept(folder, kept):
    flipped(folder / "step-0000000008" / "model.safetensors")
    cut_off(kept[1], folder, [11])
    assert names(folder) == ["step-0000000010", "step-0000000011"]
    (folder / "step-0000000011" / "manifest.json").unlink()
    with pytest.raises(Killed):
        Request(**kept[1](), checkpoint=folder, on_step=stop_after(11)).run()
    assert names(folder) == ["step-0000000010"]


def test_two_damaged_ones_are_refused_with_the_way_out(folder, kept):
    before = {name: value.clone() for name, value in kept[1]()["model"].state_dict().items()}
    flipped(folder / "step-0000000007" / "model.safetensors")
    truncated(folder / "step-0000000008" / "manifest.json")
    with pytest.raises(InvalidRequest, match=r"damaged ones only .*8/manifest.json is .*7/model.safetensors is .*anew"):
        unlearn(**kept[1](), checkpoint=folder)
    assert all(torch.equal(value, before[name]) for name, value in kept[1]()["model"].state_dict().items())


def relabelled(columns):
    return columns[0], columns[1].flip(0)


def own_loss(model, batch):
    return losses.classification(model, batch) * 1.01


CHANGES = {
    "seed 0, .* got 1": {"seed": 1},
    "batch size of forget 8": {"batch_size": 9},
    "method nabla_tau_published": {"method": methods.nabla_tau},
    "loss classification": {"loss": own_loss},
    "model, as of .* got another": {"model": lambda m: nn.Sequential(nn.Linear(6, 3))},
    "forget set, as of .* got another": {"forget": lambda rows: tuple(column.flip(0) for column in rows)},
    "retain set, as of .* got another": {"retain": relabelled},
    "validation set, as of .* got another": {"validation": lambda rows: (rows[0] + 1e-3, rows[1])},
    "samples of retain": {"retain": lambda rows: tuple(column[1:] for column in rows)},
}


@pytest.mark.parametrize("wanted", CHANGES)
def test_a_checkpoint_of_another_request_is_refused(wanted, folder, kept):
    plain = kept[1]()
    changes = {
        name: change(plain[name]) if name in ("model", "forget", "retain", "validation") else change
        for name, change in CHANGES[wanted].items()
    }
    before = names(folder)
    with pytest.raises(InvalidRequest, match=f"checkpoint: expected {wanted}.*or name another folder to begin anew"):
        unlearn(**kept[1](**changes), checkpoint=folder)
    assert names(folder) == before


def test_a_checkpoint_of_other_code_is_refused(folder, kept, monkeypatch):
    monkeypatch.setattr(compatibility, "code_of", lambda method: "other")
    with pytest.raises(
        InvalidRequest, match=r"1 problem .*\n.*the code of nabla_tau that began the run .* got another"
    ):
        unlearn(**kept[1](), checkpoint=folder)
    with pytest.raises(InvalidRequest, match=r"2 problems .*\n.*the code of nabla_tau .*\n.*expected seed 0"):
        unlearn(**kept[1](seed=1), checkpoint=folder)
    with pytest.raises(InvalidRequest, match=r"1 problem .*\n.*expected method nabla_tau_published"):
        unlearn(**kept[1](method=methods.nabla_tau), checkpoint=folder)


def test_other_threads_are_refused(folder, kept):
    torch.set_num_threads(2)
    try:
        with pytest.raises(InvalidRequest, match=r"expected threads 1, as of the run kept in .*, got 2"):
            unlearn(**kept[1](), checkpoint=folder)
    finally:
        torch.set_num_threads(1)


def test_no_row_can_be_guessed_from_what_is_kept(folder, kept):
    """The same forget row beside other rows to be kept has another fingerprint."""
    request = json.loads((folder / "step-0000000008" / "manifest.json").read_text())["facts"]["request"]
    plain = kept[1]()
    changed = unlearning.Request(**kept[1](validation=relabelled(plain["validation"])))
    with Request(**plain).prepared() as same, changed.prepared() as other:
        assert same.fingerprints["forget"] == request["forget set"]
        assert other.fingerprints["forget"] != request["forget set"]
        assert other.fingerprints["retain"] == request["retain set"]


def test_a_finished_run_gives_its_result_again_without_the_work(folder, kept):
    _, make, expected = kept
    first = unlearn(**make(), checkpoint=folder)
    assert names(folder) == ["finished"]
    assert names(folder / "finished") == ["manifest.json", "model.safetensors", "unlearning.json"]
    steps = []
    again = Request(**make(), checkpoint=folder, on_step=lambda *step: steps.append(step)).run()
    assert steps == []
    assert same_bits(again, expected)
    assert again.record() == first.record()
    assert again.model is not make()["model"]
    with pytest.raises(InvalidRequest, match="seed"):
        unlearn(**make(seed=1), checkpoint=folder)


def test_killed_just_before_the_half_unlearned_models_went(folder, kept, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(continuing, "forget_older", lambda folder: None)
        unlearn(**kept[1](), checkpoint=folder)
    assert names(folder) == ["finished", "step-0000000007", "step-0000000008"]
    assert same_bits(unlearn(**kept[1](), checkpoint=folder), kept[2])
    assert names(folder) == ["finished"]


def test_left_overs_of_a_killed_process_are_removed(folder, kept):
    for name in (".new-abc", ".old-abc"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_text("half of it")
    assert same_bits(unlearn(**kept[1](), checkpoint=folder), kept[2])
    assert names(folder) == ["finished"]


@pytest.mark.parametrize("method", [methods.nabla_tau_published, methods.finetune])
def test_the_size_of_batch_or_part_that_memory_allowed_is_kept(method, tmp_path, monkeypatch):
    found = case("mlp")
    sets = {**found.sets(), "batch_size": None if method is methods.finetune else 16}

    def make():
        return {"model": found.model, **sets, "method": method}

    monkeypatch.setattr(unlearning, "fitting_batch_size", lambda *memory: 5)
    expected = unlearn(**make())
    cut_off(make, tmp_path, [2])
    monkeypatch.setattr(unlearning, "fitting_batch_size", lambda *memory: 16)
    assert same_bits(unlearn(**make(), checkpoint=tmp_path), expected)
    assert not same_bits(unlearn(**make()), expected)  # another size, other bits


def full(path):
    raise OSError(28, "No space left on device", str(path))


def test_a_full_disk_stops_the_run_and_says_where_it_is_continued(folder, kept, monkeypatch):
    calls = []

    def flush(path, plain=checkpoint.flush):
        calls.append(path)
        if len(calls) > 7:
            full(path)
        plain(path)

    monkeypatch.setattr(checkpoint, "flush", flush)
    with pytest.raises(NotSaved, match=r"No space left .*journal.*make the same call again; .*after step 9, is in"):
        unlearn(**kept[1](), checkpoint=folder, checkpoint_every=0)
    assert names(folder) == ["step-0000000008", "step-0000000009"]
    monkeypatch.undo()
    assert same_bits(unlearn(**kept[1](), checkpoint=folder), kept[2])


def test_a_result_that_cannot_be_kept_is_not_lost(folder, kept, monkeypatch):
    monkeypatch.setattr(checkpoint, "flush", full)
    with pytest.warns(
        UnlearningWarning, match="No space left.*the run is finished, but not kept there; save its result"
    ):
        found = unlearn(**kept[1](), checkpoint=folder)
    assert same_bits(found, kept[2])
    assert names(folder) == ["step-0000000007", "step-0000000008"]


def test_a_finished_run_is_given_back_in_the_modes_of_the_first_call(folder, kept):
    for _ in range(2):
        request = kept[1]()
        request["model"].train()
        assert unlearn(**request, checkpoint=folder).model.training


def test_a_file_size_limit_names_the_file(tmp_path):
    """What the system refuses to write, also where the writing is not Python's."""
    code = """
import resource, sys, torch
from nabla_tau import unlearn
from tests.test_continuing import wide
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
unlearn(**wide(), checkpoint=sys.argv[1], checkpoint_every=0)
"""
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert "NotSaved: Expected to write" in ran.stderr
    assert "model.safetensors, got" in ran.stderr
    assert "no checkpoint had been saved" in ran.stderr
    assert names(tmp_path) == []


def wide():
    rows = clusters(60, 1)
    sets = {"forget": (rows[0][:5], rows[1][:5]), "retain": (rows[0][5:], rows[1][5:]), "validation": clusters(20, 2)}
    return {"model": nn.Sequential(nn.Linear(6, 2000), nn.ReLU(), nn.Linear(2000, 3)), **sets, "device": "cpu"}


def test_a_place_that_cannot_hold_checkpoints_is_refused_before_the_work(kept, tmp_path, monkeypatch):
    make = kept[1]
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match=r"checkpoint: expected a folder, got .*file"):
        unlearn(**make(), checkpoint=tmp_path / "file")
    with pytest.raises(InvalidRequest, match="checkpoint: expected a folder, got 17"):
        unlearn(**make(), checkpoint=17)
    with pytest.raises(InvalidRequest, match="checkpoint_every: expected a finite number of seconds"):
        unlearn(**make(), checkpoint=tmp_path, checkpoint_every="often")
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # as of a read-only folder, to any user
    with pytest.raises(InvalidRequest, match=r"checkpoint: expected a folder to write to, got .*: choose another"):
        unlearn(**make(), checkpoint=tmp_path / "kept")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(InvalidRequest, match="checkpoint: expected room for three checkpoints"):
        unlearn(**make(), checkpoint=tmp_path / "kept")
    assert names(tmp_path) == ["file"]


def breaks_at(call, value):
    """A loss of which one call in training goes wrong, without a trace in its gradient."""
    calls = []

    def loss(model, batch):
        found = losses.classification(model, batch)
        calls.append(torch.is_grad_enabled())
        return found + value if calls[-1] and sum(calls) == call else found

    return loss


@pytest.mark.parametrize("place", [11, 12])  # a forget and a retain batch
def test_a_loss_that_turns_nan_stops_with_the_last_good_state(place, kept, tmp_path):
    make = kept[1]
    with pytest.raises(NonFiniteLoss, match=r"It was in epoch 2, after \d steps; the last good state, after step \d"):
        unlearn(**make(loss=breaks_at(place, math.nan)), checkpoint=tmp_path, checkpoint_every=0)
    good, _ = checkpoint.newest(tmp_path)
    assert good.tensors("journal.safetensors")["values"].isfinite().all()
    assert all(value.isfinite().all() for value in good.tensors("model.safetensors").values())


def test_without_a_folder_the_epoch_is_named_too(kept):
    with pytest.raises(NonFiniteLoss, match=r"It was in epoch 2, after \d steps\.$"):
        unlearn(**kept[1](loss=breaks_at(11, math.nan)))


def test_weights_that_are_no_longer_finite_are_not_kept(kept, tmp_path):
    make = kept[1]

    def on_step(done, total):
        if done == 5:
            problem.model[0].weight.data[0, 0] = math.inf

    request = Request(**make(), checkpoint=tmp_path, checkpoint_every=0)
    with request.prepared() as problem:
        problem.on_step = on_step
        with pytest.raises(NonFiniteLoss, match=r"0\.weight is no longer finite.*last good state, after step 4"):
            request.keeper(problem, outcome.measure(problem)).run(request.method)


def test_utility_that_collapses_stops_with_the_last_good_state(kept, tmp_path):
    method = lambda problem: methods.neggrad(problem, epochs=40, learning_rate=0.3)  # noqa: E731
    method.facts = facts_of(methods.neggrad)
    with pytest.raises(UtilityCollapse, match=r"since epoch \d.* It was in epoch \d+, .*last good state, after step"):
        unlearn(**kept[1](method=method), checkpoint=tmp_path, checkpoint_every=0)
    plain = Request(**kept[1]())
    with plain.prepared() as problem:
        before = outcome.measure(problem)
        copy_into(dict(problem.model.named_parameters()), checkpoint.newest(tmp_path)[0].tensors("model.safetensors"))
        assert look(problem) <= most_allowed(before.retain, before.unseen)


def test_utility_that_comes_back_does_not_stop_the_run(kept, tmp_path, monkeypatch):
    looks = iter([0.0, 1e9, 1e9] + 200 * [0.0])
    monkeypatch.setattr(collapse, "look", lambda problem: next(looks))
    monkeypatch.setattr(collapse, "PATIENCE", 0.2)  # of a dozen steps
    assert same_bits(unlearn(**kept[1](), checkpoint=tmp_path, checkpoint_every=0), kept[2])
