"""The original itself is changed: same result, no copy, and whatever fails, it is as it was."""

import copy
import os
import tempfile
from collections import namedtuple

import pytest
import torch
from torch import nn

from nabla_tau import InvalidRequest, UnlearningWarning, methods, original, outcome, unlearn
from nabla_tau.planning import plan
from nabla_tau.problem import Epoch
from nabla_tau.unlearning import Request
from tests.conftest import clusters, fit


class Counting(nn.Module):
    """Counts its calls in a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x):
        self.calls += 1
        return x


@pytest.fixture
def request_(tmp_path, monkeypatch):
    """Arguments of `unlearn`; the model has batch norm, a frozen layer and gradients. A folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = clusters(90, 1)
    network = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), Counting(), nn.ReLU(), nn.Linear(32, 3))
    model = fit(network, *rows, steps=100).train()
    model[0].requires_grad_(False)
    nn.functional.cross_entropy(model(rows[0]), rows[1]).backward()
    sets = {"forget": [0, 20], "retain": [20, 60], "validation": [60, 90]}
    parts = {name: tuple(column[first:last] for column in rows) for name, (first, last) in sets.items()}
    return {"model": model, **parts, "batch_size": 16, "device": "cpu"}


def state(model):
    return {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def ended(model, before, folder):
    assert same(before, state(model))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True, True, True]
    assert list(folder.glob("nabla-tau-*")) == []


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
def test_the_model_passed_in_becomes_what_a_copy_would_become(request_, tmp_path, monkeypatch):
    wanted = unlearn(**request_)
    model = request_["model"]
    before = state(model)
    monkeypatch.setattr(Counting, "__deepcopy__", None, raising=False)
    found = unlearn(**request_, in_place=True)
    assert found.model is model
    assert not same(before, state(model))
    wanted.model[2].calls.copy_(model[2].calls)  # what the check of the data counted differs
    ended(model, state(wanted.model), tmp_path)
    assert found.settings["in_place"]
    assert [epoch.forget_loss for epoch in found.epochs] == [epoch.forget_loss for epoch in wanted.epochs]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_whatever_fails_the_model_is_as_it_was(request_, tmp_path, failure):
    before, changed = state(request_["model"]), []

    def on_step(done, total):
        if done == 30:  # more than the trial of learning rates takes
            changed.append(not same(before, state(request_["model"])))
            raise failure

    with pytest.raises(failure):
        Request(**request_, in_place=True, on_step=on_step).run()
    assert changed == [True]
    ended(request_["model"], before, tmp_path)


def test_a_warning_that_is_made_an_error_is_a_failure(request_, tmp_path, monkeypatch):
    before = state(request_["model"])
    monkeypatch.setattr(outcome, "reached", lambda *losses: False)
    with pytest.raises(UnlearningWarning):  # pytest makes an error of every warning
        unlearn(**request_, in_place=True)
    ended(request_["model"], before, tmp_path)


def test_a_plan_changes_nothing_and_counts_no_copy(request_, tmp_path):
    model = request_["model"]
    with_copy, before = plan(Request(**request_)), state(model)
    without = plan(Request(**request_, in_place=True))
    ended(model, before, tmp_path)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert with_copy.step_bytes - without.step_bytes == weights


def test_weights_that_cannot_be_put_back_stay_on_disk(request_, tmp_path, monkeypatch):
    before = state(request_["model"])

    def unreadable(file):
        raise OSError("disk gone")

    monkeypatch.setattr(original, "load_file", unreadable)
    with pytest.raises(OSError, match="disk gone") as failed:  # already by the trial of learning rates
        unlearn(**request_, in_place=True)
    (folder,) = tmp_path.glob("nabla-tau-*")
    assert str(folder) in failed.value.__notes__[0]
    monkeypatch.undo()
    saved = [original.load_file(folder / f"{number}.safetensors")["values"] for number in range(8)]
    assert torch.equal(saved[0], before["1.weight"])


def test_a_full_disk_is_refused_before_anything_changes(request_, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    before = state(request_["model"])
    monkeypatch.setattr(original.shutil, "disk_usage", lambda folder: usage(100))
    with pytest.raises(InvalidRequest, match=r"in_place: expected .* of room .*, got 100.0 B: free .* TMPDIR"):
        unlearn(**request_, in_place=True)
    assert same(before, state(request_["model"]))
    assert list(tmp_path.glob("nabla-tau-*")) == []


def interrupted_at(step):
    def on_step(done, total):
        if done == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
def test_with_a_checkpoint_it_goes_on_and_the_model_itself_is_the_result(request_, tmp_path, monkeypatch):
    def make():
        return {**request_, "model": copy.deepcopy(request_["model"])}

    folder, seen = tmp_path / "kept", []
    wanted, before = unlearn(**make()), state(request_["model"])
    for step in (30, 40, 50):  # trials of the learning rate have 20
        arguments = make()
        request = Request(
            **arguments, in_place=True, checkpoint=folder, checkpoint_every=0, on_step=interrupted_at(step)
        )
        with monkeypatch.context() as patched:
            patched.setattr(original.shutil, "rmtree", lambda *more, **options: None)  # killed, it would leave them
            with pytest.raises(KeyboardInterrupt):
                request.run()
        seen.append(sorted(path.name for path in folder.iterdir() if path.name.startswith("original-")))
        assert same(before, state(arguments["model"]))
    assert len(seen[0]) == 1
    assert seen == [seen[0]] * 3
    assert not list(tmp_path.glob("nabla-tau-*"))
    saved = original.load_file(folder / seen[0][0] / "0.safetensors")["values"]
    assert torch.equal(saved, before["1.weight"])
    for _ in range(2):  # the second is given the result of the first
        model = make()["model"]
        found = unlearn(**{**make(), "model": model}, in_place=True, checkpoint=folder)
        assert found.model is model
        assert found.continued_after_steps == [29, 39, 49]
        counted = model[2].calls
        assert all(torch.equal(wanted.model.state_dict()[name], value) for name, value in model.state_dict().items())
        assert counted > 0
        assert os.listdir(folder) == ["finished"]


def test_a_method_of_ones_own_trains_with_the_dropout_of_the_model():
    rates = []

    def method(problem):
        with problem.training():
            rates.append(problem.model[0].dropout)
        rates.append(problem.model[0].dropout)
        yield Epoch()

    class Last(nn.Module):
        def forward(self, found):
            return found[0][:, -1]

    model = nn.Sequential(nn.LSTM(2, 3, num_layers=2, dropout=0.5, batch_first=True), Last())
    x, y = torch.randn(30, 4, 2), torch.arange(30) % 3
    sets = {"forget": (x[:5], y[:5]), "retain": (x[5:20], y[5:20]), "validation": (x[20:], y[20:])}
    for in_place in (False, True):
        with pytest.warns(UnlearningWarning):
            unlearn(model, **sets, method=method, device="cpu", in_place=in_place)
    assert rates == [0.5, 0.0, 0.5, 0.0]
    assert model[0].dropout == 0.5


@pytest.mark.parametrize("method", [methods.scrub, methods.amnesiac])
def test_a_method_that_reads_the_original_is_refused(request_, method):
    with pytest.raises(InvalidRequest, match="in_place: expected a method that can do without the original, got"):
        unlearn(**request_, in_place=True, method=method)
