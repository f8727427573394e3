"""Running statistics that follow: what they are means of, in what they share, and where they stay."""

import copy
import sys

import pytest
import torch
from torch import nn

from nabla_tau import trials, unlearn
from nabla_tau.batch_norm import ORIGINAL_BATCHES, changing_batch_norms, followed
from nabla_tau.methods.nabla_tau import nabla_tau
from nabla_tau.trials import settle
from nabla_tau.unlearning import Request
from tests.conftest import clusters

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")

X, Y = clusters(96, 1)
SETS = {"forget": (X[:16], Y[:16]), "retain": (X[16:80], Y[16:80]), "validation": (X[80:], Y[80:])}


def network():
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()
    model = nn.Sequential(*layers, nn.Linear(8, 3))
    with torch.no_grad():
        model(X)  # in train mode: statistics of its own
    return model


def statistics(model):
    return [value for norm in (model[1], model[4]) for value in (norm.running_mean, norm.running_var)]


def test_the_first_layer_has_mean_and_variance_of_the_original_as_ten_batches_and_of_every_batch_since():
    model = network()
    before = [model[1].running_mean.clone(), model[1].running_var.clone()]
    with Request(model, **SETS, device="cpu").prepared() as problem:
        problem.steps = 5
        with followed(problem, changing_batch_norms(problem.model)):
            problem.losses(SETS["retain"])
        mean, variance = statistics(problem.model)[:2]
    with torch.no_grad():
        inputs = model[0](SETS["retain"][0])
    share = 1 / (ORIGINAL_BATCHES + 5)
    expected = (1 - share) * before[0] + share * inputs.mean(0)
    second = (1 - share) * (before[1] + before[0] ** 2) + share * (inputs**2).mean(0)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, second - expected**2)


def test_micro_batches_move_the_statistics_as_the_whole_batch_does():
    def moved(micro_batch_size):
        with Request(network(), **SETS, device="cpu", micro_batch_size=micro_batch_size).prepared() as problem:
            with followed(problem, changing_batch_norms(problem.model)):
                problem.accumulate(SETS["retain"])
            return statistics(problem.model)

    for whole, parts in zip(moved(None), moved(5), strict=True):
        torch.testing.assert_close(whole, parts)


def test_of_a_step_that_overflows_nothing_stays():
    class Overflowing:
        """Stands in for the scaler of fp16: of its first attempt nothing comes."""

        def __init__(self):
            self.scales = [2.0, 1.0, 1.0, 1.0]

        def get_scale(self):
            return self.scales.pop(0)

        def scale(self, value):
            return value

        def step(self, optimizer):
            pass

        unscale_ = step

        def update(self):
            pass

    def moved(scaler):
        with Request(network(), **SETS, device="cpu").prepared() as problem:
            problem.scaler = scaler
            sgd, made = torch.optim.SGD(problem.trainable(), lr=0.0), False
            while not made:
                with followed(problem, changing_batch_norms(problem.model)):
                    problem.accumulate(SETS["retain"])
                made = problem.update(sgd)
            return statistics(problem.model)

    for once, again in zip(moved(None), moved(Overflowing()), strict=True):
        assert torch.equal(once, again)


def test_images_count_every_place():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3))
    images, labels = 3 + 2 * torch.randn(12, 2, 3, 3), torch.arange(12) % 3
    sets = [(images[part], labels[part]) for part in (slice(4), slice(4, 8), slice(8, 12))]
    with Request(model, *sets, device="cpu").prepared() as problem:
        with followed(problem, changing_batch_norms(problem.model)):
            problem.losses(sets[1])
        mean = problem.model[0].running_mean
    torch.testing.assert_close(mean, 0.1 * sets[1][0].mean((0, 2, 3)))


def test_only_what_is_read_inside_moves_them_and_no_hook_stays():
    with Request(network(), **SETS, device="cpu").prepared() as problem:
        norms, before = changing_batch_norms(problem.model), [value.clone() for value in statistics(problem.model)]
        with followed(problem, norms):
            pass
        problem.losses(SETS["retain"])
        assert all(map(torch.equal, statistics(problem.model), before))
        with pytest.raises(ValueError, match="batch"), followed(problem, norms):
            problem.losses((SETS["retain"][0], SETS["retain"][1][:1]))  # fewer targets than rows
        assert all(map(torch.equal, statistics(problem.model), before))
        assert not any(norm._forward_pre_hooks for norm in norms)


