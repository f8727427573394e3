"""Whoever made a checkpoint, reading it executes nothing and touches nothing outside its folder."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from nabla_tau import InvalidRequest, checkpoint, methods, unlearn
from nabla_tau.checkpoint import FINISHED, MANIFEST, NotSaved, clear, forget_older, newest, write
from nabla_tau.unlearning import Request
from tests.methods.cases import case

FACTS = {"epochs": []}


def tensors(path):
    save_file({"weight": torch.ones(3)}, path)


@pytest.fixture
def whole(tmp_path):
    return write(tmp_path, "step-0000000001", {"model.safetensors": tensors}, FACTS)


def forge(folder, change):
    """Change a manifest as somebody would who knows how its checksum is made."""
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content)
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_each_bit_of_a_manifest_counts(whole):
    path = whole / MANIFEST
    content, expected = path.read_bytes(), newest(whole.parent)[0].facts
    unnoticed = []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(ValueError):
            unnoticed.append(newest(whole.parent)[0].facts)
    assert len(unnoticed) < len(content) / 4  # blanks that have become others
    assert all(facts == expected for facts in unnoticed)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "model.safetensors/../../x", "model.pt"],
)
def test_a_manifest_names_no_other_files(whole, name):
    outside = whole.parent / "model.safetensors"
    shutil.copy(whole / "model.safetensors", outside)
    digest = hashlib.sha256(outside.read_bytes()).hexdigest()
    forge(whole, lambda content: content["files"].update({name: digest}))
    with pytest.raises(ValueError, match=r"manifest\.json names files that no checkpoint has"):
        newest(whole.parent)


@pytest.mark.parametrize("linked", ["model.safetensors", MANIFEST, "."])
def test_links_are_not_followed(whole, linked, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "thing"
    place = whole / linked
    shutil.move(place, outside)
    place.symlink_to(outside)
    with pytest.raises(ValueError, match=r"is missing|is a link"):
        newest(whole.parent)


@pytest.mark.parametrize("make", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_a_pickle_in_the_place_of_tensors_executes_nothing(whole, make):
    executed, path = whole.parent / "executed", whole / "model.safetensors"
    with path.open("wb") as file:
        make(Bomb(executed), file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    forge(whole, lambda content: content["files"].update({path.name: digest}))
    with pytest.raises(ValueError, match=r"model\.safetensors is no file of safetensors"):
        newest(whole.parent)
    assert not executed.exists()
    pickle.loads(pickle.dumps(Bomb(executed)))  # it would have
    assert executed.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(files=["model.safetensors"]),
        lambda content: content.update(facts=[]),
        lambda content: content.update(format=2),
        lambda content: content.update(more=1),
        lambda content: content["files"].update({"model.safetensors": 5}),
    ],
)
def test_a_manifest_of_another_kind_is_refused(whole, change):
    forge(whole, change)
    with pytest.raises(ValueError, match=r"step-0000000001"):
        newest(whole.parent)


@pytest.mark.parametrize("content", ["", "[]", "5", "{", "\x00", "[" * 100_000])
def test_what_is_no_manifest_is_refused(whole, content):
    (whole / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is no"):
        newest(whole.parent)


def test_facts_that_no_run_leaves_are_refused(whole, tmp_path):
    found = case("mlp")
    forge(whole, lambda content: content.update(facts={"request": "mine", "kept": "many"}))
    with pytest.raises(InvalidRequest, match="checkpoint: expected"):
        unlearn(found.model, **found.sets(), method=methods.neggrad, checkpoint=tmp_path)


def test_tensors_of_another_shape_do_not_get_into_the_model(tmp_path):
    found = case("mlp")
    arguments = {"model": found.model, **found.sets(), "method": methods.finetune, "checkpoint": tmp_path}

    def on_step(done, total):
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Request(**arguments, checkpoint_every=0, on_step=on_step).run()
    path = newest(tmp_path)[0].folder / "model.safetensors"
    tensors(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    forge(path.parent, lambda content: content["files"].update({path.name: digest}))
    with pytest.raises(ValueError, match="Expected a checkpoint of this model, got one that differs in"):
        unlearn(**arguments)


def test_no_pickle_is_loaded(tmp_path):
    """Reading and continuing work where every pickle is forbidden."""
    code = """
        import pickle, sys, torch, warnings
        import torch._dynamo  # its import unpickles
        from nabla_tau import methods, unlearn
        from nabla_tau.unlearning import Request
        from tests.methods.cases import case
        warnings.simplefilter("ignore")
        found = case("mlp")
        arguments = dict(model=found.model, **found.sets(), method=methods.finetune, checkpoint=sys.argv[1])
        def stop(done, total):
            if done == 9:
                raise KeyboardInterrupt
        def refuse(*_, **__): raise AssertionError("pickle")
        pickle.load = pickle.loads = pickle.dump = pickle.dumps = refuse
        pickle.Unpickler = pickle.Pickler = torch.load = torch.save = refuse
        try:
            Request(**arguments, checkpoint_every=0, on_step=stop).run()
        except KeyboardInterrupt:
            pass
        print(unlearn(**arguments).settings["checkpoints"]["continued_after_steps"])
    """
    run = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[8]"


def test_written_whole_or_not_at_all(tmp_path):
    write(tmp_path, "step-0000000001", {"model.safetensors": tensors}, FACTS)

    def interrupted(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "step-0000000002", {"model.safetensors": interrupted}, FACTS)
    assert os.listdir(tmp_path) == ["step-0000000001"]


@pytest.mark.parametrize("moment", ["flush", "sha256", "_flush_folder"])
def test_a_disk_that_fails_leaves_what_was_there(tmp_path, monkeypatch, moment):
    write(tmp_path, "step-0000000001", {"model.safetensors": tensors}, FACTS)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, moment, full)
    with pytest.raises(NotSaved, match=r"Expected to write .*, got .*No space left"):
        write(tmp_path, "step-0000000002", {"model.safetensors": tensors}, FACTS)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["step-0000000001"]
    assert newest(tmp_path)[0].facts == FACTS


def test_a_finished_one_stands_alone(tmp_path):
    for step in range(3):
        write(tmp_path, f"step-{step:010}", {}, FACTS)
    write(tmp_path, FINISHED, {}, FACTS)
    assert newest(tmp_path)[0].folder.name == FINISHED
    forget_older(tmp_path)
    assert os.listdir(tmp_path) == [FINISHED]


def test_clearing_leaves_what_is_not_its_own(tmp_path):
    write(tmp_path, "step-0000000001", {}, FACTS)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".hidden").mkdir()
    clear(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "notes.txt"]
