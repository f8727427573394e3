"""From a training set and a request to the forget set and the retain set."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from nabla_tau.batches import TARGET_KEYS
from nabla_tau.errors import InvalidRequest, Problems, some, whole_number
from nabla_tau.sets import Columns, Rows, as_dataset, changes_no_row, is_missing, plain

UNSEARCHED = "rows with an id that is to be forgotten were not looked for, leave them out yourself"


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
    skip_unknown: bool = False,
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
        ids: forget every row whose id is among these, compared as text.
        id_column: the column that holds the ids.
        skip_unknown: leave out ids that occur in no row, and say so in the result, rather than refuse the request.
        fraction: forget a random share ρ of the rows, in (0, 1).
        seed: of the random share.

    Returns:
        `Parts(forget, retain)`, in the order of the rows.

    Raises:
        InvalidRequest: if the request does not fit the data, with every problem found.

    Example:
        >>> parts = split((torch.zeros(10, 2), torch.arange(10) % 2), classes=[1])
        >>> parts.forget.indices, len(parts.retain)
        ([1, 3, 5, 7, 9], 5)
        >>> split(range(10), forget=[4, 2]).forget.indices
        [2, 4]
        >>> len(split(range(10), fraction=0.3).forget)
        3
    """
    ids, of_ids = _listed(ids)
    selectors = {"forget": forget, "classes": classes, "ids": ids, "fraction": fraction}
    problems = Problems([*whole_number("seed", seed, 0, 2**32), *of_ids])
    given = [name for name, value in selectors.items() if value is not None]
    if len(given) != 1:
        problems.append(f"split: expected exactly one of {', '.join(selectors)}, got {', '.join(given) or 'none'}.")
    if (ids is None) != (id_column is None):
        problems.append("ids: expected ids and id_column together, got one of them: name the column that holds them.")
    for name, value in (("classes", classes), ("ids", ids)):
        if value is not None and (isinstance(value, str | bytes) or not isinstance(value, Iterable)):
            problems.append(f"{name}: expected a list, got {value!r}: write [{value!r}] for a single one.")
    if fraction is not None and not (isinstance(fraction, Real) and 0 < fraction < 1):
        problems.append(f"fraction: expected a number in (0, 1), got {fraction!r}.")
    with problems.gathered("train", "a dataset to split", "give it __len__ and __getitem__."):
        if isinstance(train, DataLoader):
            raise TypeError(
                "Expected a dataset to split, got a DataLoader: pass loader.dataset, wrap the parts afterwards."
            )
        data = as_dataset(train)
        size = len(data)
        if size == 0:
            problems.append("train: expected samples, got an empty set.")
    problems.refuse()
    advice = "see what the training set holds, and what was asked for."
    with problems.gathered(given[0], "a request that fits the training set", advice):
        parts = _split(data, size, given[0], selectors[given[0]], id_column, skip_unknown, seed)
    problems.refuse()
    return parts


def _split(
    data: Any, size: int, selector: str, asked: Any, id_column: str | None, skip_unknown: bool, seed: int
) -> Parts:
    column: list[Any] | None = None
    unknown: list[str] = []
    mask: np.ndarray[Any, Any]
    if selector == "classes":
        mask = _of_classes(data, [plain(value) for value in asked])
    elif selector == "ids" and id_column is not None:
        column = read_column(data, id_column)
        mask, unknown = _of_ids(column, asked, id_column, skip_unknown=skip_unknown)
    elif selector == "fraction":
        mask = _random_share(size, asked, seed)
    else:
        mask = _of_rows(data, asked)
    for name, count in (("forget", int(mask.sum())), ("retain", int((~mask).sum()))):
        if count == 0:
            raise ValueError(
                f"Expected rows to {name}, got none of {size}: "
                + ("there is nothing to unlearn." if name == "forget" else "nothing would be left; delete the model.")
            )
    remark = None
    if unknown:
        remark = (
            f"{len(unknown)} of the ids occur in no row of column {id_column!r} and were skipped; without that "
            "the error lists them."
        )
    forget, retain = (np.flatnonzero(part) for part in (mask, ~mask))
    return Parts(
        _rows(data, forget, column, id_column, unknown_ids=unknown, remark=remark),
        _rows(data, retain, column, id_column),
    )


def with_ids(data: Any, ids: Iterable[Any], id_column: str) -> Any:
    """The rows of these ids alone, in a set that has the column; the set itself where all are, or it has no column.

    Args:
        data: any set.
        ids: as in `split`.
        id_column: the column that holds the ids.

    Example:
        >>> test = {"x": torch.zeros(3), "user_id": np.array(["user-1", "user-2", "user-2"])}
        >>> kept = with_ids(test, ["user-2"], "user_id")
        >>> kept.indices, kept.remark
        ([1, 2], '1 rows of other ids were left out: matched samples are of the forgotten ids alone.')
    """
    try:
        whole = as_dataset(data)
        column = read_column(whole, id_column)
    except (ValueError, TypeError):
        return data
    mask, _ = _of_ids(column, ids, id_column, skip_unknown=True)
    if mask.all() or not mask.any():
        return data
    remark = f"{(~mask).sum()} rows of other ids were left out: matched samples are of the forgotten ids alone."
    return _rows(whole, np.flatnonzero(mask), column, id_column, remark=remark)


