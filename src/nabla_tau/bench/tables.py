"""Tables in Markdown, computed from the cells: no figure is typed, no mean stands without its interval."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby

from nabla_tau.bench.cells import DONE, ORIGINAL
from nabla_tau.bench.comparing import LOSS, MARGIN, TIE, UNDECIDED, WIN, Comparison, compare, mean_of
from nabla_tau.bench.gap import ATTACKS, COMPONENTS
from nabla_tau.bench.markdown import advantage, mean, section, table
from nabla_tau.bench.promises import promise_table
from nabla_tau.bench.reading import FLOOR, BySeed, Group
from nabla_tau.bench.storing import Json

OURS = "nabla_tau"
PUBLISHED = "nabla_tau_published"
VALID, HEADROOM = 60.0, 55.0
"""Accuracy of the loss attack on the original, in percent, at 15 %: what quick must have, and full should."""

MEASURED_AT = "random-0.15"
OUTCOMES = (WIN, LOSS, TIE, UNDECIDED)


def tables(groups: Sequence[Group]) -> str:
    """Everything that the cells show, as Markdown.

    Example:
        >>> cell = {"scale": "quick", "task": "cifar10", "seed": 0, "forget": "class", "method": "ssd"}
        >>> print(tables([Group("quick", "0a", "cifar10", "class", {"ssd": {0: {"cell": cell, "status": "failed",
        ...     "reason": ["out of memory"], "commit": None, "dirty": None, "device": "CPU"}}})]))
        # Scale quick, code 0a
        <BLANKLINE>
        1 cells; commit no commit; CPU; 0.0 hours of ...
        failed: ssd (out of memory), seed 0
        <BLANKLINE>
    """
    parts = []
    for (scale, code), some in groupby(groups, key=lambda group: (group.scale, group.code)):
        of_code = list(some)
        parts += [f"# Scale {scale}, code {code}", "", _provenance(of_code), "", *version_note(of_code)]
        parts += glance_table(of_code)
        parts += [line for group in of_code for line in group_table(group)]
        parts += [*comparison_table(of_code), *advantage_table(of_code), *promise_table(of_code, OURS)]
    return "\n".join(parts)


def glance_table(groups: Sequence[Group], ours: str = OURS, fewest_seeds: int = 1) -> list[str]:
    """The gap to retrained alone: doing nothing, the best baseline, the published recipe, a method, and the floor.

    All on the seeds of that method; how many, where another lacks some of them. Last, by how much the method is nearer
    than the best baseline, paired by seed.

    Args:
        groups: of one scale and one version of the code.
        ours: the method; groups without it are left out.
        fewest_seeds: groups in which it has fewer are left out.

    Example:
        >>> glance_table([])
        []
    """
    rows = []
    for group in groups:
        if len(group.gaps(ours)) < fewest_seeds:
            continue
        best = best_baseline(group, ours)
        names, seeds = (ORIGINAL, best, PUBLISHED, ours, FLOOR), group.gaps(ours)
        found = [{seed: gap for seed, gap in group.gaps(name or "").items() if seed in seeds} for name in names]
        cells = [mean(one) + (f", {len(one)} seeds" if 1 < len(one) < len(seeds) else "") for one in found]
        cells[1] += f" ({best})" if best else ""
        nearer = advantage(compare(seeds, group.gaps(best or "")))
        rows.append([group.task, group.forget, str(len(seeds)), *cells, nearer])
    heads = ["task", "forget set", "seeds", "doing nothing", "best baseline", PUBLISHED, ours, "retrained"]
    return section("Gap to retrained", "", table([*heads, "nearer than the best baseline"], rows))


def version_note(groups: Sequence[Group], ours: str = OURS) -> list[str]:
    """Which code of a method stands on which task, where it is not one on all; a task is in one version.

    Args:
        groups: of one scale and one version of the code.
        ours: the method.

    Example:
        >>> cell = {"status": "done", "method_code": "0a", "commit": "0a" * 6, "dirty": False}
        >>> cells = {"cifar10": cell, "diabetes": {**cell, "method_code": "1b", "commit": "1b" * 6}}
        >>> groups = [Group("quick", "0a", task, "class", {"nabla_tau": {0: cells[task]}}) for task in cells]
        >>> version_note(groups)[0]
        'nabla_tau in 2 versions: 0a on cifar10 (commit 0a0a0a0a0a); 1b on diabetes (commit 1b1b1b1b1b).'
        >>> version_note(groups[:1])
        []
    """
    tasks, commits = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for group in groups:
        for record in (one for some in group.done(ours).values() for one in some):
            code = record.get("method_code") or "no digest"
            tasks[code].add(group.task)
            commits[code].add(_commit(record))
    each = [f"{code} on {', '.join(sorted(tasks[code]))} (commit {', '.join(sorted(commits[code]))})" for code in tasks]
    return [f"{ours} in {len(each)} versions: {'; '.join(each)}.", ""] if len(each) > 1 else []


def group_table(group: Group) -> list[str]:
    """One task and forget set: a row for each method.

    Example:
        >>> group_table(Group("quick", "0a", "cifar10", "class", {}))[0]
        '## cifar10, class'
    """
    heads = ["method", "seeds", *(component.name for component in COMPONENTS), "gap", "seconds", "% of retraining"]
    rows = []
    for method in group.methods:
        if not group.done(method):
            continue
        found, possible = group.values(method), group.possible()
        cells = [mean(found.get(component.name, {}), possible[component.name]) for component in COMPONENTS]
        cells += [mean(column) for column in (group.gaps(method), group.seconds(method), group.cost(method))]
        rows.append([method, str(len(group.done(method))), *cells])
    title = f"## {group.task}, {group.forget}{': the grid of α₀' * group.study}"
    lines = [title, "", *headroom(group), *table(heads, rows), ""]
    fewer = [name for name in _rivals(group) if name not in _candidates(group, OURS)]
    if fewer and group.gaps(OURS):
        lines += [f"Not measured on every seed of {OURS}, so never the best baseline: {', '.join(fewer)}", ""]
    unfinished: dict[str, list[int]] = defaultdict(list)
    for method, by_seed in group.cells.items():
        for seed, record in sorted(by_seed.items()):
            if record["status"] != DONE:
                unfinished[f"{record['status']}: {method} ({'; '.join(record['reason'])})"].append(seed)
    notes = [f"{what}, seed {', '.join(map(str, seeds))}" for what, seeds in unfinished.items()]
    return [*lines, *notes, ""] if notes else lines


def headroom(group: Group) -> list[str]:
    """Whether the original has memorised enough for its forgetting to be measured, at 15 %.

    Example:
        >>> headroom(Group("quick", "0a", "cifar10", "class", {}))
        []
    """
    found = group.values(ORIGINAL).get("loss attack", {})
    if group.forget != MEASURED_AT or not found:
        return []
    mean = mean_of(list(found.values()))
    if group.scale == "quick" and mean.value < VALID:
        verdict = f" **The scale is invalid here**: below {VALID:.0f} %, there is nothing to forget."
    elif group.scale == "full" and mean.value < HEADROOM:
        verdict = f" **Little to forget**: below {HEADROOM:.0f} %."
    else:
        verdict = ""
    return [f"Headroom: the loss attack on the original is right for {mean} % of the samples.{verdict}", ""]


def comparison_table(groups: Sequence[Group], ours: str = OURS) -> list[str]:
    """A method against each other one, by gap and by single components, over all tasks and forget sets.

    Args:
        groups: of one scale and one version of the code.
        ours: the method whose wins are counted.

    Example:
        >>> comparison_table([])
        []
    """
    left_out = (ours, FLOOR)
    others = list(dict.fromkeys(name for group in groups for name in group.methods if name not in left_out))
    rows = []
    for other in others:
        by_gap, by_component = Counter[str](), Counter[str]()
        for group in groups:
            by_gap.update(_outcomes([compare(group.gaps(ours), group.gaps(other))]))
            mine, theirs = group.distances(ours), group.distances(other)
            by_component.update(_outcomes([compare(mine[name], theirs[name]) for name in mine if name in theirs]))
        counts = [counter[outcome] for counter in (by_gap, by_component) for outcome in OUTCOMES]
        met = [group for group in groups if group.gaps(ours).keys() & group.gaps(other).keys()]
        counts += [sum(group.is_idle(other) for group in met), sum(group.is_broken(other) for group in met)]
        if by_gap:
            rows.append([other, *map(str, counts)])
    heads = ["against", *(f"gap: {one}" for one in OUTCOMES), *(f"components: {one}" for one in OUTCOMES)]
    about = (
        "Paired by seed, over tasks and forget sets, by distance from the retrained models. A tie: the 95 % interval "
        f"of the difference lies within ± {MARGIN} point; a win or loss: it excludes 0; else undecided. *idle*: sets "
        f"on which the other ends no nearer than doing nothing, or by less than {MARGIN} point; *broken*: on which it "
        "leaves less than half of the original's utility on the retain set."
    )
    return section(f"{ours} against the others", about, table([*heads, "idle", "broken"], rows))


def advantage_table(groups: Sequence[Group], ours: str = OURS) -> list[str]:
    """Attack by attack: by how many points a method is nearer to the retrained models than the best baseline.

    The best baseline is the one with the smallest mean gap: a model that was destroyed has no attack to fear, and is
    no baseline to lose against.

    Args:
        groups: of one scale and one version of the code.
        ours: the method.

    Example:
        >>> advantage_table([])
        []
    """
    found = [
        (group, attack, best, one)
        for group in groups
        if (best := best_baseline(group, ours))
        for attack in ATTACKS
        if (one := compare(group.distances(ours).get(attack, {}), group.distances(best).get(attack, {})))
    ]
    if not found:
        return []
    rows = [
        [group.task, group.forget, attack, name, str(one.advantage), one.outcome] for group, attack, name, one in found
    ]
    means = [one.advantage for *_, one in found]
    largest, smallest = (choose(means, key=lambda mean: mean.value) for choose in (max, min))
    about = (
        f"Positive: {ours} is nearer to the retrained models than the baseline with the smallest mean gap. Largest "
        f"advantage {largest} points, smallest {smallest} (a deficit where negative); the paper says up to 10."
    )
    heads = ["task", "forget set", "attack", "best baseline", "advantage", "outcome"]
    return section(f"{ours} against the best baseline", about, table(heads, rows))


def best_baseline(group: Group, ours: str) -> str | None:
    """The baseline with the smallest mean gap, of those measured on every seed of ours.

    Args:
        group: one task and forget set.
        ours: the method it is set against.

    Example:
        >>> best_baseline(Group("quick", "0a", "cifar10", "class", {}), "nabla_tau") is None
        True
    """
    mine, rivals = group.gaps(ours), _candidates(group, ours)
    return min(rivals, key=lambda name: sum(rivals[name][seed] for seed in mine), default=None)


def _candidates(group: Group, ours: str) -> dict[str, BySeed]:
    """Gaps of the baselines that were measured on every seed of ours."""
    mine = set(group.gaps(ours))
    return {name: gaps for name, gaps in _rivals(group).items() if mine and mine <= set(gaps)}


def _rivals(group: Group) -> dict[str, BySeed]:
    """Gaps of all baselines that have any."""
    left_out = (OURS, PUBLISHED, ORIGINAL, FLOOR)
    return {name: gaps for name in group.methods if name not in left_out and (gaps := group.gaps(name))}


def _outcomes(found: Sequence[Comparison | None]) -> list[str]:
    return [one.outcome for one in found if one is not None]


def _provenance(groups: Sequence[Group]) -> str:
    records = [record for group in groups for by_seed in group.cells.values() for record in by_seed.values()]
    commits = sorted({_commit(one) for one in records})
    devices = sorted({one["device"] for one in records})
    where = (
        f"commit {', '.join(commits)}; {', '.join(devices)}; {_hours(records)} hours of training, unlearning and audit"
    )
    intervals = "95 % intervals, cut where no value can be"
    return f"{len(records)} cells; {where}. Means over seeds with {intervals}, in points or as headed."


def _commit(record: Json) -> str:
    return f"{(record['commit'] or 'no commit')[:10]}{' (dirty)' if record['dirty'] else ''}"


def _hours(records: Sequence[Json]) -> str:
    """What the cells took, the originals once each: on a CPU, hours of one processor."""
    originals = {
        (one["cell"]["task"], one["cell"]["seed"]): one.get("training_seconds", 0.0)
        for one in records
        if one["cell"]["method"] == ORIGINAL
    }
    cells = sum(one.get("seconds", 0.0) + one.get("audit_seconds", 0.0) for one in records)
    return f"{(cells + sum(originals.values())) / 3600:.1f}"
