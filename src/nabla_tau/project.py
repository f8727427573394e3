"""A user's project file: one function that returns `unlearn`'s arguments."""

import csv
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from nabla_tau.errors import InvalidRequest, Problems, some
from nabla_tau.sets import Rows, as_dataset
from nabla_tau.splitting import UNSEARCHED, read_column, split, unknown_ids, with_ids, without_ids

AUDITED, TUNED = ("test", "retrained", "matched"), ("own_validation",)
RESOURCES = ("micro_batch_size", "in_place", "shard", "gradient_checkpointing")
SHARED = ("model", "forget", "retain", "validation", "method", "loss", "seed", "batch_size", "device")
ARGUMENTS = (*SHARED, *RESOURCES, *AUDITED, *TUNED)
REQUIRED = {
    "unlearn": ("model", "forget", "retain", "validation"),
    "audit": ("model", "forget", "retain", "test"),
    "tune": ("model", "forget", "retain", "validation"),
}
UNREAD = {
    "unlearn": (*AUDITED, *TUNED),
    "audit": ("method", *RESOURCES, *TUNED),
    "tune": ("method", *RESOURCES, *AUDITED),
}


def read_project(
    target: str,
    *,
    ids_file: Path | None,
    id_column: str | None,
    skip_unknown: bool = False,
    forgotten: Path | None = None,
    command: str = "unlearn",
) -> dict[str, Any]:
    """Call the user's function and complete what it returns.

    Args:
        target: `path/to/file.py:function` or `package.module:function`.
        ids_file: a CSV file with the ids to forget, where the function returns `train` instead of the parts.
        id_column: the column of ids, in the file and in the training set. Rows of the validation and the test set that
            have one of the ids are left out of these, too; where they could not be looked for, that is said.
        skip_unknown: leave out ids that the training set does not hold.
        forgotten: a CSV file like `ids_file`, with the ids that were forgotten before: their rows are left out of every
            set, else the retain set would teach them again.
        command: `unlearn`, `audit` or `tune`: which entries are needed, and which others read and are left out.

    Returns:
        Keyword arguments of `unlearn` or `audit`, with `model`.

    Raises:
        InvalidRequest: if the function cannot be found or returns something else, with every problem found.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "project_of_mine.py"
        ...     _ = file.write_text("def sets(): return dict(model=0, forget=1, retain=2, validation=3)")
        ...     read_project(f"{file}:sets", ids_file=None, id_column=None)
        {'model': 0, 'forget': 1, 'retain': 2, 'validation': 3}
    """
    arguments = _returned(target)
    problems = Problems(_name_problems(arguments, target, ids_file, command))
    ids: list[str] = []
    before: list[str] = []
    if ids_file is not None:
        with problems.gathered("--forget", f"ids in {ids_file}", "mend it."):
            ids = _as_in_the_sets(read_ids(ids_file, id_column or ""), arguments, id_column or "")
    if forgotten is not None:
        with problems.gathered("--forgotten", f"ids in {forgotten}", "mend it."):
            before = _as_in_the_sets(read_ids(forgotten, id_column or "", "--forgotten"), arguments, id_column or "")
    if both := sorted(set(ids) & set(before)):
        problems.append(
            f"--forgotten: expected other ids than those of --forget, got {len(both)} in both "
            f"({some([repr(one) for one in both])}): take them out of one list; who was forgotten is in no set."
        )
    elif before:
        _leave_out(arguments, before, id_column or "")
    if ids and "train" in arguments:
        with problems.gathered("train", "a set that can be split by ids", "give a map-style dataset or a dict."):
            parts = split(arguments.pop("train"), ids=ids, id_column=id_column, skip_unknown=skip_unknown)
            arguments.update(forget=parts.forget, retain=parts.retain)
            if "test" in arguments and arguments.get("matched"):
                arguments["test"] = with_ids(arguments["test"], ids, id_column or "")
            for name in ("validation", "test"):
                if name in arguments and not (name == "test" and arguments.get("matched")):
                    found = without_ids(arguments[name], ids, id_column or "")
                    if found is None:
                        kind = type(arguments[name]).__name__
                        warnings.warn(f"{name}: {UNSEARCHED}: a {kind} has no rows.", stacklevel=2)
                    else:
                        arguments[name] = found
    problems.refuse()
    return {name: value for name, value in arguments.items() if name not in UNREAD[command]}


def _as_in_the_sets(ids: list[str], arguments: dict[str, Any], id_column: str) -> list[str]:
    """Ids as the sets write them: as they are or, where none has such an id, without blanks around them."""
    if all(one == one.strip() for one in ids):
        return ids
    known: set[str] = set()
    for name in ("train", "validation", "test"):
        with suppress(ValueError, TypeError, KeyError):  # no such set or column: told where it is needed
            known |= {str(one) for one in read_column(as_dataset(arguments[name]), id_column)}
    return [one if one in known or one.strip() not in known else one.strip() for one in ids]


def _leave_out(arguments: dict[str, Any], ids: list[str], id_column: str) -> None:
    """Take the rows of people who were forgotten before out of every set that has the column."""
    unknown = unknown_ids(arguments["train"], ids, id_column) if "train" in arguments else []
    for name in ("train", "validation", "test"):
        if name not in arguments:
            continue
        found = without_ids(arguments[name], ids, id_column, "was forgotten before")
        if isinstance(found, Rows) and found.remark and UNSEARCHED not in found.remark:  # that is said later
            warnings.warn(f"{name}: {found.remark}", stacklevel=2)
            arguments[name] = Rows(found.dataset, found.indices)  # its parts will have remarks of their own
    if unknown:
        named = some([repr(one) for one in unknown])
        warnings.warn(
            f"--forgotten: {len(unknown)} of {len(ids)} ids are in no row of train ({named}): right where their rows "
            "are not in it any more; else look how the ids are written, which are compared as text.",
            stacklevel=2,
        )


