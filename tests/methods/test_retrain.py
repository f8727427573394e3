"""Retraining: the caller's training, on the retain set alone, under the request's seed."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from nabla_tau import methods, split
from tests.methods.cases import case, train, unlearned

SETS = ("forget", "retain", "validation")


def retrained(train, model=None, seed=0, **sets):
    found = case("cnn")
    chosen = {name: sets.get(name, getattr(found, name)) for name in SETS}
    return unlearned(partial(methods.retrain, train=train), model or found.model, **chosen, seed=seed)


def test_it_is_the_training_on_the_retain_set_under_the_seed():
    found = case("cnn")
    expected = train("cnn", TensorDataset(*found.retain), seed=3).state_dict()
    result = retrained(partial(train, "cnn"), seed=3).model
    assert all(torch.equal(value, expected[name]) for name, value in result.state_dict().items())
    for (name, value), original in zip(result.state_dict().items(), found.model.state_dict().values(), strict=True):
        assert not torch.equal(value, original) or "num_batches" in name, name
    assert all(p.requires_grad for p in result.parameters())


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_training_is_given_the_rows_that_are_kept(wrapped):
    whole = TensorDataset(torch.arange(60.0).view(30, 2), torch.arange(30) % 3)
    parts = split(whole, forget=[0, 7])
    seen = []

    def fit(dataset, seed):
        seen.extend(dataset[row][0][0].item() / 2 for row in range(len(dataset)))
        torch.manual_seed(seed)
        return nn.Linear(2, 3)

    retain = DataLoader(parts.retain, batch_size=4, shuffle=True) if wrapped else parts.retain
    validation = torch.randn(9, 2), torch.arange(9) % 3
    retrained(fit, nn.Linear(2, 3), forget=parts.forget, retain=retain, validation=validation)
    assert sorted(seen) == [row for row in range(30) if row not in (0, 7)]
    loader = DataLoader(whole, batch_size=4, sampler=torch.utils.data.SubsetRandomSampler([4, 9, 11]))
    seen.clear()
    retrained(fit, nn.Linear(2, 3), forget=Subset(whole, [0]), retain=loader, validation=validation)
    assert sorted(seen) == [4, 9, 11]


def test_something_else_than_a_new_module_of_the_kind_is_refused():
    found = case("cnn")
    for result, words in (
        (found.model, "got the original itself"),
        ({"weights": 1}, "got dict"),
        (nn.Linear(2, 2), "do not fit"),
    ):
        with pytest.raises(ValueError, match=words):
            retrained(lambda dataset, seed, result=result: result)


def test_the_original_is_left_alone():
    model = copy.deepcopy(case("cnn").model).eval()
    before = copy.deepcopy(model.state_dict())

    def in_place(dataset, seed):
        torch.set_grad_enabled(False)
        for parameter in model.train().requires_grad_(False).parameters():
            parameter.mul_(2)
        return copy.deepcopy(model)

    def sharing(dataset, seed):
        return nn.Sequential(*model)

    def failing(dataset, seed):
        in_place(dataset, seed)
        raise KeyError("disk")

    for training, words in (
        (in_place, "leaves the original as it is"),
        (sharing, "shares weights"),
        (failing, r"train: expected a model from train\(dataset, seed\), got .*KeyError: 'disk'"),
        (lambda dataset: model, r"train: expected .* takes 1 positional argument"),
    ):
        with pytest.raises(ValueError, match=words):
            retrained(training, model)
        assert torch.is_grad_enabled()
        assert not any(module.training for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
