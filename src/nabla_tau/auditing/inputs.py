"""What the inputs alone show: the features of the blind baseline, which no model has touched."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nabla_tau.auditing.attacks import random_projection
from nabla_tau.batches import Batch, leaves, rows_in
from nabla_tau.sets import Source
from nabla_tau.survey import TOKENWISE, inputs_of

BUCKETS = 64
LARGEST = 1e100


Features = NDArray[np.floating[Any]]


def input_features(model: nn.Module, *sources: Source, read: Collection[str] = ()) -> list[Features] | None:
    """A few numbers per sample from its inputs alone: a random projection, or counts of its tokens.

    Args:
        model: says which columns of a dict batch are inputs; it is not run.
        *sources: sets to be compared.
        read: of dict batches, the columns that a loss of the user's own reads.

    Returns:
        One array of shape (n, at most 64) per set, twice as many where a sample is text and numbers; or None where the
        inputs are no numbers of one shape.

    Example:
        >>> from nabla_tau.sets import open_set
        >>> [one.shape for one in input_features(nn.Identity(), open_set((torch.randn(9, 3, 8, 8), torch.zeros(9)), 4))]
        [(9, 64)]
    """
    parts = [[_features(model, batch, read) for batch in source.ordered()] for source in sources]
    widths = {None if part is None else part[1] for side in parts for part in side}
    if None in widths or len(widths) > 1:
        return None
    return [np.concatenate([part[0] for part in side if part is not None]) for side in parts]


def _features(model: nn.Module, batch: Batch, read: Collection[str]) -> tuple[Features, int] | None:
    """Features of a batch, and how many numbers the inputs of a sample are: tokens, of any number, do not count."""
    inputs, size = inputs_of(model, batch, read), rows_in(batch)
    found: list[Features] = []
    tokens = inputs.get("input_ids") if isinstance(batch, Mapping) else None
    if isinstance(tokens, Tensor) and tokens.ndim == 2 and not tokens.is_floating_point():
        found.append(_token_counts(tokens, inputs.get("attention_mask")))
        inputs = {name: column for name, column in inputs.items() if name not in TOKENWISE and _is_real(column)}
    columns = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size]
    width = 0
    if columns:
        flat = torch.cat([column.detach().cpu().reshape(size, -1).double() for column in columns], 1)
        flat = torch.nan_to_num(flat, nan=0.0).clamp(-LARGEST, LARGEST)  # what a projection can add up
        width = flat.shape[1]
        found.append(random_projection(flat.numpy(), columns=BUCKETS))
    return (np.concatenate(found, 1), width) if found else None


def _is_real(column: Any) -> bool:
    """As an image beside a prompt is; whole numbers there may be tokens again, of any number."""
    return isinstance(column, Tensor) and column.is_floating_point()


def _token_counts(tokens: Tensor, mask: Tensor | None) -> Features:
    """How often tokens fall into each of 64 buckets; padding does not count, where the mask has an entry per token."""
    per_token = isinstance(mask, Tensor) and mask.shape == tokens.shape
    weights = mask if isinstance(mask, Tensor) and per_token else torch.ones_like(tokens)
    counts = torch.zeros(len(tokens), BUCKETS, dtype=torch.float64, device=tokens.device)
    counts.scatter_add_(1, tokens % BUCKETS, weights.double())
    return counts.cpu().numpy()
