"""The batch is the published one unless memory demands less; a plan says what would happen and changes nothing."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from nabla_tau import InvalidRequest, losses, memory, methods, planning, unlearning
from nabla_tau.modes import unlearning_modes
from nabla_tau.planning import plan
from nabla_tau.problem import Epoch, Problem
from nabla_tau.trials import TRIAL_STEPS
from nabla_tau.unlearning import Request
from tests.conftest import require


def test_activations_of_a_small_network_by_hand():
    """Backward of Linear(4, 5) -> ReLU -> Linear(5, 3) -> cross-entropy keeps x, the ReLU's output, log p, targets."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    batch = (torch.randn(16, 4), torch.zeros(16, dtype=torch.long))
    # 4 inputs, 5 hidden (shared by the ReLU and the second layer), 3 log-probabilities in float32; an int64 target
    per_sample = memory.activation_bytes(model, losses.classification, batch)
    assert per_sample == pytest.approx(4 * (4 + 5 + 3) + 8, abs=4)


def test_state_is_gradient_and_two_moments_of_what_is_trainable():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3).requires_grad_(False))
    assert memory.state_bytes(model) == 3 * 4 * (4 * 5 + 5)


@pytest.mark.parametrize("method", [methods.nabla_tau, methods.finetune])
def test_a_step_takes_no_more_than_memory_allows_and_says_so(task, monkeypatch, method):
    """∇τ keeps its batch and makes it of micro-batches; a baseline's batch becomes smaller."""
    model, forget, retain, validation = task
    monkeypatch.setattr(unlearning, "free_bytes", lambda device: 100_000)
    request = Request(model, forget, retain, validation, method, device="cpu")
    with request.prepared() as problem:
        settings, at_once = problem.settings, problem.micro_batch_size or problem.forget.batch_size
        assert (problem.forget.batch_size == 256) is (method is methods.nabla_tau)
        assert (settings["micro_batch_size"] is None) is (method is methods.finetune)
        assert 1 < at_once < 256
        needed, more = (settings["activation_bytes_per_sample"] * size for size in (at_once, 2 * at_once))
        assert needed + settings["state_bytes"] <= 90_000 < more + settings["state_bytes"]
        reason = "micro_batch_size_reason" if method is methods.nabla_tau else "batch_size_reason"
        assert "do not fit" in settings[reason]
    monkeypatch.undo()
    with request.prepared() as problem:
        assert problem.settings["batch_size"] == {"forget": 256, "retain": 256, "validation": 256}
        assert problem.settings["micro_batch_size"] is None
        assert not [name for name in problem.settings if name.endswith("reason")]


def test_a_large_batch_is_made_of_micro_batches_where_memory_demands_it(task, monkeypatch):
    model, forget, retain, validation = task
    monkeypatch.setattr(unlearning, "free_bytes", lambda device: 100_000)
    planned = plan(Request(model, forget, retain, validation, batch_size=1000, device="cpu"))
    assert planned.batch_size["retain"] == 1000
    assert f"in micro-batches of {planned.micro_batch_size}" in str(planned)
    assert planned.step_bytes < 100_000 + sum(p.numel() * p.element_size() for p in model.parameters())


def test_a_plan_counts_what_unlearning_then_does_and_changes_nothing(task):
    model, forget, retain, validation = task
    before = [parameter.clone() for parameter in model.parameters()]
    planned = plan(Request(model, forget, retain, validation, device="cpu", batch_size=16))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    steps = []
    request = Request(model, forget, retain, validation, device="cpu", batch_size=16)
    request.on_step = lambda done, total: steps.append(total)
    with request.prepared() as problem:
        epochs = list(request.method(problem))
    assert planned.steps == steps[0]
    assert planned.steps <= problem.steps <= planned.most_steps == steps[-1] == 2 * planned.steps
    assert planned.epochs <= len(epochs) <= 2 * planned.epochs
    assert planned.samples == {"forget": 30, "retain": 170, "validation": 200}
    stepped, tried = 30 * planned.epochs + planned.steps * 170 / 11, 120 * 170 / 11
    assert len(problem.settings["trials"]) * TRIAL_STEPS <= planned.settings["most_trial_steps"] == 120
    assert planned.training_passes == pytest.approx((2 * stepped + tried) / 200)
    assert planned.trial_seconds == pytest.approx(planned.seconds_per_step * planned.steps * tried / stepped)
    assert planned.repair_seconds == pytest.approx(planned.seconds, rel=0.5)  # fewer measurements
    assert planned.most_device_hours == pytest.approx(planned.device_hours + planned.repair_seconds / 3600)
    assert f", up to {planned.most_steps:,} while the retain set is not back" in str(planned)
    assert "(measured on 2 steps), after trials of at most " in str(planned)
    assert 0 < planned.seconds_per_step < planned.seconds
    assert "x one training pass" in str(planned)
    assert planned.device_hours == pytest.approx(
        (planned.seconds + planned.trial_seconds + planned.check_seconds) / 3600
    )
    samples_per_step = stepped / planned.steps
    assert planned.retraining_epoch_seconds == pytest.approx(planned.seconds_per_step * 170 / samples_per_step)
    assert "copies of forget rows looked for" in str(planned)


