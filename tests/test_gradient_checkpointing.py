"""What a model offers is switched on for the run: the same bits from fewer activations, and switched off again."""

import copy
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

from nabla_tau import InvalidRequest, losses, methods
from nabla_tau.modes import gradient_checkpointing, training_modes, unlearning_modes
from nabla_tau.planning import plan
from nabla_tau.problem import NonFiniteLoss
from nabla_tau.unlearning import Request
from tests.conftest import require
from tests.test_reproducible import assert_looks_like, bart, bert, looks, published, same_bits, tokens

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")  # models are not trained


def build(kind):
    torch.manual_seed(0)
    model, block = kind(require("transformers"))
    return model, {"forget": tokens(6), "retain": tokens(26), "validation": tokens(12), "batch_size": 6}, block


def counted(model, block):
    """How often each block runs forward, in copies of the model too."""
    calls = Counter()
    for name, module in model.named_modules():
        if name.endswith(block):
            module.register_forward_hook(lambda *ignored, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize("kind", [bert, bart])
@pytest.mark.parametrize("in_place", [False, True])
def test_blocks_are_recomputed_though_the_model_is_in_eval_mode(kind, in_place):
    plain, sets, block = build(kind)
    recomputed = copy.deepcopy(plain)
    calls = [counted(model, block) for model in (plain, recomputed)]
    found = looks(recomputed)
    first = published(plain, sets, loss=losses.classification)
    second = published(recomputed, sets, loss=losses.classification, gradient_checkpointing=True, in_place=in_place)
    assert second.settings["gradient_checkpointing"]
    assert same_bits(first.model, second.model)
    assert not same_bits(first.model, plain)
    backward_passes = first.settings["steps"] + sum(epoch.ascent_weight > 0 for epoch in first.epochs)
    assert calls[1] == {name: count + backward_passes for name, count in calls[0].items()}
    after = looks(second.model)
    for name in ("modes", "attributes", "hooks", "trainable"):
        assert after[name] == found[name], name
    assert not any(getattr(module, "gradient_checkpointing", False) for module in second.model.modules())


def test_fewer_activations_are_planned_for():
    model, sets, _ = build(bert)
    kept, recomputed = (
        plan(Request(model, **sets, loss=losses.classification, device="cpu", gradient_checkpointing=on))
        for on in (False, True)
    )
    sizes = [found.settings["activation_bytes_per_sample"] for found in (kept, recomputed)]
    assert sizes[1] < 0.75 * sizes[0]
    assert recomputed.step_bytes < kept.step_bytes


def test_in_train_mode_dropout_draws_the_same_again():
    model, sets, block = build(bert)
    calls = counted(model, block)
    method = partial(methods.neggrad, epochs=2, learning_rate=0.1)
    results, counts = [], []
    for on in (False, True):
        calls.clear()
        results.append(
            published(model, sets, loss=losses.classification, method=method, gradient_checkpointing=on).model
        )
        counts.append(calls.total())
    assert same_bits(*results)
    assert counts[1] > counts[0]
    with gradient_checkpointing(changed := copy.deepcopy(model)):
        blocks = [module for module in changed.modules() if getattr(module, "gradient_checkpointing", False)]
        own = [block._gradient_checkpointing_func for block in blocks]
        with unlearning_modes(changed):
            off = [block._gradient_checkpointing_func for block in blocks]
            with training_modes(changed):  # dropout that draws has to be free of what switches it off
                assert [block._gradient_checkpointing_func for block in blocks] == own
            assert [block._gradient_checkpointing_func for block in blocks] == off
    assert blocks
    assert not set(own) & set(off)


def test_what_was_switched_on_stays_as_it_was():
    model, sets, _ = build(bert)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    functions = [getattr(module, "_gradient_checkpointing_func", None) for module in model.modules()]
    result = published(model, sets, loss=losses.classification, gradient_checkpointing=True, in_place=True).model
    assert any(getattr(module, "gradient_checkpointing", False) for module in result.modules())
    assert [getattr(module, "_gradient_checkpointing_func", None) for module in result.modules()] == functions


def test_a_failure_leaves_the_model_as_it_was():
    model, sets, _ = build(bert)
    found, calls = looks(model), []

    def breaking(model, batch):
        calls.append(len(batch["labels"]))
        values = losses.classification(model, batch)
        return values * float("nan") if len(calls) > 15 else values

    with pytest.raises(NonFiniteLoss):
        published(model, sets, loss=breaking, gradient_checkpointing=True, in_place=True)
    found["gradients"] = [None] * len(found["gradients"])
    assert_looks_like(model, found)


class Older(nn.Linear):
    """A model that takes no arguments, and says nothing about how to switch it off."""

    gradient_checkpointing = False
    supports_gradient_checkpointing = True

    def gradient_checkpointing_enable(self):
        self.gradient_checkpointing = True


@pytest.mark.parametrize(
    ("model", "asked", "told"),
    [
        (nn.Linear(6, 2), True, "got Linear with no gradient_checkpointing_enable()"),
        (Older(6, 2), "on", "expected True or False, got 'on'"),
    ],
)
def test_a_model_that_offers_none_is_refused(model, asked, told):
    x, y = torch.eye(6), torch.arange(6) % 2
    sets = {"forget": (x[:2], y[:2]), "retain": (x[2:4], y[2:4]), "validation": (x[4:], y[4:])}
    with pytest.raises(InvalidRequest, match="gradient_checkpointing: ") as refusal:
        published(model, sets, gradient_checkpointing=asked)
    assert told in str(refusal.value)


def test_a_model_that_says_it_offers_none_is_refused():
    model = Older(6, 2)
    assert Request(model, None, None, None, gradient_checkpointing=True).gradient_checkpointing_problems() == []
    model.supports_gradient_checkpointing = False
    (problem,) = Request(model, None, None, None, gradient_checkpointing=True).gradient_checkpointing_problems()
    assert "got Older with supports_gradient_checkpointing=False" in problem


def test_a_model_of_ones_own_is_put_into_the_mode_it_needs():
    model = Older(6, 2).eval()
    with gradient_checkpointing(model), unlearning_modes(model):
        assert model.gradient_checkpointing
        assert model.training
    assert not model.gradient_checkpointing
    assert "gradient_checkpointing" not in vars(model)
    assert not model.training
