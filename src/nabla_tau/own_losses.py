"""What has to be found out about a loss of the user's own: which columns it reads, and what it holds itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch, rows_in, take_rows, target_key
from nabla_tau.losses import PerSampleLoss, ready_made
from nabla_tau.modes import buffers_kept
from nabla_tau.randomness import seeded

FEW = 8
"""Rows that show what a loss reads."""


def columns_read(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> frozenset[str]:
    """The columns of a dict batch without which a loss of the user's own cannot do, or gives others; labels left out.

    Nothing for a loss of this package, which reads what `forward` names, and for other batches. Where no column shows
    to be read, all of them.

    Args:
        model: on the device of the batch, in the modes to unlearn in.
        loss: per-sample loss; it is called on a few rows, once for each column.
        batch: any batch.

    Example:
        >>> def triplet(model, batch):
        ...     batch = {name: column.float() for name, column in batch.items()}
        ...     return (model(batch["anchor"]) - model(batch["other"])).abs().sum(1)
        >>> batch = {"anchor": torch.ones(2, 3), "other": torch.zeros(2, 3), "user_id": torch.arange(2)}
        >>> sorted(columns_read(nn.Identity(), triplet, batch))
        ['anchor', 'other']
    """
    if ready_made(loss) or not isinstance(batch, Mapping):
        return frozenset()
    inputs = frozenset(batch) - {target_key(batch)}
    with buffers_kept(model):
        whole = _tried(model, loss, batch, set())
        if whole is None:  # what is wrong is told where losses are checked
            return inputs
        read = {name for name in inputs if not _equal(whole, _tried(model, loss, batch, {name}))}
    return frozenset(read) or inputs


def _tried(model: nn.Module, loss: PerSampleLoss, batch: Mapping[str, Any], left_out: set[str]) -> Tensor | None:
    """Losses of the first rows without some of the columns; None where there are none."""
    rows = torch.arange(min(FEW, rows_in(batch)))
    few = {name: column for name, column in take_rows(batch, rows).items() if name not in left_out}
    try:
        with torch.no_grad(), seeded(0):
            found = loss(model, few)
    except Exception:
        return None
    return found if isinstance(found, Tensor) else None


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def held_still(loss: Any, *models: nn.Module) -> Iterator[list[str]]:
    """Parameters that a loss has of its own get no gradient meanwhile.

    Args:
        loss: any; looked at under `functools.partial`, and at what a bound method is bound to.
        models: whose parameters are no loss's own.

    Yields:
        One sentence where it has trainable ones.

    Example:
        >>> class Proxies(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.centres = nn.Parameter(torch.zeros(3))
        >>> loss = Proxies()
        >>> with held_still(loss, nn.Linear(2, 3)) as told:
        ...     told, loss.centres.requires_grad
        (['loss: its own parameters (centres) stay as they are: ...'], False)
        >>> loss.centres.requires_grad
        True
    """
    while isinstance(loss, partial):
        loss = loss.func
    owner = getattr(loss, "__self__", loss)
    known = {id(parameter) for model in models for parameter in model.parameters()}
    named = owner.named_parameters() if isinstance(owner, nn.Module) else ()
    own = {name: one for name, one in named if one.requires_grad and id(one) not in known}
    try:
        for parameter in own.values():
            parameter.requires_grad_(False)
        yield [
            f"loss: its own parameters ({', '.join(own)}) stay as they are: what they hold of the forgotten rows is "
            "not unlearned; make them a part of the model to have it unlearned, too."
        ] * bool(own)
    finally:
        for parameter in own.values():
            parameter.requires_grad_(True)
