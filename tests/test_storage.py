"""Saved whole or not at all, read back as it was, and no pickle anywhere."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap

import pytest
import torch
from torch import nn

from nabla_tau import Unlearned, load, storage
from nabla_tau.problem import Epoch


class Tied(nn.Module):
    """Two names for one weight, a buffer, and a parameter of another type."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.low = nn.Parameter(torch.randn(2).bfloat16())


@pytest.fixture
def result():
    torch.manual_seed(1)
    epochs = [Epoch(0.25, 1.5, 0.5, 0.125, 0.5, 0.01)]
    settings = {"seed": 3, "steps": 4, "method": "nabla_tau", "epochs": 1}
    return Unlearned(Tied(), epochs, settings, False, ["look at this"], 1.5)


def test_back_as_it_was(result, tmp_path):
    torch.manual_seed(2)
    architecture = Tied().train()
    before = {name: value.clone() for name, value in architecture.state_dict().items()}
    back = load(result.save(tmp_path / "deep" / "request"), architecture)
    assert all(torch.equal(value, result.model.state_dict()[name]) for name, value in back.model.state_dict().items())
    assert back.model.second.weight is back.model.first.weight
    assert all(torch.equal(value, before[name]) for name, value in architecture.state_dict().items())
    assert back.record() == result.record()
    assert sorted(os.listdir(tmp_path / "deep")) == ["request"]


def test_beside_other_files_but_over_none(result, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result.save(tmp_path)
    with pytest.raises(FileExistsError, match=r"model\.safetensors and unlearning\.json"):
        result.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "notes.txt", "unlearning.json"]
    with pytest.raises(FileExistsError, match="got the file"):
        result.save(tmp_path / "notes.txt")


@pytest.mark.parametrize("moment", ["save_model", "flush", "sha256"])
def test_interrupted_at_any_moment_leaves_nothing(result, tmp_path, monkeypatch, moment):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "request")
    assert os.listdir(tmp_path) == []


def test_between_the_two_files_the_folder_is_no_result(result, tmp_path, monkeypatch):
    moved = []

    def replace(source, target, plain=os.replace):
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "request")
    with pytest.raises(FileNotFoundError, match=r"without unlearning\.json the writing did not finish"):
        load(tmp_path / "request", Tied())
    monkeypatch.undo()
    result.save(tmp_path / "request")  # nothing is in the way of another attempt


def test_damaged_or_foreign_files(result, tmp_path):
    folder = result.save(tmp_path / "request")
    with pytest.raises(ValueError, match="architecture"):
        load(folder, nn.Linear(3, 3))
    record = (folder / "unlearning.json").read_text()
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="restore the file"):
        load(folder, Tied())
    for text, words in (("{", "Expected JSON"), ('{"epochs": []}', "without"), ("[1]", "got a list")):
        (folder / "unlearning.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            load(folder, Tied())
    assert json.loads(record)["format"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", [{"foo": 1}]),
        ("epochs", 3),
        ("epochs", [{"alpha": "much"}]),
        ("settings", []),
        ("format", 99),
        ("reached_target", "no"),
        ("warnings", 5),
        ("warnings", [5]),
        ("seconds", "long"),
    ],
)
def test_a_record_that_save_does_not_write_is_named(result, tmp_path, name, value):
    path = result.save(tmp_path / "request") / "unlearning.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(ValueError, match=name):
        load(tmp_path / "request", Tied())


def test_what_it_is_loaded_into(tmp_path):
    folder = Unlearned(nn.ReLU(), [], {}, True).save(tmp_path / "request")
    assert list(load(folder, nn.ReLU()).model.parameters()) == []
    with pytest.raises(TypeError, match="got OrderedDict"):
        load(folder, nn.ReLU().state_dict())


def test_no_pickle_is_loaded(result, tmp_path):
    result.save(tmp_path / "request")
    code = """
        import builtins, pickle, sys, torch
        from tests.test_storage import Tied
        from nabla_tau import load
        def refuse(*_, **__): raise AssertionError("pickle")
        pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
        load(sys.argv[1], Tied())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "request")], check=True)


def test_what_a_reader_sees_says_that_the_target_was_missed(result):
    result.settings.update(steps_done=4, damaged=True)
    for name, (before, after) in {"forget": (0.1, 0.2), "retain": (0.1, 0.9), "target": (1.0, 1.1)}.items():
        result.settings.update({f"{name}_loss_before": before, f"{name}_loss_after": after})
    assert "target NOT reached, model DAMAGED" in str(result)
    assert "forget 0.1 -> 0.2, retain 0.1 -> 0.9, unseen 1 -> 1.1" in str(result)
    assert "look at this" in str(result)


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="below the file"):
        storage.require_free(tmp_path / "file" / "below" / "run")
    storage.require_free(tmp_path / "new" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_whoever_may_read_the_record_may_read_the_weights(result, tmp_path):
    before = os.umask(0o027)
    try:
        folder = result.save(tmp_path / "request")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "model.safetensors": 0o640,
        "unlearning.json": 0o640,
    }


def test_a_compiled_model_is_saved_under_the_names_of_its_module(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    folder = Unlearned(torch.compile(model, backend="eager"), [], {}, True).save(tmp_path / "request")
    for one in (
        torch.nn.Sequential(torch.nn.Linear(2, 2)),
        torch.compile(torch.nn.Sequential(torch.nn.Linear(2, 2)), backend="eager"),
    ):
        back = load(folder, one).model
        assert torch.equal(storage.uncompiled(back)[0].weight, model[0].weight)
    assert storage.fingerprint(torch.compile(model, backend="eager")) == storage.fingerprint(model)


def test_a_model_that_cannot_be_copied_is_told(tmp_path):
    folder = Unlearned(torch.nn.Linear(2, 2), [], {}, True).save(tmp_path / "request")
    model = torch.nn.Linear(2, 2)
    model.kept = model.weight * 2  # with a graph
    with pytest.raises(ValueError, match="Expected a model that can be copied"):
        load(folder, model)


def test_a_target_on_another_disk_than_its_parent(result, tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("one disk alone")
        (tmp_path / "mounted").symlink_to(elsewhere)
        result.save(tmp_path / "mounted")
        assert sorted(os.listdir(elsewhere)) == ["model.safetensors", "unlearning.json"]


def test_what_is_loaded_is_ready_to_be_served(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()
    folder = Unlearned(model, [], {}, True).save(tmp_path / "request")
    served = load(folder, model).model
    assert not any(module.training for module in served.modules())
    assert model.training