def test_the_default_moves_them_on_the_retain_set_and_the_original_keeps_its_own():
    model = network().eval()
    before = copy.deepcopy(model.state_dict())
    result = unlearn(model, **SETS, device="cpu", batch_size=16)
    assert result.settings["following_batch_norms"] == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    moved = [not torch.equal(*pair) for pair in zip(statistics(result.model), statistics(model), strict=True)]
    assert all(moved)
    assert not any(module._forward_pre_hooks for module in result.model.modules())
    result.model.eval()
    with torch.no_grad():
        inputs = result.model[0](SETS["retain"][0])
    distances = [(inputs.mean(0) - norm.running_mean).abs().mean() for norm in (result.model[1], model[1])]
    assert distances[0] < distances[1]  # they describe the model that is there now


def test_they_stand_still_while_the_run_waits_for_the_retain_set(monkeypatch):
    monkeypatch.setattr(sys.modules["nabla_tau.methods.nabla_tau"], "REPAIRED", -1.0)  # never back
    monkeypatch.setattr(sys.modules["nabla_tau.methods.nabla_tau"], "LEAST_STEPS", 12)
    with Request(network(), **SETS, device="cpu", batch_size=16).prepared() as problem:
        passes = [[value.clone() for value in statistics(problem.model)] for _ in nabla_tau(problem)]
    planned = problem.settings["epochs"]
    assert len(passes) > planned
    before, last, after = passes[planned - 2], passes[planned - 1], passes[-1]
    assert not any(torch.equal(one, other) for one, other in zip(before, last, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(last, after, strict=True))


def test_layers_whose_weights_are_frozen_keep_theirs():
    model = network()
    for parameter in model[:5].parameters():
        parameter.requires_grad_(False)
    result = unlearn(model, **SETS, device="cpu", batch_size=16)
    assert result.settings["following_batch_norms"] == 0
    assert all(map(torch.equal, statistics(result.model), statistics(model)))


def test_one_without_weights_goes_with_the_module_it_is_in():
    frozen = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False)).requires_grad_(False)
    model = nn.Sequential(frozen, nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False)), nn.Linear(6, 3))
    assert changing_batch_norms(model) == [model[1][1]]


def test_trials_of_the_rate_leave_no_trace():
    with Request(network(), **SETS, device="cpu", batch_size=16).prepared() as problem:
        before = [value.clone() for value in statistics(problem.model)]
        settle(problem, unseen_loss=0.01)
        assert all(map(torch.equal, statistics(problem.model), before))


def fitted(in_train_mode):
    """A network that knows its rows; in eval mode its weights move away from its statistics, as they do in a run."""
    model = network().train(in_train_mode)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[:80]), Y[:80]).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("in_train_mode", "following"), [(True, 2), (False, 0)])
def test_they_follow_only_where_that_alone_leaves_the_retain_set_what_it_costs(in_train_mode, following):
    model = fitted(in_train_mode)
    with Request(model, **SETS, device="cpu", batch_size=16).prepared() as problem:
        start = settle(problem, unseen_loss=1.0)
        shift = problem.settings["batch_norm_shift"]
    assert len(start.following) == following
    assert (shift > 0.1) is (following == 0)
    result = unlearn(model, **SETS, device="cpu", batch_size=16)
    assert result.settings["following_batch_norms"] == following
    assert all(map(torch.equal, statistics(result.model), statistics(model))) is (following == 0)


def test_what_following_would_have_cost_is_not_left_to_the_rate(monkeypatch):
    monkeypatch.setattr(trials, "LARGEST_CHANGE", -0.5)  # less than the retain set can cost, but for the shift
    monkeypatch.setattr(trials, "LARGEST_MOVE", float("inf"))
    with Request(fitted(in_train_mode=False), **SETS, device="cpu", batch_size=16).prepared() as problem:
        start = settle(problem, unseen_loss=1.0)
    assert start.learning_rate == trials.LEARNING_RATES[-1]
