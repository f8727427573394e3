"""What the inputs alone show: the features of the blind baseline, which no model has touched."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nabla_tau.auditing.attacks import random_projection
from nabla_tau.batches import Batch, leaves, rows_in
from nabla_tau.losses import model_inputs
from nabla_tau.sets import Source

BUCKETS = 64


def input_features(model: nn.Module, source: Source) -> NDArray[np.floating[Any]] | None:
    """A few numbers per sample from its inputs alone: a random projection, or counts of its tokens.

    Args:
        model: says which columns of a dict batch are inputs; it is not run.
        source: the set.

    Returns:
        Shape (n, at most 64), or None where the inputs are no numbers of one shape.

    Example:
        >>> from nabla_tau.sets import open_set
        >>> input_features(nn.Identity(), open_set((torch.randn(9, 3, 8, 8), torch.zeros(9)), 4)).shape
        (9, 64)
    """
    parts = [_features(model, batch) for batch in source.ordered()]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len({part.shape[1] for part in found}) > 1:
        return None
    return np.concatenate(found)


def _features(model: nn.Module, batch: Batch) -> NDArray[np.floating[Any]] | None:
    inputs: Any
    if isinstance(batch, Mapping):
        inputs = model_inputs(model, batch)
        if "input_ids" in inputs:
            return _token_counts(inputs["input_ids"], inputs.get("attention_mask"))
    else:
        inputs = batch[:-1] if isinstance(batch, list | tuple) and len(batch) > 1 else batch
    size = rows_in(batch)
    columns = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size]
    if not columns:
        return None
    flat = torch.cat([column.detach().cpu().reshape(size, -1).double() for column in columns], 1).numpy()
    return random_projection(flat, columns=BUCKETS) if flat.shape[1] > BUCKETS else flat


def _token_counts(tokens: Tensor, mask: Tensor | None) -> NDArray[np.floating[Any]]:
    """How often tokens fall into each of 64 buckets; padding does not count."""
    weights = torch.ones_like(tokens) if mask is None else mask
    counts = torch.zeros(len(tokens), BUCKETS, dtype=torch.float64, device=tokens.device)
    counts.scatter_add_(1, tokens % BUCKETS, weights.double())
    return counts.cpu().numpy()
