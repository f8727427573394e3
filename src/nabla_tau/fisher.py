"""Which parameters a set depends on: the diagonal of the Fisher information, sample by sample."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from nabla_tau.batches import Batch, leaves, map_leaves, rows_in, take_rows
from nabla_tau.losses import PerSampleLoss
from nabla_tau.problem import Problem, finite
from nabla_tau.sets import Source

# Per-sample gradients are held for so many samples at once that they take a GiB in float32.
NUMBERS_AT_ONCE = 2**28


def fisher(problem: Problem, source: Source) -> list[Tensor]:
    """Diagonal of the empirical Fisher information over a set.

        F_i = 1/N Σ_n (∂ℓ(θ; x_n, y_n) / ∂θ_i)²

    The square is of each sample's gradient; that of a batch's mean gradient is another, smaller thing. Each batch read
    counts as a step.

    Args:
        problem: model, loss and processes; in eval mode.
        source: the set.

    Returns:
        A tensor per trainable parameter, of its shape; squared units of ℓ over those of θ.

    Raises:
        NonFiniteLoss: if a gradient is not finite.

    Reference:
        Foster et al., Selective Synaptic Dampening, arXiv:2308.07707 (2023), the importance []_D.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> x, y = torch.tensor([[0.5], [-0.5]]), torch.full((2, 1), 2.0)  # gradients −2 and 2: their mean is 0
        >>> with Request(model, (x, y), (2 * x, y), (3 * x, y), device="cpu").prepared() as problem:
        ...     fisher(problem, problem.forget)
        [tensor([[4.]])]
    """
    parameters = problem.trainable()
    sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    size = torch.zeros((), dtype=problem.engine.sum_type, device=problem.engine.device)
    squares = PerSampleSquares(problem.model, problem.loss)
    for batch in problem.in_order(source):
        if batch is not None:
            with problem.engine.autocast(), problem.around_loss():
                for total, square in zip(sums, squares(batch), strict=True):
                    total += square
            size += rows_in(batch)
        problem.step_done()
    problem.settings["per_sample_gradients"] = squares.how
    count = problem.engine.sum(size).clamp(min=1)
    means = [problem.engine.sum(total) / count.to(total.dtype) for total in sums]
    for mean in means:
        finite(float(mean.sum()), "the squared gradients of a set")
    return means


class PerSampleSquares:
    """Σ_n (∂ℓ_n/∂θ)² over the samples of a batch: all at once where the model can be vectorised, else one by one.

    Args:
        model: in eval mode.
        loss: per-sample loss.

    Attributes:
        how: "vectorised" or "one by one".

    Example:
        >>> from nabla_tau.losses import regression
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> squares = PerSampleSquares(model, regression)
        >>> squares((torch.ones(2, 1), torch.tensor([[1.0], [-1.0]]))), squares.how
        ([tensor([[8.]])], 'vectorised')
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss) -> None:
        self.scorer = _Scorer(model, loss)
        self.how = "vectorised"

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Sums of squares, a tensor per trainable parameter."""
        if self.how == "vectorised":
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # an operation without a rule of its own is slower, not wrong
                    return self._vectorised(batch)
            except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError):  # vmap cannot follow the model
                self.how = "one by one"
        return self._one_by_one(batch)

    def _vectorised(self, batch: Batch) -> list[Tensor]:
        named = {name: p for name, p in self.scorer.named_parameters() if p.requires_grad}
        size = rows_in(batch)
        if isinstance(batch, Mapping):  # columns of text are for no model
            batch = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
        if any(not (isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size) for leaf in leaves(batch)):
            raise TypeError("Expected a batch of tensors with a row per sample.")

        def score(parameters: dict[str, Tensor], sample: Batch) -> Any:
            return functional_call(self.scorer, parameters, (map_leaves(lambda leaf: leaf[None], sample),))

        at_once = max(1, NUMBERS_AT_ONCE // sum(p.numel() for p in named.values()))
        sums: dict[str, Tensor] = {}
        detached = {name: p.detach() for name, p in named.items()}
        for part in _parts(batch, at_once):
            gradients = vmap(grad(score), in_dims=(None, 0))(detached, part)
            for name, gradient in gradients.items():
                square = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square().sum(0)
                sums[name] = sums[name] + square if name in sums else square
        return list(sums.values())

    def _one_by_one(self, batch: Batch) -> list[Tensor]:
        parameters = [p for p in self.scorer.parameters() if p.requires_grad]
        sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
        for sample in _parts(batch, 1):
            gradients = torch.autograd.grad(self.scorer(sample), parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.to(total.dtype).square()
        return sums


class _Scorer(nn.Module):
    """The loss of one sample as a function of the model's parameters."""

    def __init__(self, model: nn.Module, loss: PerSampleLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(self.model, batch).sum()


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    for positions in torch.split(torch.arange(rows_in(batch)), size):
        yield take_rows(batch, positions)
