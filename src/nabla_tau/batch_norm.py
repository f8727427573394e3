"""Running statistics of batch norm that keep up with a model while it changes in eval mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nabla_tau.problem import Problem

ORIGINAL_BATCHES = 10
"""What the original's statistics count for: the first batch has batch norm's usual share, 0.1, each later one less."""


def changing_batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms with running statistics whose weights are trained: those of frozen parts stay as they are.

    Of one without weights of its own, those of the module that it is a part of count.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
        >>> _ = model[2].requires_grad_(False)
        >>> changing_batch_norms(model) == [model[0]]
        True
    """
    whole = {part: module for module in model.modules() for part in module.children()}
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    weights = [list(norm.parameters() if norm.affine else whole.get(norm, norm).parameters()) for norm in norms]
    return [norm for norm, of_it in zip(norms, weights, strict=True) if any(weight.requires_grad for weight in of_it)]


@contextmanager
def followed(problem: Problem, norms: list[_BatchNorm]) -> Iterator[None]:
    """What the model reads inside moves the running statistics of its batch norms, which are constants to the gradient.

        m ← m + s (E x − m),    v ← (1 − s) v + s E (x − m)² − s² (E x − m)²,    s = 1 / (10 + steps)

    E is the mean over the inputs x of a layer and all their places, of all processes and micro-batches. So mean and
    second moment become those of the original, as if it were of nine batches, and of every batch since. A share that
    does not fall lets the weights grow without end: the gradient enlarges what the statistics divide away (Ioffe,
    Szegedy, arXiv:1502.03167, section 2, on normalising outside of the gradient step).

    Args:
        problem: whose model reads one batch inside; its steps so far set s.
        norms: of `changing_batch_norms`; with none nothing happens.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.tensor([[0.0], [4.0], [8.0]]), torch.tensor([0, 1, 0])
        >>> model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2))
        >>> with Request(model, (x[:1], y[:1]), (x[1:2], y[1:2]), (x[2:], y[2:]), device="cpu").prepared() as problem:
        ...     with followed(problem, changing_batch_norms(problem.model)):
        ...         _ = problem.losses((x[1:], y[1:]))
        ...     mean, variance = problem.model[0].running_mean, problem.model[0].running_var
        ...     [round(float(one), 2) for one in (mean, variance)]  # of 0 and 1, as if of nine batches, then of 4 and 8
        [0.6, 4.54]
    """
    if not norms or problem.journal.repeating:
        yield
        return
    sums = {norm: torch.zeros(1 + 2 * norm.num_features, dtype=problem.engine.sum_type) for norm in norms}
    hooks = [norm.register_forward_pre_hook(partial(_add, problem, sums)) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    flat = problem.engine.sum(torch.cat([one.to(problem.engine.device) for one in sums.values()]))
    parts = torch.split(flat, [len(one) for one in sums.values()])
    if problem.scaler is not None:  # the step may overflow, and is then made again
        problem.take_back = _as_it_stands(norms)
    for norm, found in zip(norms, parts, strict=True):
        _move(norm, found, 1 / (ORIGINAL_BATCHES + problem.steps))


def _as_it_stands(norms: list[_BatchNorm]) -> Callable[[], None]:
    """What gives the running statistics the values again that they have now."""
    kept = [(statistic, statistic.clone()) for norm in norms for statistic in norm.buffers(recurse=False)]

    def put_back() -> None:
        for statistic, value in kept:
            statistic.copy_(value)

    return put_back


def _add(problem: Problem, sums: dict[_BatchNorm, Tensor], norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
    """Places, Σ (x − m) and Σ (x − m)² by channel: about the running mean, so that no digits cancel."""
    if norm.running_mean is None or (problem.shards is not None and not problem.shards.counted):
        return
    with torch.no_grad():
        x = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
        apart = x.reshape(len(x), x.shape[1], -1) - norm.running_mean[:, None]  # (N, C, places)
        places = apart.new_full((1,), apart.shape[0] * apart.shape[2])
        found = torch.cat([places, *(one.sum(2).sum(0) for one in (apart, apart * apart))])
        sums[norm] = sums[norm].to(found.device) + found


def _move(norm: _BatchNorm, sums: Tensor, share: float) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    apart, squares = (sums[1:] / sums[0].clamp(min=1)).chunk(2)
    of_this = share * (sums[0] > 0)  # none where the layer was not read; nothing here waits for a GPU
    norm.running_mean += (of_this * apart).to(norm.running_mean.dtype)
    norm.running_var.copy_((1 - of_this) * norm.running_var + of_this * squares - (of_this * apart) ** 2)
