"""Per-sample losses against torch's own reductions and cases small enough to do by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nabla_tau import losses


class Fixed(nn.Module):
    """Gives the same logits whatever it is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, *inputs, **named):
        return self.logits


def test_classification_by_hand():
    model = Fixed(torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]]))
    assert losses.classification(model, (torch.zeros(2), torch.tensor([1, 0]))).tolist() == pytest.approx(
        [math.log(4 / 3), math.log(2)]
    )


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_binary_is_bce_whatever_the_shape_of_either(shape):
    logits, target = torch.randn(shape), torch.tensor([0, 1, 1, 0, 1])
    expected = functional.binary_cross_entropy_with_logits(logits.flatten(), target.float(), reduction="none")
    assert torch.allclose(losses.binary(Fixed(logits), (torch.zeros(5), target)), expected)
    assert torch.allclose(losses.binary(Fixed(logits), (torch.zeros(5), target[:, None].float())), expected)


def test_multi_label_is_the_mean_over_labels():
    logits, target = torch.randn(4, 7), torch.randint(2, (4, 7))
    expected = torch.stack(
        [functional.binary_cross_entropy_with_logits(logits[i], target[i].float()) for i in range(4)]
    )
    assert torch.allclose(losses.multi_label(Fixed(logits), {"x": torch.zeros(4), "labels": target}), expected)


def test_regression_is_the_mean_square_over_outputs():
    logits, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert losses.regression(Fixed(logits), (torch.zeros(2), target)).tolist() == [2.5, 2.0]


def slow_token_mean(logits, labels):
    """Mean over labelled tokens, one token at a time."""
    result = []
    for sample, row in zip(logits, labels, strict=True):
        terms = [-torch.log_softmax(sample[t], 0)[label] for t, label in enumerate(row.tolist()) if label != -100]
        result.append(torch.stack(terms).mean())
    return torch.stack(result)


def test_token_losses_against_a_loop():
    logits = torch.randn(3, 5, 4)
    labels = torch.randint(4, (3, 5))
    labels[0, 3:] = labels[1, 0] = -100
    batch = {"input_ids": torch.zeros(3, 5), "labels": labels}
    assert torch.allclose(losses.token_classification(Fixed(logits), batch), slow_token_mean(logits, labels))
    assert torch.allclose(losses.sequence_to_sequence(Fixed(logits), batch), slow_token_mean(logits, labels))
    shifted = slow_token_mean(logits[:, :-1], labels[:, 1:])
    assert torch.allclose(losses.causal_language_model(Fixed(logits), batch), shifted)


def test_causal_without_labels_predicts_its_input_but_not_the_padding():
    logits, ids = torch.randn(2, 4, 6), torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    labels = ids.masked_fill(mask == 0, -100)
    found = losses.causal_language_model(Fixed(logits), {"input_ids": ids, "attention_mask": mask})
    assert torch.allclose(found, slow_token_mean(logits[:, :-1], labels[:, 1:]))


def test_what_follows_padding_is_not_predicted_from_it():
    logits, ids = torch.randn(1, 5, 6), torch.tensor([[0, 0, 1, 2, 3]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    found = losses.causal_language_model(Fixed(logits), {"input_ids": ids, "attention_mask": mask})
    alone = losses.causal_language_model(Fixed(logits[:, 2:]), {"input_ids": ids[:, 2:], "attention_mask": mask[:, 2:]})
    assert torch.allclose(found, alone)


def test_labelled_says_which_samples_take_part():
    labels = torch.tensor([[5, -100, -100], [-100, 5, -100], [-100, -100, -100]])
    batch = {"input_ids": torch.zeros(3, 3), "labels": labels}
    assert losses.token_classification.labelled(batch).tolist() == [True, True, False]
    assert losses.causal_language_model.labelled(batch).tolist() == [False, True, False]


def test_masks_belong_to_the_sample_not_to_its_batch_or_padding():
    loss = losses.masked_language_model(103, [0, 101, 102])
    long = torch.tensor([[101, *range(1000, 1020), 102]])
    alone, _ = loss.mask(long)
    padded, labels = loss.mask(torch.cat([torch.randint(200, 900, (3, 26)), functional.pad(long, (0, 4))]))
    assert torch.equal(padded[3, :22], alone[0])
    assert int((alone == 103).sum()) == 3  # 15 % of 20
    assert torch.equal(labels[3] != -100, padded[3] == 103)
    assert not (padded[3, 22:] == 103).any()
    other, _ = losses.masked_language_model(103, [0, 101, 102], seed=1).mask(long)
    assert not torch.equal(other, alone)


def test_masked_model_sees_masks_and_pays_for_them_alone():
    seen = []

    class Model(nn.Module):
        def forward(self, input_ids):
            seen.append(input_ids)
            return torch.zeros(*input_ids.shape, 50)

    loss = losses.masked_language_model(49)
    found = loss(Model(), {"input_ids": torch.randint(1, 40, (2, 10))})
    assert found.tolist() == pytest.approx([math.log(50)] * 2)
    assert (seen[0] == 49).sum(1).tolist() == [2, 2]


def test_masks_need_a_token():
    with pytest.raises(ValueError, match="mask_token_id"):
        losses.masked_language_model()(nn.Identity(), {"input_ids": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="share"):
        losses.MaskedLanguageModel("m", mask_token_id=1, share=1.0)


def test_losses_are_float32_under_half_precision_and_stay_float64():
    target = torch.tensor([0, 1])
    for given, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert losses.classification(Fixed(torch.zeros(2, 3, dtype=given)), (target, target)).dtype == expected


def test_batches_of_every_structure():
    class Model(nn.Module):
        def forward(self, a, b=None, **more):
            return a if b is None else a + b

    a, b, y = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 2])
    expected = functional.cross_entropy(a + b, y, reduction="none")
    for batch in ((a, b, y), [a, b, y], {"a": a, "b": b, "labels": y, "user_id": ["x", "y", "z"]}):
        assert torch.allclose(losses.classification(Model(), batch), expected)


def test_outputs_of_every_structure():
    z, y = torch.randn(2, 3), torch.tensor([0, 1])
    expected = functional.cross_entropy(z, y, reduction="none")
    for output in (z, (z, "state"), {"logits": z}):
        assert torch.equal(losses.classification(Fixed(output), (z, y)), expected)
    with pytest.raises(TypeError, match="logits"):
        losses.classification(Fixed({"hidden": z}), (z, y))
