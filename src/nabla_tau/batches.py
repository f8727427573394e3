"""Batches of any structure: tuples, lists and dicts of tensors and of plain lists, cut and moved as one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Batch = Any
"""What one step reads: `(input, ..., target)`, or a dict as Transformers models take it."""

TARGET_KEYS = ("labels", "label", "label_ids", "target", "targets")
"""Where a dict batch keeps what is to be predicted, in the order they are looked for."""


def leaves(batch: Batch) -> Iterator[Any]:
    """Everything in a batch that is a column: tensors, and lists of plain values.

    Example:
        >>> list(leaves({"x": torch.zeros(2), "more": (["a", "b"],)}))
        [tensor([0., 0.]), ['a', 'b']]
    """
    if isinstance(batch, Mapping):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, tuple) or (isinstance(batch, list) and not _is_column(batch)):
        for value in batch:
            yield from leaves(value)
    else:
        yield batch


def map_leaves(function: Callable[[Any], Any], batch: Batch) -> Batch:
    """Apply a function to every column and keep the structure.

    Example:
        >>> map_leaves(lambda column: column + 1, {"x": torch.zeros(2), "y": (torch.ones(2),)})
        {'x': tensor([1., 1.]), 'y': (tensor([2., 2.]),)}
    """
    if isinstance(batch, Mapping):
        return {key: map_leaves(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_leaves(function, value) for value in batch))
    if isinstance(batch, tuple) or (isinstance(batch, list) and not _is_column(batch)):
        return type(batch)(map_leaves(function, value) for value in batch)
    return function(batch)


def rows_in(batch: Batch) -> int:
    """Number of samples in a batch: the first dimension of its first tensor.

    Raises:
        ValueError: if the batch holds no tensor that has rows.

    Example:
        >>> rows_in({"text": ["a", "b", "c"], "labels": torch.zeros(3)})
        3
    """
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim > 0:
            return len(leaf)
    raise ValueError(
        f"Expected a batch that holds at least one tensor with a row per sample, got {type(batch).__name__}: "
        "return tensors from the dataset (text as its tokenizer encodes it), or give the DataLoader a collate_fn that "
        "makes them."
    )


def take_rows(batch: Batch, positions: Tensor) -> Batch:
    """The samples at the given positions of a batch; columns that have no row per sample are kept whole.

    Args:
        batch: of N samples.
        positions: shape (n,), integers in [0, N).

    Raises:
        ValueError: as `rows_in`.

    Example:
        >>> take_rows((torch.arange(3), ["a", "b", "c"]), torch.tensor([0, 2]))
        (tensor([0, 2]), ['a', 'c'])
    """
    size = rows_in(batch)

    def take(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == size:
            return leaf[positions.to(leaf.device)]
        if isinstance(leaf, list) and len(leaf) == size:
            return [leaf[position] for position in positions.tolist()]
        return leaf

    return map_leaves(take, batch)


def cut(batch: Batch | None, size: int | None) -> Iterator[Batch | None]:
    """A batch in parts of at most so many samples, in their order; whole where there is no limit or no batch.

    Example:
        >>> [len(part) for part in cut(torch.arange(5), 2)], list(cut(None, 2))
        ([2, 2, 1], [None])
    """
    if batch is None or size is None or rows_in(batch) <= size:
        yield batch
        return
    for positions in torch.split(torch.arange(rows_in(batch)), size):
        yield take_rows(batch, positions)


def share_of(size: int, share: tuple[int, int]) -> slice:
    """The part of a global batch that one process works on: contiguous, nothing padded or repeated.

    Args:
        size: samples in the global batch.
        share: (rank, number of processes).

    Example:
        >>> [share_of(5, (rank, 2)) for rank in range(2)]
        [slice(0, 2, None), slice(2, 5, None)]
    """
    rank, processes = share
    return slice(size * rank // processes, size * (rank + 1) // processes)


def take_share(batch: Batch, share: tuple[int, int]) -> Batch | None:
    """This process's samples of a global batch; None where it has none of them.

    Args:
        batch: the global batch, the same on every process.
        share: (rank, number of processes).

    Raises:
        ValueError: as `rows_in`.

    Example:
        >>> [take_share(torch.arange(3), (rank, 2)) for rank in range(2)]
        [tensor([0]), tensor([1, 2])]
        >>> take_share(torch.arange(1), (0, 2)) is None
        True
    """
    if share == (0, 1):
        return batch
    mine = torch.arange(rows_in(batch))[share_of(rows_in(batch), share)]
    return take_rows(batch, mine) if len(mine) else None


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch; what is no tensor stays.

    Example:
        >>> to_device((torch.zeros(2), ["a", "b"]), torch.device("meta"))
        (tensor(..., device='meta', size=(2,)), ['a', 'b'])
    """
    return map_leaves(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, batch)


def target_key(batch: Mapping[str, Any]) -> str | None:
    """The key under which a dict batch keeps its targets, or None.

    Example:
        >>> target_key({"input_ids": torch.zeros(1, 3), "label": torch.zeros(1)})
        'label'
    """
    return next((key for key in TARGET_KEYS if key in batch), None)


def target_of(batch: Batch) -> Any:
    """What is to be predicted: the last element of a tuple, the labels of a dict; None where there is none.

    Example:
        >>> target_of((torch.zeros(2, 3), torch.tensor([1, 0])))
        tensor([1, 0])
        >>> target_of({"input_ids": torch.zeros(1, 3)}) is None
        True
    """
    if isinstance(batch, Mapping):
        key = target_key(batch)
        return None if key is None else batch[key]
    if isinstance(batch, list | tuple) and len(batch) > 1:
        return batch[-1]
    return None


def structure(batch: Batch) -> Any:
    """What must agree from batch to batch: nesting, keys, kinds of numbers and dimensions (sizes may differ).

    Example:
        >>> structure((torch.zeros(4, 3), torch.ones(4, dtype=torch.int32)))
        ('tuple', 'float32 in 2 dimensions', 'integer in 1 dimensions')
    """
    if isinstance(batch, Mapping):
        return {str(key): structure(value) for key, value in sorted(batch.items(), key=lambda item: str(item[0]))}
    if isinstance(batch, tuple) or (isinstance(batch, list) and not _is_column(batch)):
        # default_collate turns tuples into lists: the same structure to a model
        return ("tuple", *(structure(value) for value in batch))
    if isinstance(batch, Tensor):
        kind = str(batch.dtype).removeprefix("torch.")
        if not batch.is_floating_point() and not batch.is_complex() and batch.dtype not in (torch.bool, torch.uint8):
            kind = "integer"
        return f"{kind} in {batch.ndim} dimensions"
    return type(batch).__name__


def _is_column(value: list[Any]) -> bool:
    return not any(isinstance(item, Tensor | Mapping | tuple | list) for item in value)


def with_target(batch: Batch, target: Any) -> Batch:
    """The batch with other labels.

    Example:
        >>> with_target((torch.zeros(1), torch.tensor([0])), torch.tensor([1]))
        (tensor([0.]), tensor([1]))
        >>> with_target({"x": torch.zeros(1), "label": torch.tensor([0])}, torch.tensor([1]))
        {'x': tensor([0.]), 'label': tensor([1])}
    """
    if isinstance(batch, Mapping):
        return {**batch, target_key(batch) or "labels": target}
    return type(batch)([*batch[:-1], target])