def test_a_plan_counts_what_its_steps_read(task, monkeypatch):
    """Time goes by 1 for each sample that is differentiated: the plan gives that of all steps, trials or not."""
    model, forget, retain, validation = task
    clock = [0.0]
    read = Problem._read_part

    def counted(self, function, batch):
        clock[0] += len(batch[1]) if torch.is_grad_enabled() else 0
        return read(self, function, batch)

    monkeypatch.setattr(Problem, "_read_part", counted)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock[0])
    for method in (methods.nabla_tau, methods.nabla_tau_published, methods.finetune):
        request = Request(model, forget, retain, validation, method, batch_size=16, device="cpu")
        planned = plan(request)
        assert request == Request(model, forget, retain, validation, method, batch_size=16, device="cpu")
        samples = planned.training_passes * 200
        assert planned.seconds + planned.trial_seconds + planned.repair_seconds == pytest.approx(samples)
        assert planned.seconds_per_step == pytest.approx(planned.seconds / planned.steps)
        assert (planned.trial_seconds > 0) is (planned.repair_seconds > 0) is (method is methods.nabla_tau)
        assert planned.retraining_epoch_seconds == pytest.approx(170)


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "retrain"])
def test_a_plan_of_every_method_is_of_the_size_of_its_run(task, monkeypatch, name):
    """Time goes by 1 for each sample of a step, whoever takes its gradients."""
    model, forget, retain, validation = task
    clock = [0.0]
    done = Problem.step_done

    def counted(self):
        clock[0] += 16
        done(self)

    monkeypatch.setattr(Problem, "step_done", counted)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock[0])
    request = Request(model, forget, retain, validation, methods.METHODS[name], batch_size=16, device="cpu")
    planned = plan(request)
    clock[0] = 0.0
    request.run()
    assert planned.seconds <= 2 * clock[0] <= 8 * (planned.seconds + planned.repair_seconds + 16 * 120)
    assert planned.retraining_epoch_seconds > 0


def test_a_plan_without_steps_knows_no_time_of_retraining(task):
    method = partial(methods.retrain, train=lambda rows, seed: task[0])
    planned = plan(Request(*task, method, batch_size=16, device="cpu"))
    assert planned.retraining_epoch_seconds is None
    assert "\nretraining" not in str(planned)


def test_a_plan_brings_batches_to_the_device(task, monkeypatch):
    """A device is stood in for by double precision, which the rows do not have."""
    model, *sets = task
    place = Problem.place
    monkeypatch.setattr(
        Problem,
        "place",
        lambda self, batch: None if (found := place(self, batch)) is None else (found[0].double(), *found[1:]),
    )
    with Request(model, *sets, batch_size=16, device="cpu").prepared() as problem:
        problem.model.double()
        assert planning._seconds_per_batch(problem) > 0


def test_of_checkpointed_blocks_one_is_kept():
    """Four blocks: what each keeps, and what is kept once all of them are checkpointed, differ by all four."""
    transformers = require("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=20, num_labels=3, max_position_embeddings=32, use_cache=False, **sizes)
    model = transformers.BertForSequenceClassification(config)
    batch = {"input_ids": torch.randint(20, (8, 32)), "labels": torch.randint(3, (8,))}
    plain = memory.activation_bytes(model.eval(), losses.classification, batch)
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    with unlearning_modes(model):
        inputs = memory._kept_bytes(model, losses.classification, batch) / 8
        found = memory.activation_bytes(model, losses.classification, batch)
        assert found - inputs == pytest.approx((plain - inputs) / 4, rel=0.05)
        assert memory._kept_bytes(model, losses.classification, batch) / 8 == inputs  # switched on again


def test_a_plan_of_a_method_that_says_nothing_beforehand_says_what_it_needs(task):
    def silent(problem):
        yield Epoch()

    steps = []

    def saying_no_steps(problem):
        sgd = torch.optim.SGD(problem.trainable(), lr=0.0)
        for _ in range(50):
            problem.accumulate(next(problem.one_pass(problem.retain, problem.generator(0))))
            steps.append(problem.update(sgd))
        yield Epoch()

    request = Request(task[0], *task[1:], method=silent, device="cpu")
    with pytest.raises(
        InvalidRequest, match=r"epochs and steps into problem\.settings .*silent without epochs and steps"
    ):
        plan(request)
    with pytest.raises(InvalidRequest, match="saying_no_steps without epochs and steps"):
        plan(replace(request, method=saying_no_steps))
    assert len(steps) <= 3  # a plan is no run
    with pytest.raises(InvalidRequest, match="yields an Epoch after each pass, got NoneType"):
        plan(replace(request, method=lambda problem: None))
