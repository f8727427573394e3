"""Same seed, same bits; nothing of the caller's is changed; batch norm and every dropout are inactive."""

import copy
import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import InvalidRequest, losses, methods, unlearn
from nabla_tau.facts import facts_of
from tests.conftest import require

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")  # models are not trained

CLASSES, TOKENS, LENGTH = 3, 16, 5
FROZEN = {name: method for name, method in methods.METHODS.items() if facts_of(method).mode == "eval"}
FROZEN["ssd"] = partial(methods.ssd, selection=1.0)  # the published 10 selects nothing here


def rows(size):
    return torch.randn(size, LENGTH, 4), torch.randint(CLASSES, (size,))


def tensors():
    torch.manual_seed(0)
    return {"forget": rows(6), "retain": rows(26), "validation": rows(12), "batch_size": 6}


def shuffled_loaders():
    sets = tensors()
    size = sets.pop("batch_size")
    return {name: DataLoader(TensorDataset(*columns), batch_size=size, shuffle=True) for name, columns in sets.items()}


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


def built(build, *arguments):
    torch.manual_seed(0)
    return build(*arguments)


def published(model, sets, **settings):
    return unlearn(model, **sets, **{"method": methods.nabla_tau_published, "device": "cpu", **settings})


def same_bits(model, other):
    states = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in states)


def disturb(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_states(*generators):
    name, keys, *rest = np.random.get_state()
    own = [generator.get_state().tolist() for generator in generators]
    return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist(), own


class Broken(Exception):  # noqa: N818
    pass


def break_off(after):
    """A loss that ends the run in the middle of it."""
    calls = []

    def loss(model, batch):
        calls.append(torch.rand(1) + random.random() + np.random.rand())  # moves all the global states
        if len(calls) == after:
            raise Broken
        return losses.classification(model, batch)

    return loss


@pytest.mark.parametrize("method", FROZEN.values(), ids=FROZEN)
@pytest.mark.parametrize("sets", [tensors, shuffled_loaders])
def test_same_seed_same_bits_whatever_the_global_state(sets, method):
    model, sets = built(mlp), sets()
    results = []
    for state in (1, 2):
        disturb(state)
        results.append(published(model, sets, method=method).model)
    assert same_bits(*results)
    assert not same_bits(results[0], model)


@pytest.mark.parametrize("sets", [tensors, shuffled_loaders])
def test_another_seed_gives_other_weights(sets):
    model, sets = built(mlp), sets()
    first, second = (published(model, sets, seed=seed).model for seed in (0, 1))
    assert not same_bits(first, second)


@pytest.mark.parametrize("breaks_after", [None, 1, *range(20, 40)])  # in checks, in measuring passes, in steps
def test_random_states_are_left_as_found(breaks_after):
    model, sets = built(mlp), shuffled_loaders()
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    sets["forget"].sampler.generator = generators[0]
    sets["retain"] = DataLoader(sets["retain"].dataset, batch_size=6, shuffle=True, generator=generators[1])
    before = random_states(*generators)
    if breaks_after is None:
        published(model, sets, loss=break_off(None))
    else:
        with pytest.raises((Broken, InvalidRequest)):
            published(model, sets, loss=break_off(breaks_after))
    assert random_states(*generators) == before


def looks(model):
    """All that a caller could find changed in a model."""
    hooks = [list(hooks) for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks)]
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "devices": {value.device for value in model.state_dict().values()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": hooks,
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "dropouts": [getattr(module, "dropout", None) for module in model.modules()],
    }


def assert_looks_like(model, expected):
    found = looks(model)
    for name in ("modes", "trainable", "devices", "hooks", "attributes", "dropouts"):
        assert found[name] == expected[name], name
    torch.testing.assert_close(found["values"], expected["values"], rtol=0, atol=0)
    for gradient, before in zip(found["gradients"], expected["gradients"], strict=True):
        assert (gradient is None) == (before is None)
        assert gradient is None or torch.equal(gradient, before)


@pytest.mark.parametrize("breaks_after", [None, 1, 25])
def test_the_model_passed_in_is_untouched(breaks_after):
    model = built(Recurrent, 0.5)
    model.head.eval()
    model.head.bias.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.norm.register_forward_hook(lambda *ignored: None)
    expected = looks(model)
    if breaks_after is None:
        result = published(model, tensors(), loss=break_off(None)).model
        assert not torch.equal(result.head.weight, model.head.weight)
        assert torch.equal(result.head.bias, model.head.bias)  # not trainable
    else:
        with pytest.raises((Broken, InvalidRequest)):
            published(model, tensors(), loss=break_off(breaks_after))
    assert_looks_like(model, expected)


def test_gradients_left_on_the_model_play_no_part():
    model, sets = built(mlp), tensors()
    expected = published(model, sets).model
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert same_bits(published(model, sets).model, expected)


class Modules(nn.Module):
    """Dropout as modules, and batch norm."""

    def __init__(self, p):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Dropout(p), nn.Linear(20, 8), nn.BatchNorm1d(8), nn.AlphaDropout(p), nn.Linear(8, CLASSES)
        )

    def forward(self, inputs):
        return self.layers(inputs)


class Functional(nn.Module):
    """Dropout that no mode of the module reaches."""

    def __init__(self, p):
        super().__init__()
        self.p = p
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, CLASSES)

    def forward(self, inputs):
        hidden = functional.dropout(self.first(inputs), self.p)
        hidden = functional.dropout1d(torch.dropout(hidden, p=self.p, train=True), self.p)
        return self.second(functional.alpha_dropout(hidden.mean(1), self.p, training=True))


