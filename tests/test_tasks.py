"""The loss is chosen where there is no doubt, and the doubt is named where there is."""

import warnings

import pytest
import torch
from torch import nn

from nabla_tau import UnlearningWarning, losses, split, unlearn
from nabla_tau.tasks import TaskInDoubt, infer_loss, vocabulary
from tests.conftest import require


def inferred(outputs, target):
    class Model(nn.Module):
        def forward(self, x):
            return outputs

    return infer_loss(Model(), [(torch.zeros(len(target)), target)])


@pytest.mark.parametrize(
    ("outputs", "target", "expected"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), losses.classification),
        (torch.zeros(4, 3), torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]), losses.multi_label),
        (torch.zeros(4, 3), torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]), losses.multi_label),
        (torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]), losses.binary),
        (torch.zeros(4), torch.tensor([False, True, True, True]), losses.binary),
        (torch.zeros(4, 1), torch.tensor([0.3, -2.0, 1.0, 7.0]), losses.regression),
        (torch.zeros(4, 2), torch.tensor([[0.3, 4.0]] * 4), losses.regression),
    ],
)
def test_no_doubt(outputs, target, expected):
    assert inferred(outputs, target) is expected


@pytest.mark.parametrize(
    ("outputs", "target", "choices"),
    [
        (torch.zeros(4, 1), torch.tensor([0.0, 1, 1, 0]), ["binary", "regression"]),
        (torch.zeros(4, 1), torch.tensor([0, 5, 2, 1]), ["regression", "classification"]),
        (torch.zeros(4, 2), torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]]), ["multi_label", "classification"]),
        (torch.zeros(4, 2), torch.tensor([[0.3, 0.7]] * 4), ["multi_label", "regression"]),
        (torch.zeros(4, 6, 3), torch.zeros(4, 6).long(), ["token_classification", "causal_language_model"]),
        (torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8).long(), ["classification", "regression"]),
        (torch.zeros(4, 3), torch.tensor([0.0, 1, 2, 0]), ["classification (with targets.long()"]),
        (torch.zeros(4, 3), torch.tensor([[0], [1], [2], [0]]), ["classification (with targets.long()"]),
        (torch.zeros(4, 3), torch.tensor([0.0, 1, float("nan"), 0]), ["classification (once every sample has"]),
        (torch.zeros(4, 3), ["cat", "dog", "cat", "cow"], ["classification"]),
    ],
)
def test_doubt_names_the_choices(outputs, target, choices):
    with pytest.raises(TaskInDoubt) as caught:
        inferred(outputs, target)
    assert all(f"losses.{choice}" in str(caught.value) for choice in choices)


def test_transformers_heads_decide():
    transformers = require("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertConfig(vocab_size=20, **small)
    gpt = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2)
    t5 = transformers.T5Config(
        vocab_size=20, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    ids = torch.randint(1, 20, (4, 5)) % 2
    labelled = {"input_ids": ids, "labels": ids}
    cases = [
        (transformers.GPT2LMHeadModel(gpt), {"input_ids": ids}, "causal_language_model"),
        (transformers.BertForMaskedLM(bert), labelled, "masked_language_model"),
        (transformers.BertForTokenClassification(bert), labelled, "token_classification"),
        (transformers.T5ForConditionalGeneration(t5), labelled, "sequence_to_sequence"),
        (transformers.BertForSequenceClassification(bert), {**labelled, "labels": ids[:, 0] % 2}, "classification"),
    ]
    for model, batch, expected in cases:
        loss = infer_loss(model.eval(), [batch])
        assert losses.name_of(loss) == expected
        assert loss(model, batch).shape == (4,)
    with pytest.raises(TaskInDoubt, match="mask_token_id"):
        infer_loss(transformers.BertForMaskedLM(bert), [{"input_ids": ids}])


def test_models_of_transformers_that_read_no_tokens_are_unlearned():
    transformers = require("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config)
    rows = {"pixel_values": torch.randn(60, 3, 16, 16), "labels": torch.arange(60) % 3}
    parts = split(rows, fraction=0.2)
    validation = {"pixel_values": torch.randn(40, 3, 16, 16), "labels": torch.arange(40) % 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        done = unlearn(model, forget=parts.forget, retain=parts.retain, validation=validation, device="cpu")
    assert vocabulary(model) is None
    assert done.settings["loss"] == "classification"
    assert done.settings["following_batch_norms"] > 0
