"""bf16 and fp16: losses are reduced in float32, and a step that overflows is made again before anything counts it."""

from dataclasses import dataclass

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from nabla_tau import InvalidRequest, checkpoint, methods, unlearn, unlearning
from nabla_tau.engine import Engine, start_engine
from nabla_tau.problem import NonFiniteLoss, Problem
from nabla_tau.unlearning import Request

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")


@dataclass(frozen=True)
class HalfEngine(Engine):
    """Forward passes in half precision on a CPU, where Accelerate offers bf16 alone."""

    type: torch.dtype = torch.float16

    @property
    def mixed_precision(self):
        return {torch.float16: "fp16", torch.bfloat16: "bf16"}[self.type]

    def autocast(self):
        return torch.autocast("cpu", self.type)


def half(monkeypatch, type=torch.float16):
    def start(device):
        engine = start_engine(device)
        return HalfEngine(engine.accelerator, engine.device, type)

    monkeypatch.setattr(unlearning, "start_engine", start)


def arguments(task, **more):
    model, forget, retain, validation = task
    return {"model": model, "forget": forget, "retain": retain, "validation": validation, "device": "cpu", **more}


@pytest.mark.parametrize("type", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", [methods.nabla_tau, methods.nabla_tau_published])
def test_half_precision_ends_where_full_precision_does(task, monkeypatch, type, method):
    settings = {"method": method, "batch_size": 16}
    wanted = unlearn(**arguments(task, **settings)).settings
    seen, look = [], Request.unlearned
    half(monkeypatch, type)
    monkeypatch.setattr(
        Request, "unlearned", lambda self, problem, started: seen.append(problem) or look(self, problem, started)
    )
    result = unlearn(**arguments(task, **settings))
    found, problem = result.settings, seen[0]
    assert all(parameter.dtype == torch.float32 for parameter in result.model.parameters())
    assert found["forget_loss_after"] == pytest.approx(wanted["forget_loss_after"], rel=0.1)
    assert found["retain_loss_after"] == pytest.approx(wanted["retain_loss_after"], rel=0.1, abs=0.05)
    batch = next(problem.in_order(problem.forget))
    with problem.engine.autocast():
        assert problem.model(batch[0]).dtype == type
    loss = problem.batch_loss(batch)
    assert (loss.local.dtype, loss.value.dtype) == (torch.float32, torch.float64)


def test_a_loss_in_half_precision_is_reduced_in_single(task, monkeypatch):
    """A sum of 4,096 in bf16 would be right to 16."""
    half(monkeypatch, torch.bfloat16)

    def own(model, batch):
        return (model(batch[0]).sum(1) * 0 + 1.001).to(torch.bfloat16)

    with Request(**arguments(task, loss=own)).prepared() as problem:
        x, y = (column[:1].expand(4000, *column.shape[1:]) for column in task[1])
        assert problem.batch_loss((x, y)).local.dtype == torch.float32


@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_a_step_that_overflows_is_made_again_and_counted_once(task, monkeypatch, micro_batch_size):
    """The scale of the losses begins far too high; it is a power of two, so that it leaves no trace in the weights."""
    half(monkeypatch)
    sizes = {"method": methods.nabla_tau_published, "batch_size": 16, "micro_batch_size": micro_batch_size}
    steps, results = [], []
    for scale in (2.0**10, 2.0**40):
        steps.append([])
        monkeypatch.setattr(
            torch.amp,
            "GradScaler",
            lambda device, scale=scale: torch.amp.grad_scaler.GradScaler(device, init_scale=scale),
        )
        request = Request(**arguments(task, **sizes), on_step=lambda *step: steps[-1].append(step))
        with request.prepared() as problem:
            epochs = list(request.method(problem))
            assert problem.scaler.get_scale() < 2**30
            results.append((problem.model, epochs))
    (model, epochs), (overflowing, others) = results
    assert steps[0] == steps[1]
    assert [epoch.alpha for epoch in epochs] == [epoch.alpha for epoch in others]
    for one, two in zip(model.parameters(), overflowing.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-4)


def test_gradients_that_are_never_finite_stop_the_run(task, monkeypatch):
    half(monkeypatch)
    model = nn.Sequential(task[0], Spoiled())
    with pytest.raises(NonFiniteLoss, match="however little the losses were scaled"):
        unlearn(**arguments((model, *task[1:])))


class Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


class Spoiled(nn.Module):
    def forward(self, x):
        return Infinite.apply(x)


def test_a_method_that_would_lose_steps_is_refused_in_fp16_alone(task, monkeypatch):
    half(monkeypatch)
    with pytest.raises(InvalidRequest, match="expected 'no' or 'bf16' for finetune, got 'fp16'"):
        unlearn(**arguments(task, method=methods.finetune))
    half(monkeypatch, torch.bfloat16)
    unlearn(**arguments(task, method=methods.finetune))


def test_what_the_launcher_asked_for_is_taken(task, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state()
    try:
        with Request(**arguments(task)).prepared() as problem, problem.engine.autocast():
            assert problem.model(task[1][0]).dtype == torch.bfloat16
            assert problem.settings["mixed_precision"] == "bf16"
            assert problem.scaler is None
    finally:
        AcceleratorState._reset_state()


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize("method", [methods.nabla_tau, methods.nabla_tau_published])
def test_a_run_in_fp16_is_continued_to_the_same_bits(task, monkeypatch, tmp_path, method, micro_batch_size):
    """The scale begins too high, and is raised again and again: most checkpoints have steps behind them that failed."""
    half(monkeypatch)
    scale = {"init_scale": 2.0**30, "growth_interval": 3, "growth_factor": 16.0}
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: torch.amp.grad_scaler.GradScaler(device, **scale))
    settings = arguments(task, method=method, batch_size=16, micro_batch_size=micro_batch_size)
    attempts, make_step = [], Problem._make_step
    monkeypatch.setattr(
        Problem, "_make_step", lambda self, optimizer: attempts.append(make_step(self, optimizer)) or attempts[-1]
    )
    expected = unlearn(**settings)
    assert attempts.count(False) > 5
    steps = len(attempts) - attempts.count(False)
    for call in (steps // 3, steps // 2, steps - 3):
        left = iter(range(call))

        def on_step(done, total, left=left):
            if next(left, None) is None:
                raise Killed

        with pytest.raises(Killed):
            Request(**settings, checkpoint=tmp_path, checkpoint_every=0, on_step=on_step).run()
    kept = checkpoint.newest(tmp_path)[0].facts["scaler"]
    assert kept["_growth_tracker"] in (0, 1, 2)
    found = unlearn(**settings, checkpoint=tmp_path)
    assert len(found.continued_after_steps) >= 2
    for one, two in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [epoch.forget_loss for epoch in found.epochs] == [epoch.forget_loss for epoch in expected.epochs]
    monkeypatch.setattr(unlearning, "start_engine", start_engine)
    with pytest.raises(InvalidRequest, match="expected mixed precision fp16"):
        unlearn(**settings, checkpoint=tmp_path)
