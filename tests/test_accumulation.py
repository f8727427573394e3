"""A step in micro-batches is the step on the whole batch, without a second copy of the gradients."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import InvalidRequest, UnlearningWarning, losses, methods, unlearn
from nabla_tau.objective import descend
from nabla_tau.unlearning import Request
from tests.two_processes import worker

NABLA_TAU = [methods.nabla_tau, methods.nabla_tau_published]


def hardly_trained():
    return worker.in_loaders(worker.request(worker.with_statistics, worker.images, 11, training_steps=1))


@pytest.mark.parametrize("method", NABLA_TAU)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_micro_batches_of_any_size_give_the_same_run(method, size):
    """Batches of 5 and a shorter last one; ascent in some steps alone, so that every way to make one is taken."""
    arguments = {**hardly_trained(), "method": method}
    whole, parts = worker.run(arguments), worker.run({**arguments, "micro_batch_size": size})
    weights = whole["epochs"][:, 4]
    assert weights.any()
    assert bool(weights.all()) is (method is methods.nabla_tau_published)  # whose every epoch has a step with a push
    for name, value in whole.items():
        assert float((value - parts[name]).abs().max()) < 1e-9, name


def test_batches_of_a_sampler_are_cut_by_the_longest_of_them():
    read = []

    class Reading(nn.Linear):
        def forward(self, x):
            read.append(len(x)) if self.weight.requires_grad and torch.is_grad_enabled() else None
            return super().forward(x)

    x, y = torch.randn(40, 4), torch.arange(40) % 3
    batches = [[0, 1], [2, 3], [4, 5], [6, 7], list(range(8, 40))]  # of a mean below ten
    retain = DataLoader(TensorDataset(x, y), batch_sampler=batches)
    sets = {"forget": (x[:4], y[:4]), "retain": retain, "validation": (x[:8] + 1, y[:8])}
    with pytest.warns(UnlearningWarning):  # nothing was memorised
        done = unlearn(
            Reading(4, 3), **sets, method=methods.nabla_tau_published, micro_batch_size=10, batch_size=4, device="cpu"
        )
    assert done.settings["micro_batch_size"] == 10
    assert max(read) == 10


def test_samples_without_labels_weigh_nothing():
    arguments = {**worker.request(worker.Texts, worker.texts, 11), "loss": losses.token_classification}
    whole, parts = worker.run(arguments), worker.run({**arguments, "micro_batch_size": 2})
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-9


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    model[0].unused = nn.Linear(2, 2).double()
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(3, (30,))
    sets = (x[:7], y[:7]), (x[7:20], y[7:20]), (x[20:], y[20:])
    with Request(model, *sets, batch_size=7, micro_batch_size=3, device="cpu").prepared() as problem:
        yield problem


class Spy:
    """Stands in for the optimiser: keeps the gradient that it was given."""

    def __init__(self, problem):
        self.model = problem.model

    def step(self):
        self.gradients = {name: None if p.grad is None else p.grad.clone() for name, p in self.model.named_parameters()}

    def zero_grad(self, set_to_none):
        self.model.zero_grad(set_to_none=set_to_none)


def batches(problem):
    return next(problem.in_order(problem.forget)), next(problem.in_order(problem.retain))


def test_the_gradient_is_that_of_the_objective(problem):
    """Autograd on α · ReLU(τ − L_f)² + (1 − α) · L_r itself."""
    optimizer, (forget, retain), tau, alpha = Spy(problem), batches(problem), 4.0, 0.3
    forget_loss, retain_loss = (nn.functional.cross_entropy(problem.model(x), y) for x, y in (forget, retain))
    (alpha * torch.relu(tau - forget_loss) ** 2 + (1 - alpha) * retain_loss).backward()
    wanted = {name: p.grad for name, p in problem.model.named_parameters()}
    problem.model.zero_grad()
    step = descend(problem, optimizer, forget, retain, alpha=alpha, target_loss=tau)
    assert step.forget_loss == pytest.approx(float(forget_loss.detach()), abs=1e-12)
    for name, gradient in optimizer.gradients.items():
        if wanted[name] is None:
            assert gradient is None
        else:
            assert torch.allclose(gradient, wanted[name], rtol=0, atol=1e-12), name


def test_no_backward_pass_is_made_in_vain_twice(problem, monkeypatch):
    """7 samples in threes: 3 passes a set. The first step without a push pays for ∇L_f, those after it do not."""
    passes, rows, loss = [], [], problem.loss
    backward = type(problem).backward
    monkeypatch.setattr(type(problem), "backward", lambda self, local: (passes.append(1), backward(self, local)))

    def counted(model, batch):
        rows.append((len(batch[1]), torch.is_grad_enabled()))
        return loss(model, batch)

    problem.loss = counted
    optimizer, (forget, retain) = Spy(problem), batches(problem)
    found = []
    for target in (9.0, 0.0, 0.0, 9.0, 9.0):
        passes.clear(), rows.clear()
        step = descend(problem, optimizer, forget, retain, alpha=0.5, target_loss=target)
        found.append((len(passes), sum(not with_gradient for _, with_gradient in rows), step.ascent_weight > 0))
        assert max(count for count, _ in rows) == 3
    assert found == [(6, 0, True), (6, 0, False), (3, 3, False), (6, 3, True), (6, 0, True)]


def test_the_way_a_step_is_made_changes_no_bit(problem):
    """After a step without push, the batch is looked at first: the run after a restart may not know, and need not."""
    optimizer, (forget, retain), found = Spy(problem), batches(problem), []
    for resting in (False, True):
        problem.resting = resting
        descend(problem, optimizer, forget, retain, alpha=0.5, target_loss=9.0)
        found.append(optimizer.gradients)
    assert all(found[0][name] is None or torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_where_nothing_is_pushed_the_forget_set_leaves_no_gradient(problem):
    optimizer, (forget, _) = Spy(problem), batches(problem)
    descend(problem, optimizer, forget, None, alpha=0.5, target_loss=0.0)
    assert set(optimizer.gradients.values()) == {None}  # a gradient of zero would let weights decay


def test_gradients_are_scaled_where_they_are(problem):
    problem.accumulate(batches(problem)[0])
    places = [p.grad.data_ptr() for p in problem.trainable() if p.grad is not None]
    values = [p.grad.clone() for p in problem.trainable() if p.grad is not None]
    problem.scale_gradients(-2.0)
    after = [p.grad for p in problem.trainable() if p.grad is not None]
    assert [gradient.data_ptr() for gradient in after] == places
    assert all(torch.equal(new, -2.0 * old) for new, old in zip(after, values, strict=True))


def test_what_cannot_be_made_of_micro_batches_is_refused():
    x, y = torch.randn(30, 4), torch.randint(3, (30,))
    sets = (x[:7], y[:7]), (x[7:20], y[7:20]), (x[20:], y[20:])
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 3))
    request = Request(model, *sets, methods.scrub, micro_batch_size=2, device="cpu")
    with pytest.raises(InvalidRequest) as refused, request.prepared():
        pass
    first, second = refused.value.problems
    assert "expected methods.nabla_tau or methods.nabla_tau_published" in first
    assert "batch norm without running statistics in 1:" in second
