"""The forget, retain and validation sets: whatever the user has, read batch by batch.

A set is a map-style dataset (torch or Hugging Face), a tuple or dict of tensors or arrays, or a `DataLoader`. The
retain set may also be a stream.
"""

import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
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

from nabla_tau.batches import Batch, rows_in, share_of, take_share
from nabla_tau.journal import Journal
from nabla_tau.orders import in_order, shuffled
from nabla_tau.randomness import Chance, seed_all, undisturbed
from nabla_tau.streams import Stream

Fetch = Callable[[Tensor], Batch]
"""Row positions -> batch."""

RowNumbers = range | np.ndarray[Any, Any]
"""Row numbers in a dataset; a range where they are all of them, which takes no memory."""

Share = tuple[int, int]
"""(rank, number of processes)."""


class Rows(Subset[Any]):
    """The rows of a dataset that one set consists of, with the ids they were chosen by, if any.

    Attributes:
        dataset: the dataset that the rows belong to.
        indices: row positions in it.
        ids: the id of each of these rows, or None.
        id_column: the column that the ids come from, or None.
        unknown_ids: ids that were asked for but occur nowhere, and were skipped.
        remark: what the reader of a result must know about how the rows were chosen, or None.

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
        unknown_ids: Sequence[str] = (),
        remark: str | None = None,
    ) -> None:
        super().__init__(dataset, indices)
        self.ids, self.id_column, self.unknown_ids, self.remark = ids, id_column, list(unknown_ids), remark


class Columns(Dataset[Any]):
    """A dict of tensors or arrays with one row per sample, as a dataset whose samples are dicts.

    Columns of text, ids for instance, are kept as they are: a model reads the columns that its `forward` names.

    Example:
        >>> Columns({"x": torch.arange(3), "labels": torch.ones(3)})[1]
        {'x': tensor(1), 'labels': tensor(1.)}
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = _columns(columns, text=True)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {key: column[row] for key, column in self.columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def as_dataset(data: Any) -> Any:
    """A set as something with rows: tuples and dicts of tensors or arrays become datasets, the rest stays.

    Raises:
        TypeError: if it is nothing with rows that can be read by position.
        ValueError: if its columns are no numbers, or have different lengths.

    Example:
        >>> len(as_dataset((torch.zeros(5, 2), torch.zeros(5))))
        5
    """
    if isinstance(data, dict | UserDict):  # a tokenizer returns the latter
        return Columns(data)
    if isinstance(data, tuple) and not data:
        return Columns({})
    if isinstance(data, tuple):
        return TensorDataset(*_columns({f"at place {place}": value for place, value in enumerate(data)}).values())
    of_tensors = isinstance(data, list) and all(isinstance(value, Tensor | np.ndarray) for value in data)
    if of_tensors and len({tuple(value.shape) for value in data}) > 1:
        raise TypeError(
            "Expected a list of samples, got a list of tensors of different shapes: pass columns as a tuple, "
            "(inputs, targets)."
        )
    readable = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "iloc")
    if isinstance(data, IterableDataset | type) or not readable:
        advice = "give it __len__ and __getitem__, or wrap it in a DataLoader"
        if hasattr(data, "iloc"):
            advice = "pass its columns, (frame[inputs].to_numpy('float32'), frame[target].to_numpy())"
        elif isinstance(data, IterableDataset) or type(data).__name__ == "IterableDataset":
            advice = "a stream cannot be read by row: store it in a map-style dataset"
        raise TypeError(
            "Expected a map-style dataset, a tuple or dict of tensors or arrays, or a DataLoader, "
            f"got {type(data).__name__}: {advice}."
        )
    return data


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
        stream: the stream that the set is, or None.
        counted: whether `size` and `batches` are known; those of a stream are when it was read once.
        after_pass: called with the rows of each whole pass through a stream.

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
    stream: Stream | None = None
    counted: bool = True
    longest: int = 0
    after_pass: Callable[[int], None] = lambda rows: None

    @property
    def streamed(self) -> bool:
        """Whether it can only be read from its first sample on."""
        return self.stream is not None or (self.loader is not None and is_stream(self.loader))

    def with_count(self, size: int, batches: int) -> "Source":
        """The same, with what one pass gave, where it was not known before."""
        return self if self.counted else replace(self, size=size, batches=batches, counted=True)

    def ordered(self, share: Share = (0, 1)) -> Iterator[Batch | None]:
        """One pass for measuring, in the same order every time; no generator is disturbed.

        Yields:
            This process's share of the next batch, on the device of the set; None where it has no part in it.
        """
        if self.fetch is not None:
            yield from self._read(self.fetch, in_order(self.size, self._full), share)
            return
        generators = generators_of(self.loader)
        if self.streamed:
            rows = 0
            with undisturbed(generators) if generators else nullcontext():
                for batch in self._streamed(seed=0):
                    rows += rows_in(batch)
                    yield take_share(batch, share)
            self.after_pass(rows)
            return
        with undisturbed(generators):
            assert self.loader is not None
            loader = self.loader if self.measured is None else self.measured
            yield from (take_share(batch, share) for batch in loader)

    def one_pass(
        self, generator: torch.Generator, share: Share = (0, 1), journal: Journal | None = None
    ) -> Iterator[Batch | None]:
        """One pass for descending: shuffled by the generator (a stream within a buffer), or in the loader's own order.

        Args:
            generator: of the order.
            share: (rank, number of processes).
            journal: says for which batches of the pass there is nothing to read, because they are repeated.

        Yields:
            This process's share of the next batch, on the device of the set; None where it has no part in it.
        """
        journal = journal or Journal()
        if self.fetch is not None:
            yield from self._read(self.fetch, shuffled(self.size, self._full, generator), share, journal)
            return
        seed = int(torch.randint(2**62, (), generator=generator))
        if self.streamed:
            yield from self._follow(seed, share, journal)
        elif self.loader is not None:
            yield from self._load(self.loader, seed, share, journal)

    @property
    def _full(self) -> int:
        assert self.batch_size is not None  # but for a loader
        return self.batch_size

    def _load(self, loader: DataLoader[Any], seed: int, share: Share, journal: Journal) -> Iterator[Batch | None]:
        # A loader without a generator draws its order from the global state: the same on every process, whatever the
        # model drew on its own share before.
        seed_all(seed)
        generators = generators_of(loader)
        number = journal.begin_pass([generator.get_state() for generator in generators])
        try:
            passed = 0
            while journal.repeating and passed < self.batches:
                yield None
                passed += 1
            if passed == self.batches:
                return
            if passed:  # the run that is continued stopped in this pass: read up to there as it was read then
                with undisturbed(generators):
                    seed_all(seed)
                    for generator, state in zip(generators, journal.starts.get(number, []), strict=True):
                        generator.set_state(state)
                    batches = iter(loader)
                    for _ in range(passed):
                        next(batches)
            else:
                batches = iter(loader)
            for batch in batches:
                yield take_share(batch, share)
        finally:
            journal.starts.pop(number, None)

    def _follow(self, seed: int, share: Share, journal: Journal) -> Iterator[Batch | None]:
        """A pass through a stream; what is repeated of one that was cut off is read again, and must be the same."""
        generators, log = generators_of(self.loader), journal.streams
        number = journal.begin_pass([generator.get_state() for generator in generators])
        counted, passed, rows, whole = (self.batches, self.size), 0, 0, False
        try:
            length = log.length(number, counted)
            while journal.repeating and (length is None or passed < length[0]):
                yield None
                passed += 1
            if passed and length is not None:
                passed, rows, whole = *length, True
                return
            batches = self._streamed(seed, torch.Generator().manual_seed(seed + 1))
            if passed:
                with undisturbed(generators):
                    for generator, state in zip(generators, journal.starts.get(number, []), strict=True):
                        generator.set_state(state)
                    for batch in islice(batches, passed):
                        log.add(number, batch)
                        rows += rows_in(batch)
                log.require_same(number)
            for batch in batches:
                log.add(number, batch)
                passed, rows = passed + 1, rows + rows_in(batch)
                yield take_share(batch, share)
            whole = True
        finally:
            log.end(number, (passed, rows), counted, whole=whole)
            journal.starts.pop(number, None)
            if whole:
                self.after_pass(rows)

    def _streamed(self, seed: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        """Batches of a stream, read under random states of their own: the same whenever, and wherever, it is read."""
        chance = Chance(seed)
        with chance.drawing():
            source = self.loader if self.stream is None else self.stream.batches(self._full, order)
            assert source is not None
            batches = iter(source)
        while True:
            with chance.drawing():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _read(
        self, fetch: Fetch, order: Iterator[Tensor], share: Share, journal: Journal | None = None
    ) -> Iterator[Batch | None]:
        for positions in order:
            mine = positions[share_of(len(positions), share)]
            yield fetch(mine) if len(mine) and not (journal and journal.repeating) else None


def open_set(data: Any, batch_size: int) -> Source:
    """Make a set readable.

    Args:
        data: a map-style dataset, a tuple or dict of tensors or arrays with one row per sample, a `DataLoader`, or a
            stream: an `IterableDataset` of torch or Hugging Face.
        batch_size: samples per batch, where `data` is no `DataLoader`.

    Raises:
        TypeError: if `data` is none of these, or a stream that can be read only once.
        ValueError: if its columns have different lengths.

    Example:
        >>> source = open_set({"x": torch.zeros(5, 2), "labels": torch.zeros(5)}, batch_size=2)
        >>> source.size, source.batches
        (5, 3)
    """
    if isinstance(data, DataLoader):
        return _open_loader(data)
    batch_size = int(batch_size)  # torch splits by Python's own integers only
    if is_stream(data):
        return _open_stream(data, batch_size)
    fetch, size = _fetcher(data)
    return Source(size, batch_size, -(-size // batch_size), fetch=fetch)


def reopened(source: Source, data: Any, batch_size: int) -> Source:
    """The same set in batches of another size; of a loader, in its own.

    Example:
        >>> x = torch.arange(5)
        >>> reopened(open_set(x, batch_size=2), x, batch_size=3).batches
        2
    """
    return open_set(data, batch_size).with_count(
        source.size, source.batches if source.loader is not None else -(-source.size // batch_size)
    )


def largest_batch(source: Source) -> int:
    """Samples in a full batch; in the longest where the batch sampler of a loader decides, in a mean one of a stream.

    Example:
        >>> largest_batch(open_set(torch.arange(5), batch_size=2))
        2
    """
    return max(source.longest, source.batch_size or -(-source.size // source.batches))


def is_stream(data: Any) -> bool:
    """Whether a set can only be read from its first sample on.

    Example:
        >>> is_stream(TensorDataset(torch.zeros(2)))
        False
    """
    if isinstance(data, DataLoader):
        return is_stream(data.dataset)
    hugging_face = type(data).__module__.partition(".")[0] == "datasets" and type(data).__name__ == "IterableDataset"
    return hugging_face or isinstance(data, IterableDataset)


def base_rows(data: Any) -> tuple[Any, RowNumbers | None]:
    """What a set was cut from: the dataset underneath, and the row numbers in it (None where unknown).

    Example:
        >>> base, rows = base_rows(Subset(Subset(range(10), [5, 6, 7]), [0, 2]))
        >>> base, rows.tolist()
        (range(0, 10), [5, 7])
    """
    if is_stream(data):
        return (data.dataset if isinstance(data, DataLoader) else data), None
    if isinstance(data, DataLoader):
        base, below = base_rows(data.dataset)
        positions = loader_rows(data)
        return base, None if positions is None or below is None else _among(below, positions)
    if isinstance(data, Subset):
        base, below = base_rows(data.dataset)
        return base, None if below is None else _among(below, data.indices)
    data = as_dataset(data)
    return data, range(len(data))


def _among(below: RowNumbers, positions: Any) -> np.ndarray[Any, Any]:
    chosen = _positions(positions, len(below))
    return chosen if isinstance(below, range) else below[chosen]


def chosen_rows(data: Any) -> Rows | None:
    """The rows that `split` chose, where a set is made of them.

    Example:
        >>> rows = Rows("abc", [1])
        >>> chosen_rows(DataLoader(rows)) is rows, chosen_rows("abc") is None
        (True, True)
    """
    data = data.dataset if isinstance(data, DataLoader) else data
    return data if isinstance(data, Rows) else None


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
    if is_stream(loader):
        _require_new_start(loader.dataset)
        return Source(0, loader.batch_size, 0, loader=loader, counted=False)
    batches, batch_size = len(loader), getattr(loader.batch_sampler, "batch_size", None)
    positions = loader_rows(loader)
    if positions is None:
        with undisturbed(generators_of(loader)):
            sizes = _sampled_sizes(loader, batches)
        return Source(sum(sizes), batch_size, batches, loader=loader, longest=max(sizes, default=0))
    in_order = DataLoader(
        loader.dataset,
        batch_size=batch_size,
        sampler=positions.tolist(),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
        prefetch_factor=loader.prefetch_factor,
    )
    return Source(len(positions), batch_size, batches, loader=loader, measured=in_order)


def _open_stream(data: Any, batch_size: int) -> Source:
    _require_new_start(data)
    of_columns = type(data).__module__.partition(".")[0] == "datasets"
    stream = Stream(data, _collate_columns if of_columns else default_collate)
    return Source(0, batch_size, 0, stream=stream, counted=False)


def _require_new_start(data: Any) -> None:
    if iter(data) is iter(data):
        raise TypeError(
            f"Expected a stream that can be read again, got {type(data).__name__}, whose passes are one and the same "
            "iterator: let __iter__ give a new one."
        )


def _collate_columns(rows: list[Mapping[str, Any]]) -> Batch:
    return {key: _as_tensor(key, [row[key] for row in rows]) for key in rows[0]}


def _sampled_sizes(loader: DataLoader[Any], batches: int) -> list[int]:
    """Samples in each batch that a sampler of the user's own gives, read as the loader reads it: twice over."""
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    for _ in range(2):
        sizes = [1 if loader.batch_sampler is None else len(rows) for rows in islice(sampler, batches + 1)]
        if len(sizes) != batches:
            more = "more" if len(sizes) > batches else str(len(sizes))
            raise ValueError(
                f"Expected a sampler that gives its {batches} batches in every pass, got {more} from "
                f"{type(sampler).__name__}: make __len__ and a new __iter__ for each pass agree."
            )
    return sizes


def changes_no_row(data: Subset[Any]) -> bool:
    """Whether its rows are those of the dataset below: a subclass, as for a transform, may change what a row is.

    Example:
        >>> changes_no_row(Subset(range(3), [1])), changes_no_row(Rows(range(3), [1]))
        (True, True)
    """
    kind = type(data)
    return kind.__getitem__ is Subset.__getitem__ and kind.__getitems__ is Subset.__getitems__


def loader_rows(loader: DataLoader[Any]) -> np.ndarray[Any, Any] | None:
    """Positions in the loader's dataset that one pass reads, sorted; None if a sampler of the user decides.

    Example:
        >>> loader_rows(DataLoader(range(3), shuffle=True)), loader_rows(DataLoader(range(3), sampler=[2, 0]))
        (array([0, 1, 2]), None)
    """
    if type(loader.batch_sampler) is not BatchSampler:
        return None
    sampler: Any = loader.batch_sampler.sampler
    if isinstance(sampler, SequentialSampler):
        return np.arange(len(sampler.data_source))
    if (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    ):
        return np.arange(sampler.num_samples)
    if isinstance(sampler, SubsetRandomSampler):
        return np.sort(_positions(sampler.indices, len(loader.dataset)))  # type: ignore[arg-type]
    return None


def _positions(indices: Any, size: int) -> np.ndarray[Any, Any]:
    """Row positions as integers in [0, size).

    Raises:
        ValueError: if they are none; a mask would be read as rows 0 and 1.
    """
    positions = np.asarray(indices.tolist() if isinstance(indices, Tensor) else list(indices))
    if positions.size and positions.dtype.kind not in "iu":
        what = "a mask: pass numpy.flatnonzero(mask)" if positions.dtype == bool else f"{positions.dtype} values"
        raise ValueError(f"Expected row positions, got {what}.")
    positions = positions.astype(np.int64).reshape(-1)
    outside = positions[(positions < -size) | (positions >= size)]
    if outside.size:
        raise ValueError(
            f"Expected row positions in [0, {size}), got {outside.size} others, first {outside[:5].tolist()}."
        )
    return positions % size if size else positions


def _fetcher(data: Any) -> tuple[Fetch, int]:
    """How rows of a set are read by position, and how many there are."""
    if isinstance(data, Subset) and changes_no_row(data):
        fetch, size = _fetcher(data.dataset)
        indices = torch.as_tensor(_positions(data.indices, size))
        return lambda positions: fetch(indices[positions]), len(indices)
    data = as_dataset(data)
    if type(data) is TensorDataset:  # a subclass may change what a row is
        tensors = data.tensors
        return lambda positions: tuple(_gather(column, positions) for column in tensors), len(data)
    if isinstance(data, Columns):
        named = data.columns
        return lambda positions: {key: _gather(column, positions) for key, column in named.items()}, len(data)
    if type(data).__module__.partition(".")[0] == "datasets" and hasattr(data, "with_format"):
        return _fetch_columns(data), len(data)
    if hasattr(data, "__getitems__") and getattr(type(data), "__getitems__", None) is not Subset.__getitems__:
        return lambda positions: default_collate(data.__getitems__(positions.tolist())), len(data)
    return lambda positions: default_collate([data[row] for row in positions.tolist()]), len(data)


def _gather(column: Any, positions: Tensor) -> Any:
    """Rows of a column by indexing: no per-sample Python."""
    if isinstance(column, Tensor):
        return column.index_select(0, positions.to(column.device))
    return column[positions.numpy()].tolist()


def _columns(values: Mapping[str, Any], *, text: bool = False) -> dict[str, Any]:
    """Named tensors with a row per sample; where `text` may stay, arrays of it too."""
    columns = {name: _column(name, value, text=text) for name, value in values.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"Expected tensors with one row per sample, got {sorted(set(sizes.values()))} rows: cut them to the same "
            "length."
        )
    return columns


def _column(name: str, value: Any, *, text: bool) -> Any:
    if type(value).__module__.startswith("datasets."):
        raise ValueError(
            f"Expected tensors or arrays, got a dict of datasets, {name!r} among them: pass one of these splits."
        )
    array = value if isinstance(value, Tensor) else _as_array(value)
    if array is not None and array.ndim == 0:
        raise ValueError(
            f"Expected a column with a row per sample, got a single value {_at(name)}: give it a dimension."
        )
    if isinstance(array, Tensor):
        return array
    if array is not None and array.dtype.kind in "biufc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is ever written to an array that is read-only
            return torch.from_numpy(array.astype(np.int64) if array.dtype in _WIDE else array)
    if (
        array is not None
        and text
        and (array.dtype.kind == "U" or all(isinstance(one, str) or is_missing(one) for one in array.flat))
    ):
        return array
    kind = type(value).__name__ if array is None else f"{array.dtype} values"
    raise ValueError(
        f"Expected columns of numbers with a row per sample, got {kind} {_at(name)}: encode "
        "classes as integers, make rows of one length, and leave out what the model does not read."
    )


def plain(value: Any) -> Any:
    """A number of torch or NumPy as Python's own: as text it is that of no tensor.

    Example:
        >>> plain(torch.tensor(17)), plain("user-17")
        (17, 'user-17')
    """
    return value.tolist() if hasattr(value, "tolist") else value


def is_missing(value: Any) -> bool:
    """None, NaN or pandas' NA: no id, whatever it is compared with.

    Example:
        >>> is_missing(float("nan")), is_missing("nan")
        (True, False)
    """
    own = plain(value)
    return own is None or type(own).__name__ in ("NAType", "NaTType") or own != own


def _at(name: str) -> str:
    return name if name.startswith("at place ") else f"in {name!r}"


_WIDE = tuple(np.dtype(name) for name in ("uint16", "uint32", "uint64"))  # torch hardly computes with these


def _as_array(value: Any) -> Any:
    """A tensor of Python numbers, an array of anything else; None for rows of different lengths."""
    if isinstance(value, list | tuple):
        with suppress(ValueError, TypeError, RuntimeError):
            return torch.as_tensor(value)
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return np.ascontiguousarray(array) if array.ndim else array


def _fetch_columns(data: Any) -> Fetch:
    """Read a Hugging Face dataset column by column, rows that lie together at once; plain columns come as tensors."""
    formatted = data if data.format["type"] in ("torch", "numpy", "custom") else data.with_format("torch")

    def fetch(positions: Tensor) -> Batch:
        rows: Any = positions.tolist()
        if rows == list(range(rows[0], rows[0] + len(rows))):
            rows = slice(rows[0], rows[0] + len(rows))  # several times as fast as a list
        return {key: _as_tensor(key, column) for key, column in formatted[rows].items()}

    return fetch


def _as_tensor(key: str, column: Any) -> Any:
    """A column of numbers as a tensor with a row per sample; anything else as the list it is."""
    if isinstance(column, Tensor):
        return column
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        return torch.as_tensor(column)
    values = column.tolist() if isinstance(column, np.ndarray) and column.dtype != object else list(column)
    if not values or not isinstance(values[0], Tensor | np.ndarray | list | bool | int | float):
        return values
    try:
        rows = [torch.as_tensor(value) for value in values]
    except (ValueError, TypeError, RuntimeError):  # text, or rows of text
        return values
    if len({row.shape for row in rows}) > 1:
        raise ValueError(
            f"Expected rows of one length in column {key!r}, got {sorted({tuple(row.shape) for row in rows})}: "
            "pad them beforehand, or pass a DataLoader whose collate_fn does."
        )
    return torch.stack(rows)
