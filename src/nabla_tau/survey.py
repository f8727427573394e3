"""One look at every row of a set before anything is changed: structure, targets, labels, and content as a hash."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nabla_tau.adapters import adapted
from nabla_tau.batches import Batch, leaves, rows_in, structure, target_key, target_of
from nabla_tau.losses import (
    IGNORED,
    PerSampleLoss,
    TokenLoss,
    binary,
    classification,
    model_inputs,
    multi_label,
    ready_made,
    regression,
)
from nabla_tau.removed import labels_in
from nabla_tau.sets import Source
from nabla_tau.tasks import vocabulary

Digest = bytes

TOKENWISE = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""Inputs of a text with an entry per token: padded, so that of these only the tokens themselves tell content."""


@dataclass
class Survey:
    """What one pass over a set found.

    Attributes:
        size: number of samples read.
        batches: number of batches read.
        structures: structure of its batches -> position of the first batch that has it.
        bad_targets: positions whose target is outside what the model's outputs allow.
        unlabelled: positions without a labelled token.
        not_finite: positions with NaN or infinity among their inputs.
        padded: positions with labels on padding.
        unmasked: positions with labels that are the model's padding token, several in a row, and no mask to tell.
        unknown_tokens: positions with tokens that the model's embedding does not hold.
        labels: that its rows carry.
        sequence: SHA-256 over inputs and targets in the order read.
    """

    size: int = 0
    batches: int = 0
    structures: dict[str, int] = field(default_factory=dict)
    bad_targets: list[int] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)
    not_finite: list[int] = field(default_factory=list)
    padded: list[int] = field(default_factory=list)
    unmasked: list[int] = field(default_factory=list)
    unknown_tokens: list[int] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)
    sequence: Any = field(default_factory=hashlib.sha256)


def survey(
    source: Source,
    model: nn.Module,
    loss: PerSampleLoss,
    outputs: int,
    on_row: Callable[[int, Digest], None],
    read: Collection[str] = (),
) -> Survey:
    """Read a set once.

    Args:
        source: the set.
        model: says which columns of a dict batch are inputs.
        loss: says which targets are allowed and which samples are labelled.
        outputs: size of the last dimension of the model's outputs.
        on_row: called with the position and the content hash of each sample.
        read: of a dict batch, the columns that a loss of the user's own reads (`own_losses.columns_read`).

    Raises:
        Exception: what reading the set raised, with a note on the place.

    Example:
        >>> from nabla_tau.sets import open_set
        >>> source = open_set((torch.eye(3), torch.tensor([0, 1, 5])), batch_size=2)
        >>> hashes = []
        >>> found = survey(source, nn.Linear(3, 2), classification, 2, lambda row, digest: hashes.append(digest))
        >>> found.size, found.bad_targets, len(set(hashes))
        (3, [2], 3)
    """
    found = Survey()
    try:
        for batch in source.ordered():
            _look_at(batch, found, model, loss, outputs, on_row, read)
    except Exception as error:
        error.add_note(f"after {found.size} samples")
        raise
    return found


def _look_at(
    batch: Batch,
    found: Survey,
    model: nn.Module,
    loss: PerSampleLoss,
    outputs: int,
    on_row: Callable[[int, Digest], None],
    read: Collection[str],
) -> None:
    size, target = rows_in(batch), target_of(batch)
    one_each = not ready_made(loss) or not isinstance(target, Tensor) or target.shape[:1] == (size,)
    if not size or not one_each:
        got = f"{size} samples" + (f" and targets of shape {tuple(target.shape)}" if isinstance(target, Tensor) else "")
        raise ValueError(f"Expected batches of samples with a target each, got {got}: see the loader's collate_fn.")
    found.structures.setdefault(str(structure(_read_by(model, batch, read))), found.size)
    allowed = allowed_targets(loss, batch, outputs)
    found.bad_targets.extend(found.size + row for row in _places(~allowed))
    found.not_finite.extend(found.size + row for row in _places(_not_finite(inputs_of(model, batch, read), size)))
    found.unknown_tokens.extend(found.size + row for row in _places(_unknown_tokens(model, batch)))
    if allowed.all():
        found.labels |= labels_in(loss, batch)
    if isinstance(loss, TokenLoss):
        found.unlabelled.extend(found.size + row for row in _places(~loss.labelled(batch)))
        found.padded.extend(found.size + row for row in _places(_labels_on_padding(model, loss, batch)))
        found.unmasked.extend(found.size + row for row in _places(_padding_among_labels(model, loss, batch)))
    targets = [column for leaf in leaves(target) if (column := _row_bytes(leaf, size)) is not None]
    for row, digest in enumerate(content_hashes(model, batch, read)):
        on_row(found.size + row, digest)
        found.sequence.update(_digest(digest, *(column(row) for column in targets)))
    found.size += size
    found.batches += 1


def allowed_targets(loss: PerSampleLoss, batch: Batch, outputs: int) -> Tensor:
    """Which targets a ready-made loss can take, shape (N,), boolean. A loss of the user's own allows all.

    Example:
        >>> allowed_targets(classification, (torch.zeros(3, 2), torch.tensor([0, 1, 2])), outputs=2)
        tensor([ True,  True, False])
    """
    size = rows_in(batch)
    target = target_of(batch)
    if isinstance(loss, TokenLoss):
        labels = loss.labels(batch)
        return (labels.eq(IGNORED) | ((labels >= 0) & (labels < outputs))).reshape(size, -1).all(1).cpu()
    if not isinstance(target, Tensor) or loss not in (classification, binary, multi_label, regression):
        return torch.ones(size, dtype=torch.bool)
    if target.is_complex():
        return torch.zeros(size, dtype=torch.bool)
    if loss is classification:
        allowed = (target >= 0) & (target < outputs) & (target == target.long())
    elif loss is regression:
        allowed = target.isfinite()
    else:
        allowed = (target >= 0) & (target <= 1)
    return allowed.reshape(size, -1).all(1).cpu()


