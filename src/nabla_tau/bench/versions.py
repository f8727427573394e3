"""Versions of the code that were shown to give the same numbers: cells of one may stand beside cells of the other."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nabla_tau.bench.alpha import STUDY
from nabla_tau.bench.cells import DONE, NOT_APPLICABLE, REFERENCES
from nabla_tau.bench.records import ROWS, read_cell
from nabla_tau.bench.storing import Json, write_json
from nabla_tau.errors import InvalidRequest, Problems

SAME = "same.json"
"""Name of the file, in the folder of results."""

MEASURED = ("status", "steps", "audit", "js_to_retrained")
"""What has to be equal to the last bit; the fingerprint of the weights is a part of the audit."""

WORDS = ("sentence", "advice", "over_forgetting", "rule", "primary")
"""How a verdict puts its numbers: another wording is no other result."""

MACHINE = ("versions", "device", "processor", "threads")
"""What both have to be measured on, as far as a cell tells."""

CODE_OF = dict.fromkeys(STUDY, min(STUDY))
"""Column of the study -> the first, whose code it is with another setting."""

Successors = dict[str, str]
"""Digest of a version -> that of the newest one which gives the same numbers."""


@dataclass(frozen=True)
class Versions:
    """Which digests of code stand for which; what was shown on one task says nothing about another.

    Attributes:
        measuring: task -> versions of the code that measures.
        methods: (task, name of a method) -> its versions.
    """

    measuring: Mapping[str, Successors] = field(default_factory=dict)
    methods: Mapping[tuple[str, str], Successors] = field(default_factory=dict)

    def newest(self, record: Json) -> Json:
        """A cell under the digests of the newest code that gives its numbers.

        Example:
            >>> versions = Versions({"cifar10": {"0a": "2c", "1b": "2c"}}, {("cifar10", "ssd"): {"7f": "8e"}})
            >>> cell = {"task": "cifar10", "method": "ssd"}
            >>> found = versions.newest({"cell": cell, "code": "0a", "method_code": "7f"})
            >>> found["code"], found["method_code"]
            ('2c', '8e')
        """
        task, name = record["cell"]["task"], record["cell"]["method"]
        code, method_code = record["code"], record.get("method_code") or ""
        of_method = self.methods.get((task, CODE_OF.get(name, name)), {})
        return {
            **record,
            "code": self.measuring.get(task, {}).get(code, code),
            "method_code": of_method.get(method_code, method_code) or None,
        }


def read_versions(folder: Path, problems: Problems) -> Versions:
    """What `SAME` in a folder of results says; nothing where there is none.

    Args:
        folder: of results.
        problems: takes one, if the file is something else.

    Example:
        >>> read_versions(Path("nowhere"), Problems())
        Versions(measuring={}, methods={})
    """
    with problems.gathered("results", f"versions in {folder / SAME}", "put back what it held."):
        return _read(folder)
    return Versions()


def _read(folder: Path) -> Versions:
    measuring: dict[str, list[tuple[str, str]]] = defaultdict(list)
    methods: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for entry in _entries(folder / SAME):
        older, newer = entry["older"], entry["newer"]
        if entry["method"] in REFERENCES:
            measuring[entry["task"]].append((older["code"], newer["code"]))
        else:
            name: str = entry["method"]
            methods[entry["task"], CODE_OF.get(name, name)].append((older["method_code"], newer["method_code"]))
    return Versions(
        {task: newest(pairs) for task, pairs in measuring.items()},
        {method: newest(pairs) for method, pairs in methods.items()},
    )


def newest(pairs: Sequence[tuple[str, str]]) -> Successors:
    """Digest -> that of the newest version which gives its numbers: one that is no pair's older.

    Args:
        pairs: (older, newer); what is joined by any of them is the same. Of several that are no pair's older, the one
            at the end of the longest way stands for all.

    Example:
        >>> newest([("0a", "1b"), ("1b", "2c"), ("0a", "1d")])
        {'0a': '2c', '1b': '2c', '2c': '2c', '1d': '2c'}
        >>> newest([("7f", "9e"), ("7f", "1b"), ("1b", "2c")])["9e"]
        '2c'
    """
    same: dict[str, dict[str, None]] = {}
    for pair in pairs:
        joined = {one: None for version in pair for one in same.get(version, {version: None})}
        same.update(dict.fromkeys(joined, joined))
    ages = dict.fromkeys(same, 0)
    for _ in same:  # as many times as the longest way may have steps
        for older, newer in pairs:
            ages[newer] = max(ages[newer], min(ages[older] + 1, len(same)))
    outdated = {older for older, _ in pairs}
    return {one: max(set(joined) - outdated or joined, key=lambda it: (ages[it], it)) for one, joined in same.items()}


def compared(older: Path, newer: Path) -> tuple[list[Json], list[str]]:
    """Cells that two versions of the code measured on one machine: which task and method give the same numbers.

    Args:
        older: folder of results.
        newer: another, of the same cells.

    Returns:
        An entry for each task and method whose cells are all equal to the last bit, and a line for each other cell.
        Where a reference differs, or a method that is the same in both, nothing about the task has been shown; where
        a method differs with any of its settings, nothing about its code.

    Raises:
        InvalidRequest: if there is no such folder, or they have no cell in common.

    Example:
        >>> compared(Path("nowhere"), Path("elsewhere"))
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 2 problems found, nothing was changed:
        1. results: expected a folder of cells, got nowhere, which is none.
        2. results: expected a folder of cells, got elsewhere, which is none.
    """
    if missing := [folder for folder in (older, newer) if not folder.is_dir()]:
        raise InvalidRequest(
            [f"results: expected a folder of cells, got {folder}, which is none." for folder in missing]
        )
    pairs: dict[tuple[str, str], list[tuple[Path, Json, Json]]] = defaultdict(list)
    for path in sorted(older.rglob("seed-*/*/*.json")):
        if path.name == ROWS:
            continue
        name = path.relative_to(older)
        one, other = read_cell(path), read_cell(newer / name)
        if one is not None and other is not None and {one["status"], other["status"]} != {NOT_APPLICABLE}:
            pairs[one["cell"]["task"], one["cell"]["method"]].append((name, one, other))
    if not pairs:
        raise InvalidRequest(
            [
                f"results: expected the same cells below {older} and {newer}, got none in common: measure them with "
                "both versions of the code on one machine."
            ]
        )
    same, others, spoilt, differ = [], [], set(), set()
    for (task, method), found in pairs.items():
        unlike = [(f"{name}: {why}", one, other) for name, one, other in found if (why := _difference(one, other))]
        others += [line for line, _, _ in unlike]
        if any(one.get("method_code") == other.get("method_code") for _, one, other in unlike):
            spoilt.add(task)
        if unlike:
            differ.add((task, CODE_OF.get(method, method)))
        else:
            same += _shown(task, method, found)
    alike = [one for one in same if (one["task"], CODE_OF.get(one["method"], one["method"])) not in differ]
    return [entry for entry in alike if entry["task"] not in spoilt], others


def write_same(entries: Iterable[Json], path: Path) -> None:
    """Add entries to a file; one of the same two versions is replaced.

    Args:
        entries: from `compared`.
        path: made if it does not exist; left alone where there is nothing to add.

    Raises:
        InvalidRequest: if an entry is there the other way round.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_same([], Path(folder) / SAME)
        ...     read_versions(Path(folder), Problems())
        Versions(measuring={}, methods={})
    """
    known, added = _entries(path), list(entries)
    there = {_versions_of(entry) for entry in known}
    turned = [
        entry for entry in added if _versions_of({**entry, "older": entry["newer"], "newer": entry["older"]}) in there
    ]
    if turned:
        raise InvalidRequest(
            [
                f"results: expected the older version first, got {one['task']}, {one['method']} the other way round in "
                f"{path}: call nabla-tau bench same with the folders in that order."
                for one in turned
            ]
        )
    if not added:
        return
    found = {_versions_of(entry): entry for entry in (*known, *added)}
    write_json(path, {"same": [found[key] for key in sorted(found)]})


def _entries(path: Path) -> list[Json]:
    if not path.is_file():
        return []
    try:
        entries: list[Json] = json.loads(path.read_text(encoding="utf-8"))["same"]
        if odd := [part for entry in entries for part in _versions_of(entry) if not isinstance(part, str)]:
            raise TypeError(f"{odd[0]!r} is no text")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            [f"results: expected what `nabla-tau bench same` writes in {path}, got something else ({error})."]
        ) from None
    return entries


def _versions_of(entry: Json) -> tuple[str, ...]:
    """Task, method, and the digests of both; of what has no method, those of the code that measures alone."""
    return (
        entry["task"],
        entry["method"],
        *(entry[when][name] or "" for when in ("older", "newer") for name in ("code", "method_code")),
    )


def _shown(task: str, method: str, found: list[tuple[Path, Json, Json]]) -> list[Json]:
    """An entry for each two versions that differ; a version stands for no other than itself."""
    entries: dict[tuple[str, ...], Json] = {}
    for name, one, other in found:
        older, newer = _version(one), _version(other)
        entry = {"task": task, "method": method, "older": older, "newer": newer, "cells": []}
        changed = "code" if method in REFERENCES else "method_code"
        if older[changed] != newer[changed]:
            entries.setdefault(_versions_of(entry), entry)["cells"].append(name.as_posix())
    return list(entries.values())


def _version(record: Json) -> Json:
    return {name: record.get(name) for name in ("code", "method_code", "commit")}


def _difference(one: Json, other: Json) -> str:
    """Why two cells do not show the same; empty where they do."""
    if {one["status"], other["status"]} != {DONE}:
        return "not finished in both"
    if one.get("dirty") or other.get("dirty"):
        return "measured with changes that were not committed"
    if any(one.get(name) != other.get(name) for name in MACHINE):
        return f"measured on other machines ({', '.join(MACHINE)})"
    equal = one["key"] == other["key"] and _numbers(one) == _numbers(other)
    return "" if equal else "other numbers"


def _numbers(record: Json) -> Json:
    verdict = {name: value for name, value in record["audit"].get("verdict", {}).items() if name not in WORDS}
    return {**{name: record.get(name) for name in MEASURED}, "audit": {**record["audit"], "verdict": verdict}}
