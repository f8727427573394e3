"""The forget, retain and validation sets: whatever the user has, read batch by batch.

A set is a map-style dataset (torch or Hugging Face), a tuple or dict of tensors or arrays, or a `DataLoader`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from nabla_tau.batches import Batch, share_of, take_share
from nabla_tau.randomness import undisturbed

Fetch = Callable[[Tensor], Batch]
"""Row positions -> batch."""

Share = tuple[int, int]
"""(rank, number of processes)."""


class Rows(Subset[Any]):
    """The rows of a dataset that one set consists of, with the ids they were chosen by, if any.

    Attributes:
        dataset: the dataset that the rows belong to.
        indices: row positions in it.
        ids: the id of each of these rows, or None.
        id_column: the column that the ids come from, or None.

    Example:
        >>> rows = Rows("abcdef", [1, 4], ids=["user-1", "user-4"], id_column="user_id")
        >>> list(rows), rows.ids
        (['b', 'e'], ['user-1', 'user-4'])
    """

    def __init__(
        self,
        dataset: Any,
        indices: Sequence[int],
        ids: Sequence[Any] | None = None,
        id_column: str | None = None,
    ) -> None:
        super().__init__(dataset, indices)
        self.ids, self.id_column = ids, id_column


class Columns(Dataset[Any]):
    """A dict of tensors or arrays with one row per sample, as a dataset whose samples are dicts.

    Example:
        >>> Columns({"x": torch.arange(3), "labels": torch.ones(3)})[1]
        {'x': tensor(1), 'labels': tensor(1.)}
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = dict(zip(columns, _columns(list(columns.values())), strict=True))

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {key: column[row] for key, column in self.columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def as_dataset(data: Any) -> Any:
    """A set as something with rows: tuples and dicts of tensors or arrays become datasets, the rest stays.

    Raises:
        ValueError: if the columns have different lengths.

    Example:
        >>> len(as_dataset((torch.zeros(5, 2), torch.zeros(5))))
        5
    """
    if isinstance(data, tuple):
        return TensorDataset(*_columns(data))
    return Columns(data) if isinstance(data, dict) else data


@dataclass(frozen=True)
class Source:
    """One set, ready to be read in batches. A `DataLoader` keeps its batch size, order and collate.

    Attributes:
        size: number of samples in one pass.
        batch_size: samples in a full batch; None where the loader's batch sampler decides.
        batches: batches in one pass.
        fetch: reads rows by position; None where the set is a `DataLoader`.
        loader: the user's `DataLoader`, or None.
        measured: the loader's samples in the order of their rows, where that order can be known.

    Example:
        >>> source = open_set(torch.arange(5), batch_size=2)
        >>> list(source.ordered())
        [tensor([0, 1]), tensor([2, 3]), tensor([4])]
        >>> shuffled = source.one_pass(torch.Generator().manual_seed(0))
        >>> torch.cat(list(shuffled)).sort().values
        tensor([0, 1, 2, 3, 4])
    """

    size: int
    batch_size: int | None
    batches: int
    fetch: Fetch | None = None
    loader: DataLoader[Any] | None = None
    measured: DataLoader[Any] | None = None

    def ordered(self, share: Share = (0, 1)) -> Iterator[Batch | None]:
        """One pass for measuring, in the same order every time; no generator is disturbed.

        Yields:
            This process's share of the next batch, on the device of the set; None where it has no part in it.
        """
        if self.fetch is not None:
            yield from self._read(self.fetch, torch.arange(self.size), share)
            return
        with undisturbed(generators_of(self.loader)):
            for batch in self.measured or self.loader or ():
                yield take_share(batch, share)

    def one_pass(self, generator: torch.Generator, share: Share = (0, 1)) -> Iterator[Batch | None]:
        """One pass for descending: shuffled by the generator, or in the loader's own order.

        Yields:
            This process's share of the next batch, on the device of the set; None where it has no part in it.
        """
        if self.fetch is not None:
            yield from self._read(self.fetch, torch.randperm(self.size, generator=generator), share)
            return
        # A loader without a generator draws its order from the global state: the same on every process, whatever the
        # model drew on its own share before.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for batch in self.loader or ():
            yield take_share(batch, share)

    def _read(self, fetch: Fetch, order: Tensor, share: Share) -> Iterator[Batch | None]:
        assert self.batch_size is not None
        for positions in torch.split(order, self.batch_size):
            mine = positions[share_of(len(positions), share)]
            yield fetch(mine) if len(mine) else None


def open_set(data: Any, batch_size: int) -> Source:
    """Make a set readable.

    Args:
        data: a map-style dataset, a tuple or dict of tensors or arrays with one row per sample, or a `DataLoader`.
        batch_size: samples per batch, where `data` is no `DataLoader`.

    Raises:
        TypeError: if `data` is none of these, or a stream that cannot be read by row.
        ValueError: if its columns have different lengths.

    Example:
        >>> source = open_set({"x": torch.zeros(5, 2), "labels": torch.zeros(5)}, batch_size=2)
        >>> source.size, source.batches
        (5, 3)
    """
    if isinstance(data, DataLoader):
        return _open_loader(data)
    fetch, size = _fetcher(data)
    return Source(size, batch_size, -(-size // batch_size), fetch=fetch)


def base_rows(data: Any) -> tuple[Any, np.ndarray[Any, Any] | None]:
    """What a set was cut from: the dataset underneath, and the row numbers in it (None where unknown).

    Example:
        >>> base, rows = base_rows(Subset(Subset(range(10), [5, 6, 7]), [0, 2]))
        >>> base, rows.tolist()
        (range(0, 10), [5, 7])
    """
    if isinstance(data, DataLoader):
        base, below = base_rows(data.dataset)
        positions = _loader_rows(data)
        if positions is None or below is None:
            return base, None
        return base, below[np.asarray(positions, dtype=np.int64)]
    if isinstance(data, Subset):
        base, below = base_rows(data.dataset)
        return base, None if below is None else below[np.asarray(data.indices, dtype=np.int64)]
    data = as_dataset(data)
    return data, np.arange(len(data))


def generators_of(loader: DataLoader[Any] | None) -> list[torch.Generator]:
    """The random generators that a loader owns: reading it moves them.

    Example:
        >>> loader = DataLoader(range(4), shuffle=True, generator=torch.Generator())
        >>> [found is loader.generator for found in generators_of(loader)]
        [True]
    """
    owners = (loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler")))
    owners = (*owners, getattr(getattr(loader, "batch_sampler", None), "sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _open_loader(loader: DataLoader[Any]) -> Source:
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(
            "Expected a DataLoader over a map-style dataset, got one over an IterableDataset: its rows cannot be "
            "read twice in a known order; store them in a map-style dataset."
        )
    positions = _loader_rows(loader)
    if positions is None:
        with undisturbed(generators_of(loader)):
            size = sum(len(rows) for rows in loader.batch_sampler or ([row] for row in loader.sampler))
        return Source(size, loader.batch_size, len(loader), loader=loader)
    in_order = DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=positions.tolist(),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )
    return Source(len(positions), loader.batch_size, len(loader), loader=loader, measured=in_order)


def _loader_rows(loader: DataLoader[Any]) -> np.ndarray[Any, Any] | None:
    """Positions in the loader's dataset that one pass reads, sorted; None if a sampler of the user decides."""
    sampler = loader.sampler
    if type(loader.batch_sampler) is not BatchSampler:
        return None
    size = len(loader.dataset)  # type: ignore[arg-type]
    if isinstance(sampler, SequentialSampler):
        return np.arange(size)
    if isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == size:
        return np.arange(size)
    if isinstance(sampler, SubsetRandomSampler):
        return np.sort(np.asarray(sampler.indices, dtype=np.int64))
    return None


def _fetcher(data: Any) -> tuple[Fetch, int]:
    """How rows of a set are read by position, and how many there are."""
    data = as_dataset(data)
    if isinstance(data, Subset):
        fetch, _ = _fetcher(data.dataset)
        indices = torch.as_tensor(np.asarray(data.indices, dtype=np.int64))
        return lambda positions: fetch(indices[positions]), len(indices)
    if isinstance(data, TensorDataset):
        tensors = data.tensors
        return lambda positions: tuple(_gather(column, positions) for column in tensors), len(data)
    if isinstance(data, Columns):
        named = data.columns
        return lambda positions: {key: _gather(column, positions) for key, column in named.items()}, len(data)
    if type(data).__module__.partition(".")[0] == "datasets" and hasattr(data, "with_format"):
        return _fetch_columns(data), len(data)
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise TypeError(
            "Expected a map-style dataset, a tuple or dict of tensors or arrays, or a DataLoader, "
            f"got {type(data).__name__}: give it __len__ and __getitem__, or wrap it in a DataLoader."
        )
    if hasattr(data, "__getitems__"):
        return lambda positions: default_collate(data.__getitems__(positions.tolist())), len(data)
    return lambda positions: default_collate([data[row] for row in positions.tolist()]), len(data)


def _gather(column: Tensor, positions: Tensor) -> Tensor:
    """Rows of a tensor by indexing: no per-sample Python."""
    return column.index_select(0, positions.to(column.device))


def _columns(values: Sequence[Any]) -> list[Tensor]:
    columns = [torch.as_tensor(value) for value in values]
    sizes = {len(column) for column in columns}
    if len(sizes) > 1:
        raise ValueError(
            f"Expected tensors with one row per sample, got {sorted(sizes)} rows: cut them to the same length."
        )
    return columns


def _fetch_columns(data: Any) -> Fetch:
    """Read a Hugging Face dataset column by column; plain Python columns come as tensors."""
    formatted = data if data.format["type"] is not None else data.with_format("torch")

    def fetch(positions: Tensor) -> Batch:
        return {key: _as_tensor(key, column) for key, column in formatted[positions.tolist()].items()}

    return fetch


def _as_tensor(key: str, column: Any) -> Any:
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        return torch.as_tensor(column)
    if isinstance(column, list) and column and isinstance(column[0], Tensor | np.ndarray):
        rows = [torch.as_tensor(value) for value in column]
        if len({row.shape for row in rows}) > 1:
            raise ValueError(
                f"Expected rows of one length in column {key!r}, got {sorted({tuple(row.shape) for row in rows})}: "
                "pad them beforehand, or pass a DataLoader whose collate_fn does."
            )
        return torch.stack(rows)
    return column
