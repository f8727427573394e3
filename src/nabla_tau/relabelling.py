"""Wrong labels for the samples to be forgotten, drawn from a sample's own content.

A draw depends on seed, round and content of a sample alone: the same in every batch, order and process, with nothing to
be kept per row.
"""

import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch, leaves, rows_in, take_rows, target_of, with_target
from nabla_tau.errors import NotApplicable
from nabla_tau.losses import IGNORED, PerSampleLoss, TokenLoss, binary, logits_in, multi_label
from nabla_tau.problem import Problem

RELABELLED = ("classification", "binary", "multi_label", "token_classification")
"""Losses whose labels can be replaced by wrong ones."""


def wrong_labels(loss: PerSampleLoss, batch: Batch, classes: int, key: int) -> Tensor:
    """A label per sample, uniform over all labels but its own.

        y' ~ Uniform(Y ∖ {y}),   Y = {0, …, C − 1}, {0, 1}, {0, 1}^L, or C classes for each labelled token

    Args:
        loss: one of `RELABELLED`.
        batch: of N samples.
        classes: C; of no account where labels are 0 or 1.
        key: another key, another draw.

    Returns:
        Labels of the shape and type of the batch's own.

    Example:
        >>> from nabla_tau.losses import classification
        >>> batch = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 2, 1])
        >>> labels = wrong_labels(classification, batch, classes=3, key=0)
        >>> labels.shape, bool((labels != batch[1]).all()), int(labels.min()) >= 0, int(labels.max()) <= 2
        (torch.Size([4]), True, True, True)
        >>> flags = torch.zeros(4, 1)
        >>> wrong_labels(binary, (batch[0], flags), classes=1, key=0).flatten()
        tensor([1., 1., 1., 1.])
    """
    target: Tensor = target_of(batch)
    state = _digest(batch, key)
    if loss in (binary, multi_label):
        flags = target.reshape(len(target), -1)
        drawn = _flags(state, flags)
        while (same := (drawn == flags).all(1)).any():
            state = _mixed(state)
            drawn[same] = _flags(state[same], flags)
        return drawn.reshape(target.shape)
    if target.ndim > 1:  # tokens
        state = state[:, None] + torch.arange(target.shape[1], device=target.device)
    labels = (target + 1 + _below(state, classes - 1)) % classes
    return torch.where(target == IGNORED, target, labels.to(target.dtype)) if isinstance(loss, TokenLoss) else labels


class Relabelling:
    """Gives batches of one request wrong labels; `round` makes the draws of one pass differ from another's.

    Args:
        problem: the request.

    Raises:
        NotApplicable: if the model tells fewer than two classes apart.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     Relabelling(problem)((x[:2], y[:2]))[1]  # two classes: the other one
        tensor([1, 0])
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.round = 0
        self.classes = 1
        if problem.loss not in (binary, multi_label):
            self.classes = _classes(problem)
            if self.classes < 2:
                raise NotApplicable(
                    f"Expected a model with two outputs or more, got {self.classes}: there is no wrong label to give; "
                    "pass loss=losses.binary for a model with one output."
                )

    def __call__(self, batch: Batch | None) -> Batch | None:
        """The batch with wrong labels; None for an empty share."""
        if batch is None:
            return None
        key = self.problem.seed * 1_000_003 + self.round
        return with_target(batch, wrong_labels(self.problem.loss, batch, self.classes, key))


def _flags(state: Tensor, like: Tensor) -> Tensor:
    """Zeros and ones, a row per state."""
    places = torch.arange(like.shape[1], device=like.device)
    return (_mixed(state[:, None] + places) & 1).to(like.dtype)


def _classes(problem: Problem) -> int:
    """C, from what the model says of the first sample of the validation set."""
    found: list[int] = []

    def look(model: nn.Module, batch: Batch) -> Tensor:
        handle = model.register_forward_hook(lambda *call: found.append(logits_in(call[-1]).shape[-1]))
        try:
            return problem.loss(model, batch)
        finally:
            handle.remove()

    placed = (problem.place(batch) for batch in problem.validation.ordered())
    batch = take_rows(next(batch for batch in placed if batch is not None), torch.arange(1))
    with torch.no_grad(), problem.engine.autocast(), problem.around_loss():
        look(problem.model, batch)
    return found[0]


def _digest(batch: Batch, key: int) -> Tensor:
    """A number per sample, int64 of shape (N,): a sum of its entries' bits, each mixed with its place."""
    size = rows_in(batch)
    columns = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size]
    state = torch.full((size,), key, dtype=torch.int64, device=columns[0].device)
    for column in columns:
        bits = _bits(column.reshape(size, -1))
        places = torch.arange(bits.shape[1], device=bits.device)
        state = _mixed(state + (bits * (2 * _mixed(places) + 1)).sum(1))
    return state


def _bits(column: Tensor) -> Tensor:
    """Entries as whole numbers, bit for bit where they are floating-point."""
    if not column.is_floating_point():
        return column.to(torch.int64)
    return column.to(torch.float32).contiguous().view(torch.int32).to(torch.int64)


def _mixed(values: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the result depends on every bit given."""
    values = values + _signed(0x9E3779B97F4A7C15)
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _below(state: Tensor, count: int) -> Tensor:
    return _shifted(_mixed(state), 1) % count


def _shifted(values: Tensor, places: int) -> Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
