"""Cells read back from their files, in groups that may stand in one table."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from nabla_tau.bench.alpha import STUDY
from nabla_tau.bench.cells import DONE, FAILED, NOT_APPLICABLE, ORIGINAL, REFERENCES, RETRAINED, Cell
from nabla_tau.bench.comparing import MARGIN
from nabla_tau.bench.gap import distances, gap, possible, values
from nabla_tau.bench.records import ROWS, original_of, read_cell
from nabla_tau.bench.storing import Json
from nabla_tau.bench.versions import SAME, read_versions
from nabla_tau.errors import InvalidRequest, Problems

FLOOR = "retrained"
"""Name of the row that stands for both retrained models."""

BySeed = dict[int, float]


@dataclass(frozen=True)
class Group:
    """All cells of one task and forget set, of one scale and one version of the code; the grid of α₀ by itself.

    Attributes:
        scale: quick or full.
        code: digest of the code that measured.
        task: name.
        forget: name of the forget set.
        cells: method -> seed -> cell.
        study: whether it is the grid of α₀, which has seeds of its own.
    """

    scale: str
    code: str
    task: str
    forget: str
    cells: dict[str, dict[int, Json]]
    study: bool = False

    @property
    def methods(self) -> list[str]:
        """Original and retrained first."""
        known = [name for name in self.cells if name not in (ORIGINAL, *RETRAINED)]
        return [ORIGINAL, FLOOR, *known]

    def done(self, method: str) -> dict[int, list[Json]]:
        """Seed -> finished cells of a row: one, or those of the retrained models."""
        found: dict[int, list[Json]] = defaultdict(list)
        for name in RETRAINED if method == FLOOR else (method,):
            for seed, record in self.cells.get(name, {}).items():
                if record["status"] == DONE:
                    found[seed].append(record)
        return found

    def values(self, method: str) -> dict[str, BySeed]:
        """Component -> seed -> value in points."""
        return _by_component({seed: [values(one) for one in cells] for seed, cells in self.done(method).items()})

    def possible(self) -> dict[str, tuple[float, float]]:
        """Component -> the least and the largest value that it can have, in points; of a group with finished cells."""
        cells = (record for by_seed in self.cells.values() for record in by_seed.values())
        return possible(next(one for one in cells if one["status"] == DONE))

    def distances(self, method: str) -> dict[str, BySeed]:
        """Component -> seed -> distance from the retrained models, in points; only seeds that have two of these."""
        return _by_component(
            {
                seed: [distances(one, references) for one in cells]
                for seed, cells in self.done(method).items()
                if len(references := self.done(FLOOR).get(seed, [])) == len(RETRAINED)
            }
        )

    def gaps(self, method: str) -> BySeed:
        """Seed -> gap to retrained, in points."""
        return {
            seed: fmean(gap(one, references) for one in cells)
            for seed, cells in self.done(method).items()
            if len(references := self.done(FLOOR).get(seed, [])) == len(RETRAINED)
        }

    def seconds(self, method: str) -> BySeed:
        """Seed -> seconds."""
        return {seed: fmean(one["seconds"] for one in cells) for seed, cells in self.done(method).items()}

    def cost(self, method: str) -> BySeed:
        """Seed -> seconds as a share of retraining, in percent."""
        return {
            seed: 100 * fmean(one["seconds"] / one["retraining_seconds"] for one in cells)
            for seed, cells in self.done(method).items()
        }

    def is_idle(self, method: str) -> bool:
        """Whether it ends no nearer to retrained models than doing nothing, or by less than half a point."""
        nothing, something = self.gaps(ORIGINAL), self.gaps(method)
        nearer = [nothing[seed] - gap for seed, gap in something.items() if seed in nothing]
        return bool(nearer) and fmean(nearer) < MARGIN

    def is_broken(self, method: str) -> bool:
        """Whether it leaves less than half of the original's utility on the retain set."""
        original, left = (self.values(name).get("retain", {}) for name in (ORIGINAL, method))
        shared = original.keys() & left.keys()
        return bool(shared) and fmean(left[seed] for seed in shared) < fmean(original[seed] for seed in shared) / 2


def read_groups(folder: Path) -> list[Group]:
    """Everything below a folder; cells of different scales or versions of the code come apart.

    Versions that `SAME` shows to give the same numbers, in the folder or in the one that it is a part of, are one.

    Raises:
        InvalidRequest: if there is nothing, a file is no whole cell or lies in another cell's place, a cell is there
            twice, a method was measured in several versions, methods of one forget set and seed on several original
            models, or a task on several kinds of device or data.

    Example:
        >>> read_groups(Path("nowhere"))
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. results: expected cells below nowhere, got none: run nabla-tau bench run first.
    """
    paths = sorted(path for path in folder.rglob("*.json") if path.name not in (ROWS, SAME))
    if not paths:
        raise InvalidRequest([f"results: expected cells below {folder}, got none: run nabla-tau bench run first."])
    problems, records = Problems(), []
    places: dict[tuple[str, Cell], list[Path]] = {}
    versions = read_versions(_home(folder), problems)
    for path in paths:
        with problems.gathered("results", f"a cell in {path}", "remove it and run nabla-tau bench run again."):
            records.append(versions.newest(whole_cell(path)))
            places.setdefault((records[-1]["code"], Cell(**records[-1]["cell"])), []).append(path)
    problems += [
        f"results: expected each cell once, got {' and '.join(map(str, found))}: keep one."
        for found in places.values()
        if len(found) > 1
    ]
    problems.refuse()
    problems.extend(_several_versions(records) + _several_originals(records) + _several_conditions(records))
    problems.refuse()
    return grouped(records)


