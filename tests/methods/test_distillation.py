"""The divergence by its definition: direction, temperature and its square, labels and tokens."""

import pytest
import torch

from nabla_tau import losses
from nabla_tau.distillation import divergence, error, frozen_copy, studied, untrained_copy
from nabla_tau.unlearning import Request
from tests.methods.cases import case

STUDENT, TEACHER = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.9, 0.1]]).log()
LABEL = (None, torch.tensor([0]))


def test_direction_is_from_teacher_to_student():
    forward = 0.9 * torch.tensor(0.9 / 0.5).log() + 0.1 * torch.tensor(0.1 / 0.5).log()  # KL(teacher ‖ student)
    backward = 0.5 * torch.tensor(0.5 / 0.9).log() + 0.5 * torch.tensor(0.5 / 0.1).log()
    assert float(divergence(losses.classification, LABEL, STUDENT, TEACHER)) == pytest.approx(float(forward))
    assert float(forward) != pytest.approx(float(backward), rel=0.1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_and_its_square(temperature):
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    p, q = (torch.softmax(z / temperature, 1) for z in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(1)
    batch = (None, torch.zeros(5, dtype=torch.long))
    found = divergence(losses.classification, batch, student, teacher, temperature)
    torch.testing.assert_close(found, expected)
    # the factor keeps gradients of one size: hot or cold, they stay within a small multiple of each other
    student.requires_grad_()
    divergence(losses.classification, batch, student, teacher, 100.0).sum().backward()
    centred = (student - teacher).detach()
    centred = centred - centred.mean(1, keepdim=True)
    torch.testing.assert_close(student.grad, centred / 3, rtol=0.1, atol=0.02)  # the limit T → ∞


def test_labels_are_yes_or_no_each():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(1)
    found = divergence(losses.multi_label, (None, torch.zeros(4, 3)), student, teacher)
    torch.testing.assert_close(found, expected)
    alone = divergence(losses.binary, (None, torch.zeros(4)), student[:, 0], teacher[:, :1])
    first = divergence(losses.multi_label, (None, torch.zeros(4, 1)), student[:, :1], teacher[:, :1])
    torch.testing.assert_close(alone, first)


@pytest.mark.parametrize("loss", [losses.token_classification, losses.causal_language_model])
def test_tokens_without_a_label_do_not_count(loss):
    student, teacher = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    labels = torch.tensor([[1, 2, -100, 3], [-100, 4, -100, -100]])
    p, q = (torch.softmax(z, 2) for z in (teacher, student))
    each = (p * (p / q).log()).sum(2)
    wrong = (student.argmax(2)[:, : 3 if loss.shifted else 4] != (labels[:, 1:] if loss.shifted else labels)).float()
    counted = [[0, 2], [0]] if loss.shifted else [[0, 1, 3], [1]]
    expected = torch.stack([each[row, places].mean() for row, places in enumerate(counted)])
    expected_error = torch.stack([wrong[row, places].mean() for row, places in enumerate(counted)])
    torch.testing.assert_close(divergence(loss, (None, labels), student, teacher), expected)
    torch.testing.assert_close(error(loss, (None, labels), student), expected_error)


def test_masked_tokens_are_the_ones_that_the_loss_draws():
    loss = losses.masked_language_model(9, [0])

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(10, 10)

        def forward(self, input_ids):
            return self.embed(input_ids)

    def rows(size):
        return {"input_ids": torch.randint(1, 9, (size, 6))}

    request = Request(Model(), rows(3), rows(4), rows(5), loss=loss, device="cpu")
    with request.prepared() as problem:
        batch = next(problem.in_order(problem.forget))
        labelled, logits, values = studied(problem, batch)
        assert torch.equal(values, problem.losses(batch))
        assert bool((labelled["input_ids"] == 9).any())
        assert divergence(loss, labelled, logits, logits).abs().max() < 1e-6


def test_errors_by_hand():
    logits = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    assert error(losses.classification, (None, torch.tensor([0, 1])), logits).tolist() == [0, 1]
    flags = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert error(losses.multi_label, (None, flags), logits).tolist() == [0, 0.5]


@pytest.mark.parametrize("domain", ["cnn", "transformer"])
def test_an_incompetent_teacher_knows_nothing(domain):
    found = case(domain)
    with Request(found.model, found.forget, found.retain, found.validation, device="cpu").prepared() as problem:
        state = torch.get_rng_state()
        good, bad = frozen_copy(problem), untrained_copy(problem)
        assert torch.equal(torch.get_rng_state(), state)
        x, y = found.retain
        accuracies = [float((model(x).argmax(1) == y).float().mean()) for model in (good, bad)]
        assert accuracies[0] > 0.95 > 0.75 > accuracies[1]
        for name, learned in problem.model.named_parameters():
            assert learned.std() == 0 or not torch.equal(bad.get_parameter(name), learned), name
        assert not any(module.training for module in [*good.modules(), *bad.modules()])
        assert not any(parameter.requires_grad for parameter in [*good.parameters(), *bad.parameters()])
