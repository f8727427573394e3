"""A model that is spread over processes is changed as a whole one is, and nobody waits for anybody."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from nabla_tau import load, methods, sharding
from nabla_tau.memory import state_bytes
from nabla_tau.unlearning import Request
from tests import my_project
from tests.conftest import REPOSITORY, require
from tests.two_processes import parts as asked
from tests.two_processes import sharded

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def launch(*arguments, timeout=300, **environment):
    """Two processes on one thread each; a wait of one for the other ends at the timeout."""
    return subprocess.run(
        [*TWO, "--module", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What two processes saved, a folder a case."""
    folder = tmp_path_factory.mktemp("sharded")
    launched = launch(sharded.__name__, folder)
    assert launched.returncode == 0, launched.stderr
    return {name: folder / str(number) for number, name in enumerate(sharded.cases())}


def test_two_parts_are_changed_as_the_whole(results):
    apart = {}
    for name, arguments in sharded.cases().items():
        alone, parts = sharded.run(arguments), load(results[name], arguments["model"])
        assert parts.settings["shard"]
        assert parts.settings["processes"] == 2
        assert not alone.settings["shard"]
        pairs = list(zip(alone.model.state_dict().values(), parts.model.state_dict().values(), strict=True))
        moved = zip(arguments["model"].state_dict().values(), parts.model.state_dict().values(), strict=True)
        assert max(float((before - after).abs().max()) for before, after in moved) > 1e-4, name
        weights = [[epoch.ascent_weight or 0 for epoch in result.epochs] for result in (alone, parts)]
        assert weights[0] == pytest.approx(weights[1], rel=1e-9), name
        assert any(weights[0]) == (name not in methods.METHODS and "at rest" not in name), name
        difference = max(float((one - other).abs().max()) for one, other in pairs)
        if not difference <= (1e-9 if name == "l1_sparse" else 1e-12):  # whose penalty jumps where a weight is 0
            apart[name] = difference
        if hasattr(parts.model, "unused") and name != "l1_sparse":  # whose penalty is on every weight
            assert (parts.model.unused.weight == 1).all(), name  # a gradient of zero would have let it decay
    assert apart == {}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each of two processes said, and the folder they left their results in."""
    require("transformers")
    folder = tmp_path_factory.mktemp("parts")
    (folder / "taken").mkdir()
    (folder / "taken" / "unlearning.json").touch()
    launched = launch(asked.__name__, folder)
    assert launched.returncode == 0, launched.stderr
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_each_process_holds_half_of_weights_gradients_and_moments(answers):
    everything = sum(parameter.numel() * parameter.element_size() for parameter in asked.wide().double().parameters())
    for said in answers[1]:
        assert said["held"] == {"weights": everything / 2, "gradients": everything / 2, "moments": everything / 2}
        assert said["settings"]["state_bytes"] == 3 * everything / 2
        assert [2 * part[0] for part in said["parts"]] == [shape[0] for shape in said["original"]]
        assert said["original"] == [list(parameter.shape) for parameter in asked.wide().parameters()]  # untouched


def test_what_is_put_together_is_told_and_does_not_count_as_activations(answers, tmp_path):
    arguments = {**asked.request(asked.wide, asked.images, 11), "device": "cpu"}
    with Request(**arguments).prepared() as problem:
        activations = problem.settings["activation_bytes_per_sample"]
    for said in answers[1]:
        assert said["settings"]["gathered_bytes"] == 4 * 8 * (64 * 64 + 64)
        assert said["settings"]["activations"] == pytest.approx(activations, rel=0.02)


def test_the_saved_model_is_whole_and_what_all_processes_call_together(answers):
    folder, said = answers
    arguments = asked.request(asked.wide, asked.images, 11)
    whole = load(folder / "whole", arguments["model"]).model
    for one in said:
        assert torch.allclose(torch.tensor(one["outputs"]), whole(arguments["validation"][0]).float(), atol=1e-6)


def test_what_cannot_be_saved_fails_on_every_process(answers):
    folder, (first, second) = answers
    assert first["taken"].startswith("FileExistsError")
    assert first["full"] == "OSError: no space left"
    assert all("got a failure there" in second[name] for name in ("taken", "full"))
    assert not (folder / "full").exists()


def test_a_sharded_model_is_refused_where_a_whole_one_is_read(answers):
    for said in answers[1]:
        assert "expected whole weights, got parts of them" in said["again"]
        assert "expected whole weights, got parts of them" in said["audit"]


def test_different_models_are_refused_in_parts_and_whole(answers):
    for said in answers[1]:
        assert all("expected the same weights in every process" in answer for answer in said["unlike"])


def test_blocks_of_transformers_are_recomputed_in_parts(answers):
    folder, _ = answers
    model = asked.bert()
    alone = sharded.run(asked.of_bert())
    for name in ("plain", "recomputed"):
        result = load(folder / name, model)
        assert result.settings["gradient_checkpointing"] is (name == "recomputed")
        pairs = zip(alone.model.state_dict().values(), result.model.state_dict().values(), strict=True)
        assert max(float((one - other).abs().max()) for one, other in pairs) < 1e-12


def test_the_command_plans_and_saves_what_two_processes_share(tmp_path):
    target = str(REPOSITORY / "tests" / "my_project.py") + ":sets"
    command = (
        "nabla_tau",
        "unlearn",
        target,
        "--device",
        "cpu",
        "--json",
        "--method",
        "nabla_tau_published",
        "--shard",
    )
    shared = json.loads(launch(*command, "--plan", "--micro-batch-size", 8).stdout)
    state = [state_bytes(my_project.network()), shared["settings"]["state_bytes"]]
    assert state[0] / 2 <= state[1] <= state[0] / 2 + 3 * 4 * (128 + 3)  # the odd row of the last layer
    activations = shared["settings"]["activation_bytes_per_sample"] * 8
    gathered = shared["settings"]["gathered_bytes"]
    assert shared["step_bytes"] == pytest.approx(state[1] * 4 / 3 + gathered + activations, rel=0.01)
    launched = launch(*command, "--output", tmp_path / "run")
    assert launched.returncode == 0, launched.stderr
    model = my_project.network()
    saved = load(tmp_path / "run", model)
    alone = sharded.run({**my_project.sets(), "model": model, "method": methods.nabla_tau_published})
    assert saved.settings["shard"]
    assert torch.allclose(saved.model[2].weight, alone.model[2].weight, atol=1e-4)
    assert not torch.equal(saved.model[2].weight, model[2].weight)


@pytest.mark.parametrize(("precision", "works"), [("bf16", True), ("fp16", False)])
def test_half_precision(tmp_path, precision, works):
    target = str(REPOSITORY / "tests" / "my_project.py") + ":sets"
    command = ("nabla_tau", "unlearn", target, "--json", "--shard", "--method", "nabla_tau_published")
    launched = launch(*command, "--output", tmp_path / "run", ACCELERATE_MIXED_PRECISION=precision)
    assert (launched.returncode == 0) is works, launched.stderr
    if works:
        assert json.loads(launched.stdout)["settings"]["mixed_precision"] == precision
        assert load(tmp_path / "run", my_project.network()).model[0].weight.dtype == torch.float32
    else:
        assert "whose scaler sees one part" in launched.stdout


def problems(monkeypatch, processes=2, **options):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    x, y = torch.eye(6), torch.arange(6) % 2
    sets = {"forget": (x[:2], y[:2]), "retain": (x[2:4], y[2:4]), "validation": (x[4:], y[4:])}
    return Request(**{"model": nn.Linear(6, 2), **sets, "shard": True, **options}).argument_problems()


def test_two_processes_may_shard_and_one_may_not(monkeypatch):
    assert problems(monkeypatch) == []
    (problem,) = problems(monkeypatch, processes=1)
    assert "expected several processes" in problem
    assert "torchrun --nproc_per_node N" in problem
    assert problems(monkeypatch, processes=1, shard=False) == []
    assert problems(monkeypatch, shard="yes") == ["shard: expected True or False, got 'yes'."]


def test_blocks_are_the_members_of_lists_unless_one_is_most_of_the_model():
    layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    backbone = nn.Sequential(nn.Linear(4, 4), nn.Sequential(*layers))
    tied = nn.ModuleDict({"body": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), "head": nn.Linear(4, 4)})
    tied["head"].weight = tied["body"][1].weight
    assert sharding.blocks(nn.ModuleList([*layers, nn.ReLU()])) == layers
    assert sharding.blocks(nn.Sequential(backbone, head := nn.Linear(4, 4))) == [backbone[0], *layers, head]
    assert sharding.blocks(tied) == [tied["body"][0]]


def mine(problem):
    """A method of somebody else."""
    yield from ()


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        *((getattr(methods, name), "its teacher is whole") for name in ("scrub", "scrub_rewind", "bad_teacher")),
        (methods.ssd, "gradients of single samples"),
        (partial(methods.salun, epochs=1), "ranks the weights of all layers"),
        (partial(methods.retrain, train=print), "its training is a function of yours"),
        (mine, "it has no facts that say so"),
    ],
)
def test_methods_that_cannot_say_why(monkeypatch, method, reason):
    (problem,) = problems(monkeypatch, method=method)
    assert reason in problem


def test_in_place_checkpoints_and_adapters_are_refused_together(monkeypatch, tmp_path):
    peft = require("peft")
    model = peft.get_peft_model(nn.Sequential(nn.Linear(6, 2)), peft.LoraConfig(r=1, target_modules=["0"]))
    found = problems(monkeypatch, model=model, in_place=True, checkpoint=tmp_path)
    for reason in ("without in_place", "without checkpoint", "an adapter of PEFT"):
        assert any(reason in problem and problem.startswith("shard:") for problem in found)
