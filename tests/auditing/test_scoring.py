"""One pass, in the order of the rows, whatever the batch size, the loader's order or the structure of the batches."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nabla_tau import losses
from nabla_tau.auditing.inputs import input_features
from nabla_tau.auditing.scoring import rows_change, score
from nabla_tau.engine import start_engine
from nabla_tau.sets import open_set
from tests.conftest import clusters, require

ENGINE = start_engine("cpu")


def scored(model, data, loss=losses.classification, batch_size=256):
    return score(model, loss, open_set(data, batch_size), ENGINE)


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def test_batch_size_and_order_change_nothing():
    model, data = network(), clusters(50, 1)
    whole = scored(model, data)
    loader = DataLoader(TensorDataset(*data), batch_size=9, shuffle=True)
    for other in (scored(model, data, batch_size=7), scored(model, loader)):
        assert other.bank.keys() == whole.bank.keys()
        for name in whole.bank:
            assert other.bank[name] == pytest.approx(whole.bank[name], rel=1e-5, abs=1e-7)
        assert (other.targets == whole.targets).all()


def test_losses_are_those_of_the_task_in_eval_mode_and_the_model_is_left_as_found():
    model, data = network().train(), clusters(50, 1)
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    scores = scored(model, data)
    assert len(calls) == 1  # one forward pass per batch
    assert all(module.training for module in model.modules())
    assert len(model[0]._forward_hooks) == 1
    assert len(model._forward_hooks) == len(model[-1]._forward_hooks) == 0
    expected = losses.classification(model.eval(), data)
    assert scores.losses == pytest.approx(expected.detach().numpy(), rel=1e-6)
    assert set(scores.bank) == {
        "loss", "confidence", "margin", "entropy", "modified_entropy", "correct", "gradient_norm",
    }  # fmt: skip


def test_gradient_norm_only_where_a_linear_layer_gives_the_outputs():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            return 2 * self.body(x)

    assert "gradient_norm" not in scored(Scaled(), clusters(20, 1)).bank


def test_a_loss_of_ones_own_brings_its_loss_alone():
    def classification(model, batch):  # the name of a ready-made loss makes it none
        return model(batch[0]).square().mean(1)

    scores = scored(network(), clusters(20, 1), classification)
    assert list(scores.bank) == ["loss"]
    assert scores.predictions.shape == (20, 0)


def test_samples_without_labels_are_left_out_and_positions_kept():
    transformers = require("transformers")
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(20, (5, 6))
    labels = ids.clone()
    labels[[0, 3]] = -100
    scores = scored(model, {"input_ids": ids, "labels": labels}, losses.causal_language_model, batch_size=2)
    assert scores.positions.tolist() == [1, 2, 4]
    assert set(scores.bank) == {"loss", "confidence", "margin", "entropy", "correct"}


def test_not_finite():
    inputs, targets = clusters(20, 1)
    inputs[7] = torch.nan
    with pytest.raises(ValueError, match=r"1 samples in the score 'loss' \(places 7\)"):
        scored(network(), (inputs, targets), batch_size=4)


class Augmented(Dataset):
    """Training samples as they are often given: disturbed, and each time anew."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return self.inputs[row] + 0.1 * torch.randn(6), self.targets[row]


@pytest.mark.parametrize("wrapped", [lambda data: data, lambda data: DataLoader(data, batch_size=4, shuffle=True)])
def test_rows_that_change_are_noticed(wrapped):
    data = clusters(20, 1)
    assert rows_change(open_set(wrapped(Augmented(*data)), 4))
    assert not rows_change(open_set(wrapped(TensorDataset(*data)), 4))
    assert not rows_change(open_set(wrapped([({"text": "a", "x": inputs}, 1.5) for inputs in data[0]]), 4))


def test_sure_labels_keep_their_odds():
    """In single precision, 1 − p of a logit of 18 would be 0; the entropy over labels needs it."""
    logits, targets = torch.tensor([[18.0, 14.0, -3.0]] * 10), torch.ones(10, 3)
    p = scored(nn.Identity(), (logits, targets), losses.multi_label).predictions
    assert p / (1 - p) == pytest.approx(logits.double().exp().numpy())


def test_what_the_inputs_show_takes_any_inputs():
    ids, mask = torch.randint(30, (8, 5)), torch.ones(8, 5)

    class Reader(nn.Module):
        def forward(self, input_ids, attention_mask=None, pixel_values=None):
            return input_ids

    def features(**columns):
        return input_features(Reader(), open_set({**columns, "labels": torch.zeros(8)}, 4))

    plain = features(input_ids=ids, attention_mask=mask)[0]
    for other in (torch.ones(8, 5, 5), torch.ones(8, 7)):
        assert (features(input_ids=ids, attention_mask=other)[0] == plain).all()
    with_image = features(input_ids=ids, attention_mask=mask, pixel_values=torch.randn(8, 3, 2, 2))[0]
    assert with_image.shape[1] > plain.shape[1]
    bad = torch.randn(8, 5)
    bad[2, 1], bad[3, 0] = torch.nan, torch.inf
    found = features(input_ids=bad)[0]
    assert np.isfinite(found).all()
    assert found.shape == (8, 5)
    sets = (open_set((torch.zeros(8, width), torch.zeros(8)), 4) for width in (5, 6))
    assert input_features(nn.Identity(), *sets) is None
    assert not rows_change(open_set((bad, torch.zeros(8)), 4))