def content_hashes(model: nn.Module, batch: Batch, read: Collection[str] = ()) -> Iterator[Digest]:
    """A hash of each sample's inputs, targets and padding left out: equal inputs, equal hash.

    Of a text with a mask these are its tokens, and whatever else the model reads, as an image beside a prompt.

    Args:
        model: says which columns of a dict are inputs.
        batch: any batch.
        read: as for `inputs_of`.

    Yields:
        16 bytes per sample (BLAKE2b).

    Example:
        >>> batch = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]]), torch.tensor([0, 1, 0])
        >>> first, second, third = content_hashes(nn.Identity(), batch)
        >>> first == second, first == third
        (True, False)
    """
    inputs, size = inputs_of(model, batch, read), rows_in(batch)
    columns: list[Callable[[int], bytes]] = []
    if isinstance(batch, Mapping) and (keep := _mask_of_tokens(inputs)) is not None:
        tokens = inputs["input_ids"].cpu()
        columns.append(lambda row: tokens[row][keep[row]].numpy().tobytes())
        inputs = {name: value for name, value in inputs.items() if name not in TOKENWISE}
    columns += [column for leaf in leaves(inputs) if (column := _row_bytes(leaf, size)) is not None]
    for row in range(size):
        yield _digest(*(column(row) for column in columns))


def _mask_of_tokens(inputs: Mapping[str, Any]) -> Tensor | None:
    mask, tokens = inputs.get("attention_mask"), inputs.get("input_ids")
    return mask.cpu().bool() if isinstance(mask, Tensor) and mask.shape == getattr(tokens, "shape", None) else None


def inputs_of(model: nn.Module, batch: Batch, read: Collection[str] = ()) -> Any:
    """What of a batch the model reads.

    Args:
        model: says by the arguments of `forward` which columns of a dict these are.
        batch: any batch.
        read: the columns, where a loss of the user's own decides.

    Example:
        >>> inputs_of(nn.Identity(), (torch.ones(1), torch.zeros(1)))
        (tensor([1.]),)
    """
    if isinstance(batch, Mapping):
        return {name: batch[name] for name in batch if name in read} if read else model_inputs(model, batch)
    return batch[:-1] if isinstance(batch, list | tuple) and len(batch) > 1 else batch


def _labels_on_padding(model: nn.Module, loss: TokenLoss, batch: Batch) -> Tensor:
    labels, mask = loss.labels(batch), _mask_of_labels(model, loss, batch)
    return torch.zeros(len(labels), dtype=torch.bool) if mask is None else (~mask & labels.ne(IGNORED).cpu()).any(1)


def _padding_among_labels(model: nn.Module, loss: TokenLoss, batch: Batch) -> Tensor:
    """Rows without a mask in which the padding token is to be predicted twice on end: a text ends but once."""
    labels, token = loss.labels(batch), getattr(getattr(adapted(model), "config", None), "pad_token_id", None)
    if token is None or _mask_of_labels(model, loss, batch) is not None:
        return torch.zeros(len(labels), dtype=torch.bool)
    padding = labels.eq(token)
    return (padding[:, 1:] & padding[:, :-1]).any(1).cpu()


def _mask_of_labels(model: nn.Module, loss: TokenLoss, batch: Batch) -> Tensor | None:
    """Which labels are of the text; a decoder's have no mask, that of the batch is the encoder's."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    of_encoder = getattr(getattr(adapted(model), "config", None), "is_encoder_decoder", False)
    if of_encoder or not isinstance(mask, Tensor) or mask.shape != loss.labels(batch).shape:
        return None
    return mask.cpu().bool()


def _unknown_tokens(model: nn.Module, batch: Batch) -> Tensor:
    tokens, known = batch.get("input_ids") if isinstance(batch, Mapping) else None, vocabulary(model)
    if known is None or not isinstance(tokens, Tensor) or tokens.is_floating_point():
        return torch.zeros(rows_in(batch), dtype=torch.bool)
    return ((tokens < 0) | (tokens >= known)).reshape(len(tokens), -1).any(1).cpu()


def _not_finite(inputs: Any, size: int) -> Tensor:
    bad = torch.zeros(size, dtype=torch.bool)
    for leaf in leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.shape[:1] == (size,):
            bad |= ~leaf.isfinite().reshape(size, -1).all(1).cpu()
    return bad


def _places(mask: Tensor) -> list[int]:
    return [int(row) for row in mask.nonzero().flatten().tolist()]


def _read_by(model: nn.Module, batch: Batch, read: Collection[str]) -> Batch:
    """The part of a batch that model and loss read: other columns of a dict may differ from set to set."""
    if not isinstance(batch, Mapping):
        return batch
    key = target_key(batch)
    return {**inputs_of(model, batch, read), **({} if key is None else {key: batch[key]})}


def _row_bytes(leaf: Any, size: int) -> Callable[[int], bytes] | None:
    if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size:
        plain = leaf.detach().cpu().contiguous().reshape(size, -1)
        array: np.ndarray[Any, Any] = plain.view(torch.uint8).numpy() if plain.numel() else np.zeros((size, 0))
        return lambda row: array[row].tobytes()
    if isinstance(leaf, list) and len(leaf) == size:
        return lambda row: repr(leaf[row]).encode()
    return None


def _digest(*parts: bytes) -> Digest:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