def without_ids(data: Any, ids: Iterable[Any], id_column: str, that: str = "is to be forgotten") -> Any:
    """A set without the rows of these ids, which says how many were left out; the set itself where there are none.

    A set without the column stays whole, and says so; of what has no rows, as a `DataLoader`, comes None.

    Args:
        data: any set.
        ids: as in `split`.
        id_column: the column that holds the ids.
        that: why, for what is said.

    Example:
        >>> validation = {"x": torch.zeros(3), "user_id": np.array(["user-1", "user-2", "user-3"])}
        >>> kept = without_ids(validation, ["user-2"], "user_id")
        >>> kept.indices, kept.remark
        ([0, 2], '1 rows have an id that is to be forgotten and were left out (rows 1).')
    """
    try:
        whole = as_dataset(data)
    except (ValueError, TypeError):
        return None
    try:
        column = read_column(whole, id_column)
    except (ValueError, TypeError):
        return Rows(whole, range(len(whole)), remark=f"{UNSEARCHED}: it has no column {id_column!r}.")
    mask, _ = _of_ids(column, ids, id_column, skip_unknown=True)
    if not mask.any():
        return data
    rows = np.flatnonzero(mask).tolist()
    remark = f"{len(rows)} rows have an id that {that} and were left out (rows {some(rows)})."
    return _rows(whole, np.flatnonzero(~mask), column, id_column, remark=remark)


def unknown_ids(data: Any, ids: Iterable[Any], id_column: str) -> list[str]:
    """Which of these ids occur in no row; all of them where the set has no such column.

    Example:
        >>> unknown_ids({"x": torch.zeros(2), "user_id": np.array([7, 8])}, ["7", "8.0"], "user_id")
        ['8.0']
    """
    try:
        column = read_column(as_dataset(data), id_column)
    except (ValueError, TypeError):
        return sorted({str(plain(value)) for value in ids})
    return _of_ids(column, ids, id_column, skip_unknown=True)[1]


def read_column(data: Any, name: str) -> list[Any]:
    """One value per row from a dataset whose samples are dicts.

    Raises:
        ValueError: if there is no such column; the columns that there are, are named.

    Example:
        >>> read_column([{"user_id": "user-17"}, {"user_id": "user-40"}], "user_id")
        ['user-17', 'user-40']
    """
    if isinstance(data, Subset) and changes_no_row(data):
        whole = read_column(data.dataset, name)
        return [whole[row] for row in data.indices]
    columns: list[str] = []
    if isinstance(data, Columns):
        columns = list(data.columns)
        if name in columns:
            return list(data.columns[name].tolist())
    elif isinstance(getattr(data, "column_names", None), list) and hasattr(data, "with_format"):
        columns = data.column_names
        if name in columns:
            return list(data.with_format(None)[name])
    elif len(data) and isinstance(first := data[0], Mapping):
        columns = list(first)
        if name in first:
            return [plain(data[row][name]) for row in range(len(data))]
    if not columns:
        raise ValueError(
            f"Expected a column {name!r}, got samples without column names: pass a dict of columns, "
            f"{{'input': ..., 'labels': ..., {name!r}: ...}}, or a dataset of dicts; or name row positions instead."
        )
    near = get_close_matches(str(name), columns, n=1)
    raise ValueError(
        f"Expected a column {name!r}, got a dataset with columns {', '.join(map(repr, columns))}: "
        + (f"write {near[0]!r}." if near else "name the one that holds the ids.")
    )


def _rows(data: Any, rows: np.ndarray[Any, Any], column: list[Any] | None, id_column: str | None, **told: Any) -> Rows:
    ids = None if column is None else [column[row] for row in rows]
    return Rows(data, rows.tolist(), ids, id_column, **told)


