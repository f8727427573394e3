"""Tables inside Markdown pages, filled from the cells: no figure of a page is typed."""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

from nabla_tau.bench.cells import ORIGINAL
from nabla_tau.bench.comparing import WIN, compare
from nabla_tau.bench.figures import fraction_of
from nabla_tau.bench.gap import POINTS
from nabla_tau.bench.markdown import NONE, advantage, mean, table
from nabla_tau.bench.promises import COST_POINT, MISSED, against_lines, counts_table, promise_rows, promises
from nabla_tau.bench.reading import FLOOR, BySeed, Group, read_groups
from nabla_tau.bench.storing import Json
from nabla_tau.bench.tables import OURS, PUBLISHED, best_baseline, comparison_table, glance_table
from nabla_tau.errors import InvalidRequest, Problems

BLOCK = re.compile(r"(<!-- bench: (\S+) (\S+) -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)
"""A table: its name, and the folder of cells, or the file of `ROWS`, as seen from the page's own folder."""

ROWS = "rows"
"""Name of the table that takes a file of a benchmark instead, with a list of flat objects under this name."""

AT_A_GLANCE = ("class", "random-0.15", "random-0.50")
CLEAN, NO_ANSWER = "none_detectable", "not_answerable"
COMPARED = (PUBLISHED, OURS, FLOOR)
NAMES = (ORIGINAL, *COMPARED)


def filled(page: Path) -> str:
    """A page with its tables computed anew.

    A table stands between `<!-- bench: NAME PLACE -->` and `<!-- /bench -->`; NAME is one of `TABLES`, PLACE the folder
    of the cells, as seen from the page; or NAME is `rows`, and PLACE a JSON file with rows.

    Args:
        page: a Markdown file with at least one such place.

    Returns:
        Its text with the tables; all else is as it was.

    Raises:
        InvalidRequest: if the page has no such place, a name is unknown, a folder has no cells, or ones that cannot
            stand in one table, a file has no rows, or the page is no UTF-8 or ends its lines by CRLF.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = Path(folder) / "page.md"
        ...     _ = page.write_text("no table")
        ...     filled(page)
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. page: expected <!-- bench: TABLE PLACE --> and <!-- /bench --> in ...page.md, got none.
    """
    try:
        text = page.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest([f"page: expected {page} in UTF-8, got {error}."]) from None
    if "\r\n" in text:
        raise InvalidRequest([f"page: expected lines of {page} that end as on Unix, got others: convert it."])
    blocks, begun = BLOCK.findall(text), text.count("<!-- bench: ")
    if not blocks or len(blocks) != begun:
        got = f"{len(blocks)} that are whole of {begun}" if begun else "none"
        raise InvalidRequest([f"page: expected <!-- bench: TABLE PLACE --> and <!-- /bench --> in {page}, got {got}."])
    read = cache(_of_one_kind)
    problems, lines = Problems(), []
    for _, name, place, *_ in blocks:
        if name not in TABLES and name != ROWS:
            problems.append(f"page: expected one of {', '.join([*TABLES, ROWS])} in {page}, got {name}.")
            continue
        with problems.gathered("page", f"results in {page.parent / place}", "name where they are."):
            path = page.parent / place
            lines.append(rows_table(path) if name == ROWS else TABLES[name](read(path)))
    problems.refuse()
    tables = iter(lines)
    return BLOCK.sub(lambda found: "\n".join([found[1].rstrip(), *next(tables), found[5]]), text)


def _of_one_kind(folder: Path) -> list[Group]:
    """Cells that may stand in one table; others would be told apart by nothing in it."""
    groups = read_groups(folder)
    kinds = sorted({f"scale {group.scale}, code {group.code}" for group in groups})
    if len(kinds) > 1:
        raise InvalidRequest(
            [f"page: expected cells of one scale and one version of the code in {folder}, got {'; '.join(kinds)}."]
        )
    return groups


def rows_table(path: Path) -> list[str]:
    """The rows of a benchmark's JSON file as they are.

    Args:
        path: of an object with a list of flat objects under `rows`.

    Raises:
        InvalidRequest: if there is no such file, or it holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "scale.json"
        ...     _ = path.write_text('{"rows": [{"model": "original", "steps": null}, {"model": "ssd", "steps": 9}]}')
        ...     rows_table(path)
        ['| model | steps |', '| --- | --- |', '| original | – |', '| ssd | 9 |']
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))[ROWS]
        heads = list(dict.fromkeys(name for row in rows for name in row))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidRequest([f"page: expected rows in {path}, got none ({error})."]) from None
    cells = ([NONE if row.get(name) is None else str(row[name]) for name in heads] for row in rows)
    return table(heads, cells)


def shares_table(groups: Sequence[Group]) -> list[str]:
    """Random subsets by share: what is left of test and retain utility.

    Example:
        >>> shares_table([])
        []
    """
    rows = []
    for group in _random(groups):
        test, retain = ({name: group.values(name).get(part, {}) for name in NAMES} for part in ("test", "retain"))
        bounds = group.possible()
        cells = [mean(test[name], bounds["test"]) for name in COMPARED]
        cells += [mean(retain[name], bounds["retain"]) for name in (ORIGINAL, PUBLISHED, OURS)]
        rows.append([group.task, _percent(group), *cells, _over_published(group)])
    heads = ["task", "share", *(f"test: {name}" for name in COMPARED)]
    heads += [f"retain: {name}" for name in (ORIGINAL, PUBLISHED, OURS)]
    return table([*heads, "nearer than published"], rows)


def removed_table(groups: Sequence[Group]) -> list[str]:
    """Classes, labels and groups: utility on what was removed, and how well its train rows are told from its test rows.

    Example:
        >>> removed_table([])
        []
    """
    rows = []
    for group in _measured(groups):
        if not group.forget.startswith(("random", "sequence")):
            bounds = group.possible()
            cells = [
                mean(group.values(name).get(part, {}), bounds[part])
                for part in ("forget", "primary AUC")
                for name in COMPARED
            ]
            rows.append([group.task, group.forget, *cells, _over_published(group)])
    heads = [f"{what}: {name}" for what in ("utility", "AUC") for name in COMPARED]
    return table(["task", "removed", *heads, "nearer than published"], rows)


def tails_table(groups: Sequence[Group]) -> list[str]:
    """The shape of the losses on random subsets, against those of unseen rows.

    KS is the largest distance of the two distribution functions, × 100; the tail is the share of forgotten rows that
    cost more than 99 of a hundred unseen ones, in percent.

    Example:
        >>> tails_table([])
        []
    """
    rows = []
    for group in _random(groups):
        cells = [mean(_audited(group, name, what)) for what in (_ks, _tail) for name in COMPARED]
        rows.append([group.task, _percent(group), *cells])
    heads = [f"{what}: {name}" for what in ("KS", "tail") for name in COMPARED]
    return table(["task", "share", *heads], rows)


def audits_table(groups: Sequence[Group]) -> list[str]:
    """In how many results the audit finds no residue, of those that it can answer for.

    Example:
        >>> audits_table([])
        []
    """
    rows = [[group.task, group.forget, *(_clean(group, name) for name in NAMES)] for group in _measured(groups)]
    return table(["task", "forget set", *NAMES], rows)


def missed_table(groups: Sequence[Group]) -> list[str]:
    """Promises that were missed, but for cost.

    Example:
        >>> missed_table([])
        []
    """
    return promise_rows([one for one in promises(groups, OURS) if one.outcome == MISSED and one.point != COST_POINT])


def losses_table(groups: Sequence[Group]) -> list[str]:
    """Components by which the published recipe or the best baseline is nearer to retrained models.

    Example:
        >>> losses_table([])
        []
    """
    rows = []
    for group in _measured(groups):
        mine = group.distances(OURS)
        for other in dict.fromkeys((PUBLISHED, best_baseline(group, OURS))):
            theirs = group.distances(other or "")
            for name in [one for one in mine if one in theirs]:
                found = compare(theirs[name], mine[name])
                if found and found.outcome == WIN:
                    rows.append([group.task, group.forget, name, str(other), str(found.advantage)])
    return table(["task", "forget set", "component", "nearer than nabla_tau", "by"], rows)


def cost_table(groups: Sequence[Group]) -> list[str]:
    """Seconds of unlearning as a share of those of retraining, in percent.

    Example:
        >>> cost_table([])
        []
    """
    rows = [
        [group.task, group.forget, *(mean(group.cost(name)) for name in (PUBLISHED, OURS))]
        for group in _measured(groups)
    ]
    return table(["task", "forget set", PUBLISHED, OURS], rows)


def _rows_of(lines: Sequence[str]) -> list[str]:
    """Of a section, the table alone."""
    return [line for line in lines if line.startswith("|")]


TABLES: dict[str, Callable[[Sequence[Group]], list[str]]] = {
    "glance": lambda groups: _rows_of(
        glance_table([group for group in groups if group.forget in AT_A_GLANCE], fewest_seeds=2)
    ),
    "gaps": lambda groups: _rows_of(glance_table(groups, fewest_seeds=2)),  # one has no interval
    "counts": lambda groups: against_lines(groups, OURS)[:-1],
    "against": lambda groups: _rows_of(comparison_table(groups)),
    "removed": removed_table,
    "shares": shares_table,
    "tails": tails_table,
    "audits": audits_table,
    "promises": lambda groups: counts_table(promises(groups, OURS)),
    "missed": missed_table,
    "losses": losses_table,
    "cost": cost_table,
}
"""Name in a page -> its lines."""


def _measured(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if group.gaps(OURS)]


def _random(groups: Sequence[Group]) -> list[Group]:
    return [group for group in _measured(groups) if group.forget.startswith("random-")]


def _percent(group: Group) -> str:
    return f"{100 * fraction_of(group):g} %"


def _over_published(group: Group) -> str:
    return advantage(compare(group.gaps(OURS), group.gaps(PUBLISHED)))


def _audited(group: Group, method: str, number: Callable[[Json], float | None]) -> BySeed:
    """Seed -> a number of the audit; without those that have none."""
    found = {seed: [number(one["audit"]) for one in cells] for seed, cells in group.done(method).items()}
    return {seed: fmean(one for one in some if one is not None) for seed, some in found.items() if None not in some}


def _ks(audit: Json) -> float:
    return POINTS * float(audit["ks"]["value"])


def _tail(audit: Json) -> float | None:
    found = audit["over_forgetting"]
    return None if found is None else POINTS * float(found["share"]["value"])


def _clean(group: Group, method: str) -> str:
    kinds = [one["audit"]["verdict"]["kind"] for cells in group.done(method).values() for one in cells]
    answered = [kind for kind in kinds if kind != NO_ANSWER]
    if not answered:
        return "no answer" if kinds else NONE
    return f"{answered.count(CLEAN)} of {len(answered)}"
