"""What a student is pulled to or pushed from: a teacher's distribution, with temperature."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nabla_tau.batches import Batch, target_of
from nabla_tau.losses import IGNORED, MaskedLanguageModel, PerSampleLoss, TokenLoss, binary, logits_of, multi_label
from nabla_tau.modes import WithoutDropout
from nabla_tau.problem import Problem
from nabla_tau.randomness import undisturbed

DISTRIBUTIONS = (
    "classification",
    "binary",
    "multi_label",
    "token_classification",
    "causal_language_model",
    "masked_language_model",
    "sequence_to_sequence",
)
"""Losses whose logits are a distribution."""


def divergence(loss: PerSampleLoss, batch: Batch, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence of the student from the teacher, per sample.

        d = T² · KL(softmax(z_teacher / T) ‖ softmax(z_student / T))

    Of yes and no for each of L labels, averaged over them; of each labelled token, averaged over those of a sample.

    Args:
        loss: says what the logits mean, one of `DISTRIBUTIONS`.
        batch: of N samples; its labels say which tokens count.
        student: logits, shape (N, ...).
        teacher: logits, of the same shape.
        temperature: T > 0.

    Returns:
        Nats times T², shape (N,).

    Reference:
        Hinton, Vinyals, Dean, arXiv:1503.02531 (2015), section 2, for T and T².

    Example:
        >>> from nabla_tau.losses import classification
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]).log()
        >>> divergence(classification, (None, torch.tensor([0])), student, teacher)  # ¾ log(¾ / ½) + ¼ log(¼ / ½)
        tensor([0.1308])
    """
    if loss in (binary, multi_label):
        flat = (logits.reshape(len(logits), -1) for logits in (student, teacher))
        own, other = (functional.logsigmoid(torch.stack([z, -z], -1) / temperature) for z in flat)
    else:
        own, other = (functional.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    places = temperature**2 * functional.kl_div(own, other, reduction="none", log_target=True).sum(-1)
    if isinstance(loss, TokenLoss):
        return _token_mean(*_aligned(loss, batch, places))
    return places.mean(1) if places.ndim > 1 else places


def error(loss: PerSampleLoss, batch: Batch, logits: Tensor) -> Tensor:
    """Share of a sample's predictions that are wrong: of one, of L labels, or of its labelled tokens.

    Args:
        loss: says what the logits mean, one of `DISTRIBUTIONS`.
        batch: of N samples with labels.
        logits: shape (N, ...).

    Returns:
        In [0, 1], shape (N,).

    Example:
        >>> from nabla_tau.losses import classification
        >>> error(classification, (None, torch.tensor([0, 1])), torch.tensor([[2.0, 1.0], [2.0, 1.0]]))
        tensor([0., 1.])
    """
    if isinstance(loss, TokenLoss):
        predicted, labels = _aligned(loss, batch, logits.argmax(-1))
        return _token_mean((predicted != labels).float(), labels)
    target: Tensor = target_of(batch)
    if loss in (binary, multi_label):
        flat = logits.reshape(len(logits), -1)
        return ((flat > 0) != (target.reshape(flat.shape) > 0.5)).float().mean(1)
    return (logits.argmax(-1) != target).float()


def frozen_copy(problem: Problem) -> nn.Module:
    """The model as it is now, in eval mode and never to change: a teacher.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     teacher = frozen_copy(problem)
        >>> teacher is problem.model, teacher.weight.requires_grad, bool((teacher.weight == problem.model.weight).all())
        (False, False, True)
    """
    return copy.deepcopy(problem.model).eval().requires_grad_(False)


def untrained_copy(problem: Problem) -> nn.Module:
    """The model with all it learned drawn anew: a teacher that knows nothing.

    Layers are drawn as torch draws them (`reset_parameters`). A tensor that this leaves as it was, for instance a
    parameter of the user's own module, is drawn from the normal distribution with its mean and standard deviation.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     teacher = untrained_copy(problem)
        >>> bool((teacher.weight == problem.model.weight).any())
        False
    """
    teacher = frozen_copy(problem)
    with undisturbed(), torch.no_grad():
        torch.manual_seed(int(torch.randint(2**62, (), generator=problem.generator(5))))
        for module in teacher.modules():
            for name in ("reset_parameters", "_reset_parameters"):
                if callable(reset := getattr(module, name, None)):
                    reset()
        for drawn, learned in zip(teacher.parameters(), problem.model.parameters(), strict=True):
            if drawn.is_floating_point() and drawn.numel() > 1 and torch.equal(drawn, learned):
                drawn.normal_(float(learned.mean()), float(learned.std()))
    return teacher


def answers(problem: Problem, teacher: nn.Module, batch: Batch) -> Tensor:
    """A teacher's logits, shape (n, ...), without gradient; nothing in it moves.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     answers(problem, frozen_copy(problem), (x[:2], y[:2])).shape
        torch.Size([2, 2])
    """
    with torch.no_grad(), problem.engine.autocast(), WithoutDropout():
        return logits_of(teacher, batch)


def studied(problem: Problem, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
    """One forward pass of the student, read twice.

    Args:
        problem: the request, whose loss is one of `DISTRIBUTIONS`.
        batch: this process's share, with n samples.

    Returns:
        The batch (with the labels of its masks, where those are drawn), logits of shape (n, ...), and losses ℓ of shape
        (n,) computed from them.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     _, logits, losses = studied(problem, (x[:2], y[:2]))
        ...     bool((losses == problem.losses((x[:2], y[:2]))).all())
        True
    """
    if isinstance(problem.loss, MaskedLanguageModel) and target_of(batch) is None:
        masked, labels = problem.loss.mask(batch["input_ids"])
        batch = {**batch, "input_ids": masked, "labels": labels}
    logits = problem.logits(batch)
    return batch, logits, problem.loss(_Answered(logits), batch)


class _Answered(nn.Module):
    """A model that has already answered."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return self.logits


def _aligned(loss: TokenLoss, batch: Batch, places: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of each position, and the label that it predicts: both (N, T), or (N, T − 1) if shifted."""
    labels = loss.labels(batch)
    return (places[:, :-1], labels[:, 1:]) if loss.shifted else (places, labels)


def _token_mean(places: Tensor, labels: Tensor) -> Tensor:
    counted = labels.ne(IGNORED)
    return (places * counted).sum(1) / counted.sum(1).clamp(min=1)
