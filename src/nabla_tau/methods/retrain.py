"""Retrain: train anew without the forget set. Exact, and what every other method is measured against."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from nabla_tau.errors import Problems
from nabla_tau.facts import RETAIN, TRAINING, Facts, described
from nabla_tau.modes import buffers_kept
from nabla_tau.problem import Epoch, Problem
from nabla_tau.sets import as_dataset, is_stream, loader_rows

Training = Callable[[Any, int], nn.Module]
"""`(dataset, seed) -> nn.Module`: the original training, on another dataset."""


@described(
    Facts(
        reference="the definition of exact unlearning",
        needs=(RETAIN, TRAINING),
        passes="those of the training function, over D_r",
        mode="the training function's",
        forgets="everything: the forget set is never read",
        keeps="nothing",
        not_continued="its training is a function of yours",
        not_sharded="its training is a function of yours",
    )
)
def retrain(problem: Problem, *, train: Training) -> Iterator[Epoch]:
    """Exact unlearning: θ_r is what the original training gives on the retain set alone.

        θ_r = train(D_r, seed)

    Args:
        problem: the request; its model takes the retrained weights and buffers.
        train: `(dataset, seed) -> nn.Module`, a training from fresh weights, or from pre-trained ones where the
            original started from those; the module has the architecture of the original. The dataset is the retain set:
            a dataset as it was passed in, or a dataset of the rows that its `DataLoader` reads.

    Yields:
        One `Epoch`.

    Raises:
        InvalidRequest: if `train` fails or changes the weights of the original.
        ValueError: if the retain set's rows cannot be known, or `train` gives back something else than a new module of
            the original's architecture.

    Reference:
        Exact unlearning by definition; the reference of Trippa et al., ∇τ, arXiv:2403.14339 (2024).

    Example:
        >>> import torch, nabla_tau
        >>> from functools import partial
        >>> def train(dataset, seed):
        ...     torch.manual_seed(seed)
        ...     model = torch.nn.Linear(4, 2)
        ...     sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     for x, y in torch.utils.data.DataLoader(dataset, batch_size=8):
        ...         torch.nn.functional.cross_entropy(model(x), y).backward()
        ...         sgd.step()
        ...     return model
        >>> x, y = torch.randn(40, 4), torch.arange(40) % 2
        >>> original = train(torch.utils.data.TensorDataset(x[:30], y[:30]), 0)
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", nabla_tau.UnlearningWarning)
        ...     unlearned = nabla_tau.unlearn(
        ...         original, forget=(x[:5], y[:5]), retain=(x[5:30], y[5:30]), validation=(x[30:], y[30:]),
        ...         method=partial(nabla_tau.methods.retrain, train=train), device="cpu",
        ...     )
        >>> bool((unlearned.model.weight != original.weight).all())
        True
    """
    problem.settings.update(
        epochs=1, steps=0, trained_by=getattr(train, "__name__", type(train).__name__), forget_passes=0, retain_passes=0
    )
    problem.announce(0)
    problem.on_step(0, 0)  # a plan stops here: what the training takes is not known
    started = time.perf_counter()
    dataset, problems = _dataset(problem), Problems()
    with problems.gathered("train", "a model from train(dataset, seed)", "mend it."), _left_alone(problem):
        trained = train(dataset, problem.seed)
    problems.refuse()
    if got := _no_new_module(trained, problem.original):
        raise ValueError(f"Expected a new nn.Module from train, got {got}: build the model inside it and return it.")
    try:
        problem.model.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"Expected a module of the original's architecture from train, got one whose weights do not fit: {error}"
        ) from error
    yield Epoch(seconds=time.perf_counter() - started)


@contextmanager
def _left_alone(problem: Problem) -> Iterator[None]:
    """Gradients on and the original as it was, whatever the training did to it.

    Raises:
        ValueError: if the weights of the original had been changed.
    """
    original = problem.original
    modes = [(module, module.training) for module in original.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in original.parameters()]
    try:
        with buffers_kept(original):
            yield
    finally:
        torch.set_grad_enabled(True)
        for module, mode in modes:
            module.training = mode
        for parameter, required in trainable:
            parameter.requires_grad_(required)
        changed = [
            (mine, before)
            for mine, before in zip(original.parameters(), problem.model.parameters(), strict=True)
            if not torch.equal(mine, before.to(mine.device))
        ]
        with torch.no_grad():
            for mine, before in changed:
                mine.copy_(before)
    if changed:
        raise ValueError("Expected a training that leaves the original as it is, got other weights: copy it first.")


def _no_new_module(trained: Any, original: nn.Module) -> str | None:
    """What train gave back instead of a module of its own, if it did."""
    if not isinstance(trained, nn.Module):
        return type(trained).__name__
    if trained is original:
        return "the original itself"
    shared = set(map(id, original.parameters())) & set(map(id, trained.parameters()))
    return "one that shares weights with the original" if shared else None


def _dataset(problem: Problem) -> Any:
    """The retain set as a dataset."""
    retain = problem.sets["retain"]
    if is_stream(retain):
        raise ValueError("Expected a retain set whose rows are known, got a stream: store it in a map-style dataset.")
    if not isinstance(retain, DataLoader):
        return as_dataset(retain)
    rows = loader_rows(retain)
    if rows is None:
        raise ValueError(
            "Expected a retain set whose rows are known, got a DataLoader with a sampler of its own: pass the dataset."
        )
    return retain.dataset if len(rows) == len(as_dataset(retain.dataset)) else Subset(retain.dataset, rows.tolist())
