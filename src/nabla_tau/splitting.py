"""From a training set and a request to the forget set and the retain set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from nabla_tau.batches import TARGET_KEYS
from nabla_tau.sets import Columns, Rows, as_dataset


@dataclass(frozen=True)
class Parts:
    """The two halves of a training set. Unpacks as `forget, retain`.

    Attributes:
        forget: D_f, the samples to remove.
        retain: D_r, all others.

    Example:
        >>> forget, retain = split("abcd", forget=[1])
        >>> list(forget), list(retain)
        (['b'], ['a', 'c', 'd'])
    """

    forget: Rows
    retain: Rows

    def __iter__(self) -> Any:
        return iter((self.forget, self.retain))


def split(
    train: Any,
    *,
    forget: Any = None,
    classes: Iterable[int] | None = None,
    ids: Iterable[Any] | None = None,
    id_column: str | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> Parts:
    """Split a training set into what is to be forgotten and what is kept. Nothing is copied.

    Exactly one of `forget`, `classes`, `ids` and `fraction` says what to forget.

    Args:
        train: a map-style dataset (torch or Hugging Face), or a tuple or dict of tensors or arrays.
        forget: row positions; or a boolean mask with one entry per row; or a predicate that is given each sample
            (a dict of columns, or a tuple) and says whether to forget it.
        classes: forget every row of these classes; in multi-label data, every row that carries one of them.
        ids: forget every row whose id is among these.
        id_column: the column that holds the ids.
        fraction: forget a random share ρ of the rows, in (0, 1).
        seed: of the random share.

    Returns:
        `Parts(forget, retain)`, in the order of the rows.

    Raises:
        TypeError: if `train` is a `DataLoader` (pass its dataset).
        ValueError: if the request does not fit the data; every problem found is named.

    Example:
        >>> parts = split((torch.zeros(10, 2), torch.arange(10) % 2), classes=[1])
        >>> parts.forget.indices, len(parts.retain)
        ([1, 3, 5, 7, 9], 5)
        >>> split(range(10), forget=[4, 2]).forget.indices
        [2, 4]
        >>> len(split(range(10), fraction=0.3).forget)
        3
    """
    if isinstance(train, DataLoader):
        raise TypeError(
            "Expected a dataset to split, got a DataLoader: pass loader.dataset, wrap the parts afterwards."
        )
    data = as_dataset(train)
    selectors = {"forget": forget, "classes": classes, "ids": ids, "fraction": fraction}
    given = [name for name, value in selectors.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"Expected exactly one of {', '.join(selectors)}, got {', '.join(given) or 'none'}.")
    if (ids is None) != (id_column is None):
        raise ValueError("Expected ids and id_column together, got one of them: name the column that holds the ids.")
    column = None
    mask: np.ndarray[Any, Any]
    if classes is not None:
        mask = _of_classes(data, list(classes))
    elif ids is not None and id_column is not None:
        column = read_column(data, id_column)
        mask = _of_ids(column, list(ids), id_column)
    elif fraction is not None:
        mask = _random_share(len(data), fraction, seed)
    else:
        mask = _of_rows(data, forget)
    for name, count in (("forget", int(mask.sum())), ("retain", int((~mask).sum()))):
        if count == 0:
            raise ValueError(
                f"Expected rows to {name}, got none of {len(data)}: "
                + ("there is nothing to unlearn." if name == "forget" else "nothing would be left; delete the model.")
            )
    return Parts(*(_rows(data, np.flatnonzero(part), column, id_column) for part in (mask, ~mask)))


def read_column(data: Any, name: str) -> list[Any]:
    """One value per row from a dataset whose samples are dicts.

    Raises:
        ValueError: if there is no such column; the columns that there are, are named.

    Example:
        >>> read_column([{"user_id": "user-17"}, {"user_id": "user-40"}], "user_id")
        ['user-17', 'user-40']
    """
    if isinstance(data, Subset):
        whole = read_column(data.dataset, name)
        return [whole[row] for row in data.indices]
    if isinstance(data, Columns) and name in data.columns:
        return list(data.columns[name].tolist())
    columns = getattr(data, "column_names", None)
    if isinstance(columns, list) and hasattr(data, "with_format"):
        if name in columns:
            return list(data.with_format(None)[name])
    elif len(data) and isinstance(first := data[0], Mapping):
        columns = list(first)
        if name in first:
            return [data[row][name] for row in range(len(data))]
    found = ", ".join(map(repr, columns or getattr(data, "columns", None) or ())) or "none"
    raise ValueError(f"Expected a column {name!r}, got a dataset with columns: {found}.")


def _rows(data: Any, rows: np.ndarray[Any, Any], column: list[Any] | None, id_column: str | None) -> Rows:
    ids = None if column is None else [column[row] for row in rows]
    return Rows(data, rows.tolist(), ids, id_column)


def _of_rows(data: Any, forget: Any) -> np.ndarray[Any, Any]:
    size = len(data)
    if callable(forget):
        return _of_predicate(data, forget)
    values = np.asarray(forget.tolist() if hasattr(forget, "tolist") else list(forget))
    if values.dtype == bool:
        if values.shape != (size,):
            raise ValueError(f"Expected a mask with one entry for each of {size} rows, got shape {values.shape}.")
        return values
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"Expected row positions, a boolean mask or a predicate, got {values.dtype} values.")
    values = values.astype(np.int64)
    problems = []
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        problems.append(f"{outside.size} outside [0, {size}), first {outside[:5].tolist()}")
    unique, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        problems.append(f"{int((counts > 1).sum())} named more than once, first {unique[counts > 1][:5].tolist()}")
    if problems:
        raise ValueError(f"Expected distinct row positions in [0, {size}), got {'; and '.join(problems)}.")
    mask = np.zeros(size, dtype=bool)
    mask[values] = True
    return mask


def _of_predicate(data: Any, predicate: Callable[[Any], Any]) -> np.ndarray[Any, Any]:
    plain = data.with_format(None) if hasattr(data, "with_format") else data
    return np.fromiter((bool(predicate(plain[row])) for row in range(len(plain))), dtype=bool, count=len(plain))


def _of_classes(data: Any, classes: list[int]) -> np.ndarray[Any, Any]:
    targets = _targets(data)
    if isinstance(targets, np.ndarray) and targets.ndim == 2:
        known = set(range(targets.shape[1]))
        mask = targets[:, sorted(known & set(classes))].astype(bool).any(axis=1)
    elif isinstance(targets, np.ndarray):
        known = set(targets.tolist())
        mask = np.asarray(np.isin(targets, classes))
    else:
        known = {label for labels in targets for label in labels}
        mask = np.array([not known_in.isdisjoint(classes) for known_in in map(set, targets)])
    if missing := sorted(set(classes) - known):
        raise ValueError(f"Expected classes that occur among {len(data)} rows, got {missing}: see the targets.")
    return np.asarray(mask)


def _targets(data: Any) -> Any:
    """Targets as an array (N,) or (N, L), or as a list of lists of labels."""
    if isinstance(data, TensorDataset):
        return data.tensors[-1].cpu().numpy()
    names = getattr(data, "columns", None) or getattr(data, "column_names", None)
    if isinstance(names, list | dict):
        key = next((key for key in TARGET_KEYS if key in names), None)
        if key is None:
            raise ValueError(f"Expected a column of targets ({', '.join(TARGET_KEYS)}), got {', '.join(names)}.")
        return _as_targets(read_column(data, key))
    return _as_targets([_target(data[row]) for row in range(len(data))])


def _target(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        key = next((key for key in TARGET_KEYS if key in sample), None)
        if key is None:
            raise ValueError(f"Expected targets under one of {', '.join(TARGET_KEYS)}, got {', '.join(sample)}.")
        sample = (sample[key],)
    return sample[-1].tolist() if isinstance(sample[-1], torch.Tensor) else sample[-1]


def _as_targets(values: Sequence[Any]) -> Any:
    lengths = {len(value) if isinstance(value, list) else -1 for value in values}
    zero_or_one = lengths != {-1} and all(label in (0, 1) for value in values for label in value)
    if lengths == {-1} or (len(lengths) == 1 and zero_or_one):
        return np.asarray(values)
    return values


def _of_ids(column: list[Any], ids: list[Any], id_column: str) -> np.ndarray[Any, Any]:
    wanted, there = {str(value) for value in ids}, [str(value) for value in column]
    if missing := sorted(wanted - set(there)):
        raise ValueError(
            f"Expected ids that occur in column {id_column!r}, got {len(missing)} of {len(wanted)} that do not, "
            f"first {missing[:5]}: check the list, or whether these rows were in the training data at all."
        )
    return np.array([value in wanted for value in there])


def _random_share(size: int, fraction: float, seed: int) -> np.ndarray[Any, Any]:
    if not 0 < fraction < 1:
        raise ValueError(f"Expected a fraction in (0, 1), got {fraction}.")
    generator = torch.Generator().manual_seed(seed)
    mask = np.zeros(size, dtype=bool)
    mask[torch.randperm(size, generator=generator)[: round(fraction * size)].numpy()] = True
    return mask