class Attention(nn.Module):
    """Dropout inside attention, by position and by keyword."""

    def __init__(self, p):
        super().__init__()
        self.p = p
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, CLASSES)

    def forward(self, inputs):
        hidden = self.first(inputs)
        hidden = functional.scaled_dot_product_attention(hidden, hidden, hidden, dropout_p=self.p)
        hidden = functional.scaled_dot_product_attention(hidden, hidden, hidden, None, self.p)
        return self.second(hidden.mean(1))


class FunctionalAttention(nn.Module):
    """Dropout inside a function of torch that is active by default."""

    def __init__(self, p):
        super().__init__()
        self.p = p
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, CLASSES)
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, inputs):
        hidden = self.first(inputs).transpose(0, 1)
        inner, outer = self.attention, self.attention.out_proj
        weights = inner.in_proj_weight, inner.in_proj_bias, None, None, False, self.p, outer.weight, outer.bias
        return self.second(functional.multi_head_attention_forward(hidden, hidden, hidden, 8, 2, *weights)[0].mean(0))


class Recomputed(nn.Module):
    """Dropout that runs a second time, within the backward pass."""

    def __init__(self, p):
        super().__init__()
        self.p = p
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def block(self, inputs):
        return functional.dropout(self.second(functional.dropout(inputs, self.p)), self.p)

    def forward(self, inputs):
        hidden = checkpoint(self.block, self.first(inputs.mean(1)), use_reentrant=True)
        return self.third(checkpoint(self.block, hidden, use_reentrant=False))


class Recurrent(nn.Module):
    """Dropout between the layers of an LSTM."""

    def __init__(self, p):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, dropout=p, batch_first=True)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, inputs):
        return self.head(self.norm(self.lstm(inputs)[0][:, -1]))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # checkpointing, where only the loss counts
@pytest.mark.parametrize("build", [Modules, Functional, Attention, FunctionalAttention, Recomputed, Recurrent])
def test_dropout_is_inactive(build):
    sets = tensors()
    with_dropout, without = (published(built(build, p), sets) for p in (0.5, 0.0))
    assert same_bits(with_dropout.model, without.model)
    assert not same_bits(with_dropout.model, built(build, 0.5))
    assert with_dropout.epochs[-1].target_loss == without.epochs[-1].target_loss


@pytest.mark.parametrize("method", FROZEN.values(), ids=FROZEN)
def test_modes_during_the_run_and_after(method):
    model = built(Recurrent, 0.5)
    model.norm.eval()
    model.norm.running_mean.uniform_()
    seen = set()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.add((name, module.training, getattr(module, "dropout", None)))
        )
    model(torch.randn(2, LENGTH, 4))
    assert seen == {("", True, None), ("lstm", True, 0.5), ("norm", False, None), ("head", True, None)}
    seen.clear()
    result = published(model, tensors(), method=method).model
    # kernels for recurrent layers on a GPU have no backward pass in eval mode
    assert seen == {("", False, None), ("lstm", True, 0.0), ("norm", False, None), ("head", False, None)}
    assert [module.training for module in result.modules()] == [True, True, False, True]
    assert result.lstm.dropout == 0.5
    follows = method is methods.nabla_tau
    for name, moved in {"running_mean": follows, "running_var": follows, "num_batches_tracked": False}.items():
        assert torch.equal(getattr(result.norm, name), getattr(model.norm, name)) is not moved, name


def bert(transformers):
    config = transformers.BertConfig(
        vocab_size=TOKENS,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
        num_labels=CLASSES,
    )
    return transformers.BertForSequenceClassification(config), ".attention.self"


def bart(transformers):
    """Its layers call functional dropout in their own mode, and drop whole layers in training."""
    config = transformers.BartConfig(
        vocab_size=TOKENS,
        d_model=8,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=8,
        dropout=0.5,
        attention_dropout=0.5,
        activation_dropout=0.5,
        encoder_layerdrop=0.5,
        decoder_layerdrop=0.5,
        num_labels=CLASSES,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return transformers.BartForSequenceClassification(config), ".self_attn"


def tokens(size):
    ids = torch.randint(3, TOKENS, (size, LENGTH))
    ids[:, -1] = 2
    return {"input_ids": ids, "labels": torch.randint(CLASSES, (size,))}


@pytest.mark.parametrize("build", [bert, bart])
def test_gradient_checkpointing_recomputes_and_changes_nothing(build):
    transformers = require("transformers")
    torch.manual_seed(0)
    plain, block = build(transformers)
    sets = {"forget": tokens(6), "retain": tokens(26), "validation": tokens(12), "batch_size": 6}
    checkpointed = copy.deepcopy(plain)
    enable = getattr(checkpointed, "activation_checkpointing_enable", None)  # the later name of the same
    (enable or checkpointed.gradient_checkpointing_enable)()
    results, forwards = [], []
    for model in (plain, checkpointed):
        calls = Counter()
        for name, module in model.named_modules():
            if name.endswith(block):
                module.register_forward_hook(lambda *ignored, calls=calls, name=name: calls.update([name]))
        results.append(published(model, sets, loss=losses.classification))
        forwards.append(calls)
    assert same_bits(results[0].model, results[1].model)
    assert not same_bits(results[0].model, plain)
    backward_passes = results[0].settings["steps"] + sum(epoch.ascent_weight > 0 for epoch in results[0].epochs)
    assert len(results[0].epochs) == results[0].settings["steps"]  # one forget batch
    assert len(forwards[0]) == 2 * (1 if build is bert else 2)
    assert forwards[1] == {name: count + backward_passes for name, count in forwards[0].items()}
    before, after = looks(checkpointed), looks(results[1].model)
    assert {name: after[name] for name in ("modes", "attributes")} == {
        name: before[name] for name in ("modes", "attributes")
    }