def _returned(target: str) -> dict[str, Any]:
    """The dict that the user's function gives, to be changed."""
    function = find_function(target)
    problems = Problems()
    with problems.gathered("target", f"a dict from {target}", "it is called without arguments; mend it."):
        returned = _not_ended(target, function)
        if not isinstance(returned, dict):
            raise InvalidRequest(
                [f"target: expected a dict of arguments plus 'model' from {target}, got {type(returned).__name__}."]
            )
    problems.refuse()
    return dict(returned)


def _name_problems(arguments: dict[str, Any], target: str, ids_file: Path | None, command: str) -> list[str]:
    """What is missing in the dict, or does not belong there."""
    problems = []
    required: tuple[str, ...] = REQUIRED[command]
    if "train" in arguments:
        required = tuple(name for name in required if name not in ("forget", "retain"))
        if ids_file is None:
            problems.append(
                f"--forget: expected --forget FILE --id-column NAME where {target} returns 'train', got neither."
            )
        if given := sorted({"forget", "retain"} & set(arguments)):
            problems.append(f"target: expected 'train' or the parts, got 'train' and {', '.join(given)}.")
    elif ids_file is not None:
        problems.append(
            f"--forget: expected 'train' in the dict from {target}, to be split, got {', '.join(map(str, arguments))}."
        )
    problems += [
        f"target: expected {name} rows that the model was never trained on, got 'train' itself as {name!r} from "
        f"{target}: hold rows out."
        for name in ("validation", "test")
        if "train" in arguments and arguments.get(name) is arguments["train"]
    ]
    problems += [
        f"target: expected {name!r} in the dict from {target}, got none."
        for name in required
        if arguments.get(name) is None
    ]
    if unknown := [name for name in arguments if name not in (*ARGUMENTS, "train")]:
        problems.append(f"target: expected only {', '.join(ARGUMENTS)} or train, got {', '.join(map(repr, unknown))}.")
    return problems


def find_function(target: str) -> Callable[[], Any]:
    """The function that `file.py:function` or `package.module:function` names. Its module is run.

    Raises:
        InvalidRequest: if it cannot be found.

    Example:
        >>> find_function("json:loads").__name__
        'loads'
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise InvalidRequest(
            [f"target: expected my_project.py:function, got {target!r}: name the function after a colon."]
        )
    if where.endswith(".py"):
        module = _load_file(Path(where))
    else:
        sys.path.insert(0, str(Path.cwd()))  # an installed command does not look here by itself
        module = _run(where, lambda: importlib.import_module(where))
    function = getattr(module, name, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InvalidRequest([f"target: expected a function {name!r} in {where}, got {', '.join(found) or 'none'}."])
    return function  # type: ignore[no-any-return]


def read_ids(path: Path, column: str, option: str = "--forget") -> list[str]:
    r"""The ids in a CSV file with a header, in its order and as they are written; empty lines are left out.

    Raises:
        InvalidRequest: if the file or the column is missing, a line has no id or other cells than the first line names,
            or there is no id.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "ids.csv"
        ...     _ = file.write_text("user_id,since\nuser-17,2024\nuser-40,2025\n")
        ...     read_ids(file, "user_id")
        ['user-17', 'user-40']
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest([f"{option}: expected {path} to be a CSV file in UTF-8, got {error}."]) from error
    if names.count(column) != 1:
        found = ", ".join(map(repr, names)) or "an empty file"
        advice = "name one of the first line with --id-column; the first line has the names, not an id"
        if len(names) == 1 and set(names[0]) & set(";\t|"):
            advice = "separate columns by commas"
        raise InvalidRequest([f"{option}: expected one column {column!r} in {path}, got {found}: {advice}."])
    place = names.index(column)
    lines = [(number, cells) for number, cells in lines if any(cell.strip() for cell in cells)]
    odd = [
        number
        for number, cells in lines
        if len(cells) != len(names) or not cells[place].strip() or any("\n" in one for one in cells)
    ]
    if odd:
        raise InvalidRequest(
            [
                f"{option}: expected lines with an id and as many cells as the first line of {path} names, got "
                f"{len(odd)} others (lines {some(odd)}): nobody is left out for a missing comma or quote; mend them."
            ]
        )
    if not lines:
        raise InvalidRequest([f"{option}: expected ids in column {column!r} of {path}, got none."])
    return [cells[place] for _, cells in lines]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise InvalidRequest([f"target: expected a Python file, got {path}, which is none: check the path."])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidRequest([f"target: expected a Python file, got {path}, which cannot be loaded."])
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # so that it can import its neighbours, as when run
    sys.modules[path.stem] = module
    loader = spec.loader
    _run(str(path), lambda: loader.exec_module(module))
    return module


def _not_ended(where: str, call: Callable[[], Any]) -> Any:
    """What a call gives; an exit in it would end the command as if its work were done."""
    try:
        with redirect_stdout(sys.stderr):  # standard output is the command's own, of which --json promises one object
            return call()
    except SystemExit as ended:
        raise InvalidRequest(
            [
                f"target: expected {where} to come to its end, got an exit ({ended.code!r}): put what a script does "
                "under `if __name__ == '__main__':`."
            ]
        ) from None


def _run(where: str, load: Callable[[], Any]) -> Any:
    problems = Problems()
    with problems.gathered("target", f"a module {where} that can be run", "mend it."):
        try:
            return _not_ended(where, load)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{where}.".startswith(f"{error.name}."):
                raise InvalidRequest(
                    [f"target: expected a module {where!r}, got none: check name and folder."]
                ) from error
            raise
    problems.refuse()
    return None