def _of_rows(data: Any, forget: Any) -> np.ndarray[Any, Any]:
    size = len(data)
    if callable(forget):
        return _of_predicate(data, forget)
    forget = forget.tolist() if hasattr(forget, "tolist") else forget
    if isinstance(forget, str | bytes) or not isinstance(forget, Iterable):
        raise ValueError(f"Expected row positions, a boolean mask or a predicate, got {forget!r}: write [{forget!r}].")
    values = np.asarray(list(forget))
    if values.dtype == bool:
        if values.shape != (size,):
            raise ValueError(f"Expected a mask with one entry for each of {size} rows, got shape {values.shape}.")
        return values
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"Expected row positions, a boolean mask or a predicate, got {values.dtype} values.")
    if size > 2 and values.shape == (size,) and np.isin(values, (0, 1)).all():
        raise ValueError(f"Expected a boolean mask, got {size} times 0 or 1: convert it to booleans.")
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
    mask = np.zeros(len(plain), dtype=bool)
    for row in range(len(plain)):
        sample = plain[row]
        try:
            answer = predicate(sample)
            if answer is None or isinstance(answer, str):
                raise TypeError(f"the predicate gave {answer!r}, which is neither True nor False")
            mask[row] = bool(answer)
        except Exception as error:
            keys = f" with {', '.join(map(repr, sample))}" if isinstance(sample, Mapping) else ""
            error.add_note(f"on row {row}, a {type(sample).__name__}{keys}")
            raise
    return mask


def _of_classes(data: Any, classes: list[int]) -> np.ndarray[Any, Any]:
    targets = _targets(data)
    array = isinstance(targets, np.ndarray)
    if targets.ndim > 2 if array else any(isinstance(one, list) for row in targets for one in row):
        raise ValueError(
            "Expected a class or labels for each row, got targets of more dimensions, as masks are: name the rows, "
            "forget=[...]."
        )
    if isinstance(targets, np.ndarray) and targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]  # a class a row, as `losses.binary` takes them
    if isinstance(targets, np.ndarray) and targets.ndim == 2:
        known = set(range(targets.shape[1]))
        mask = targets[:, sorted(int(label) for label in known & set(classes))].astype(bool).any(axis=1)
    elif isinstance(targets, np.ndarray):
        known = set(targets.tolist())
        mask = np.isin(targets, [label for label in classes if label in known])
    else:
        known = {label for labels in targets for label in labels}
        mask = np.array([not known_in.isdisjoint(classes) for known_in in map(set, targets)])
    if missing := sorted(set(classes) - known, key=str):
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
    if not isinstance(sample, tuple | list) or not sample:
        raise ValueError(f"Expected samples (input, ..., target) to find classes in, got {type(sample).__name__}.")
    return sample[-1].tolist() if isinstance(sample[-1], torch.Tensor) else sample[-1]


def _as_targets(values: Sequence[Any]) -> Any:
    lengths = {len(value) if isinstance(value, list) else -1 for value in values}
    zero_or_one = lengths != {-1} and all(label in (0, 1) for value in values for label in value)
    if lengths == {-1} or (len(lengths) == 1 and zero_or_one):
        return np.asarray(values)
    return values


def _of_ids(
    column: list[Any], ids: Iterable[Any], id_column: str, *, skip_unknown: bool
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Rows whose id is asked for, and the ids that occur in none."""
    wanted = {str(plain(value)) for value in ids}
    there = [None if is_missing(value) else str(value) for value in column]  # a row without an id is nobody's
    decimals = " (the column holds decimals, as 17.0 for 17: make them whole numbers)" * _are_decimals(column)
    unknown = sorted(wanted - set(there))
    alike = {_plainly(value) for value in there if value is not None}
    written = [value for value in unknown if _plainly(value) in alike]
    if unknown and not skip_unknown:
        otherwise = f" ({len(written)} of them do but for blanks, or for how letters with marks are composed)"
        raise InvalidRequest(
            [
                f"ids: expected ids that occur in column {id_column!r}, got {len(unknown)} of {len(wanted)} that do "
                f"not ({some([repr(value) for value in unknown])}){otherwise * bool(written)}{decimals}: check the "
                "list, or whether these rows were in the training data at all; skip_unknown=True (--skip-unknown) "
                "leaves them out."
            ],
            {"unknown_ids": unknown},
        )
    return np.array([value in wanted for value in there], dtype=bool), unknown


def _plainly(value: str) -> str:
    """What a reader sees of an id: in one of the ways to compose a letter and its mark, without blanks around."""
    return unicodedata.normalize("NFC", value).strip()


def _listed(ids: Any) -> tuple[Any, list[str]]:
    """Ids as a list, if they are several, and what is wrong with them."""
    if hasattr(ids, "columns"):
        return [], ["ids: expected a list, got a table: pass its column of ids."]
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        return ids, []
    listed = list(ids)
    missing = sum(map(is_missing, listed))
    told = f"ids: expected ids, got {missing} that are None or NaN: leave out the lines of your list that have none."
    return listed, [told] if missing else []


def _are_decimals(column: list[Any]) -> bool:
    """Whole numbers among which there was a gap, as pandas keeps them."""
    return any(isinstance(value, float) and not is_missing(value) for value in column)


def _random_share(size: int, fraction: float, seed: int) -> np.ndarray[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    mask = np.zeros(size, dtype=bool)
    mask[torch.randperm(size, generator=generator)[: round(fraction * size)].numpy()] = True
    return mask