def _home(folder: Path) -> Path:
    """The folder of results that a folder is a part of: it, or the one above scale, task, seed and forget set."""
    whole = folder.absolute()
    return next((place for place in (whole, *whole.parents[:4]) if (place / SAME).exists()), folder)


def whole_cell(path: Path) -> Json:
    """A cell that has all that tables are computed from, in the place that its names give it.

    Raises:
        InvalidRequest: if there is none, or it was changed by hand, or moved.

    Example:
        >>> whole_cell(Path("nowhere.json"))
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. results: expected a cell in nowhere.json, got none.
    """
    record = read_cell(path)
    if record is None:
        raise InvalidRequest([f"results: expected a cell in {path}, got none."])
    advice = "name the folder that nabla-tau bench run wrote to, or remove it and measure it again."
    try:
        place = Cell(**record["cell"]).path
        if record["status"] == DONE:
            numbers = [*values(record).values(), 1 / float(record["retraining_seconds"]), record["seconds"]]
            numbers += [record["audit"]["utility"]["forget"]["loss"]["value"]]
            verdict = record["audit"]["verdict"]
            verdict["forget_samples"], verdict["test_samples"], verdict["kind"], original_of(record)
            numbers += [record["audit"]["ks"]["value"]]
            numbers += [one["share"]["value"] for one in [record["audit"]["over_forgetting"]] if one is not None]
            wrong = [one for one in numbers if not math.isfinite(float(one))]
            if wrong:
                raise ValueError(f"{wrong[0]} where a number should be")
        elif record["status"] in (FAILED, NOT_APPLICABLE):
            [str(line) for line in record["reason"]]
        else:
            raise ValueError(f"status {record['status']!r}")
        record["device"], record["commit"], record["dirty"]
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration) as error:
        raise InvalidRequest(
            [f"results: expected a whole cell in {path}, got something else ({error or 'no primary attack'}): {advice}"]
        ) from None
    if path.absolute().parts[-len(place.parts) :] != place.parts:
        raise InvalidRequest([f"results: expected the cell in {path} to lie in {place}: {advice}"])
    return record


def _several_versions(records: Iterable[Json]) -> list[str]:
    """Cells of one method in several versions would be averaged over; those without numbers are in no mean."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for record in (one for one in records if one["status"] == DONE):
        cell = record["cell"]
        found[cell["scale"], record["code"], cell["task"], cell["method"]].add(record.get("method_code") or "")
    return [
        f"results: expected one version of {method} on {task} at {scale}, got {len(versions)} "
        f"({', '.join(sorted(versions))}): remove the older cells and run nabla-tau bench run again."
        for (scale, _, task, method), versions in found.items()
        if len(versions) > 1
    ]


def _several_originals(records: Iterable[Json]) -> list[str]:
    """Methods are compared seed by seed, which another original under one of them would spoil."""
    found: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for record in records:
        cell, original = record["cell"], original_of(record)
        if original is not None:
            found[cell["scale"], record["code"], cell["task"], cell["forget"], cell["seed"]].add(original)
    return [
        f"results: expected one original model of {task}, {forget}, seed {seed} at {scale}, got cells of "
        f"{len(originals)}: remove all cells of this seed and run nabla-tau bench run again, on one machine."
        for (scale, _, task, forget, seed), originals in found.items()
        if len(originals) > 1
    ]


def _several_conditions(records: Iterable[Json]) -> list[str]:
    """Seeds of other data, or seconds of other machines, would be averaged over."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for record in records:
        cell, device = record["cell"], record["device"]
        threads = f" with {record.get('threads')} threads" if device == "CPU" else ""
        found[cell["scale"], record["code"], cell["task"]].add(
            f"{device}{threads}, recipe and data {record['key'][:12]}"
        )
    return [
        f"results: expected cells of {task} at {scale} from one kind of device, recipe and data, got "
        f"{'; '.join(sorted(conditions))}: keep each in a folder of its own."
        for (scale, _, task), conditions in found.items()
        if len(conditions) > 1
    ]


def grouped(records: Iterable[Json]) -> list[Group]:
    """Cells by scale, version of the code, task and forget set; the grid of α₀ comes apart from the rest.

    Example:
        >>> cell = {"scale": "quick", "task": "cifar10", "seed": 0, "forget": "class", "method": "ssd"}
        >>> [group.forget for group in grouped([{"cell": cell, "code": "0a"}])]
        ['class']
    """
    groups: dict[tuple[str, ...], Group] = {}
    for record in records:
        cell = record["cell"]
        key = cell["scale"], record["code"], cell["task"], cell["forget"]
        group = groups.setdefault(key, Group(*key, cells={}))
        group.cells.setdefault(cell["method"], {})[cell["seed"]] = record
    return [part for key in sorted(groups) for part in _parts(groups[key])]


def _parts(group: Group) -> list[Group]:
    """The grid of α₀ and the rest, each with the originals and retrained models of its own seeds alone."""
    kinds: dict[bool, dict[str, dict[int, Json]]] = {False: {}, True: {}}
    for method, by_seed in group.cells.items():
        if method not in REFERENCES:
            kinds[method in STUDY][method] = by_seed
    if not kinds[True]:
        return [group]
    parts = []
    for study, methods in kinds.items():
        seeds = {seed for by_seed in methods.values() for seed in by_seed}
        references = {
            name: {seed: record for seed, record in group.cells.get(name, {}).items() if seed in seeds}
            for name in REFERENCES
        }
        parts += [replace(group, cells={**references, **methods}, study=study)] if methods else []
    return parts


def _by_component(found: dict[int, list[dict[str, float]]]) -> dict[str, BySeed]:
    names = dict.fromkeys(name for cells in found.values() for one in cells for name in one)
    return {
        name: {seed: fmean(one[name] for one in cells) for seed, cells in found.items() if name in cells[0]}
        for name in names
    }
