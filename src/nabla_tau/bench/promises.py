"""What the default is held to, point by point, and whether the cells show that it gets there."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from nabla_tau.bench.cells import ORIGINAL
from nabla_tau.bench.comparing import LOSS, MARGIN, TIE, UNDECIDED, WIN, Mean, compare, mean_of
from nabla_tau.bench.gap import JS
from nabla_tau.bench.markdown import section, table
from nabla_tau.bench.reading import FLOOR, BySeed, Group
from nabla_tau.bench.records import original_of

REACHED, MISSED, UNRESOLVED = "reached", "missed", "not resolved"
LEVEL = 0.90
"""Of the intervals here: either end is a one-sided bound at 95 %, both together a test of equivalence at 5 %."""

Z = 1.645
"""Of the normal distribution, at the same level."""

RANDOM_UP_TO = 0.30
LEAST_AUC, LEAST_ATTACK = 2.0, 1.5
"""Points within which an attack is as on retrained models, where there are samples enough to tell."""

ATTACK_SD = 38.0
"""Points that the accuracy of the paper's attacks scatters by under chance, times the root of the samples a side."""

UTILITY_LOST, RETAIN_LOST = 0.5, 1.0
REMOVED_UTILITY, REMOVED_ATTACK, REMOVED_LOSS = 2.0, 2.0, 1.25
COST_POINT = "cost in % of retraining"
COST, COST_UP_TO = 10.0, 0.50
IMAGES = ("cifar10", "cifar100")
NO_LOSS = {False: 90.0, True: 75.0}
"""Share of comparisons without a loss, in percent, by whether the baseline's settings were searched."""


@dataclass(frozen=True)
class Promise:
    """One line of the table.

    Attributes:
        point: what is promised.
        task: name.
        forget: name of the forget set.
        value: mean over seeds with its 90 % interval.
        low: least value that keeps the promise.
        high: largest.
    """

    point: str
    task: str
    forget: str
    value: Mean
    low: float = -math.inf
    high: float = math.inf

    @property
    def outcome(self) -> str:
        """Reached where the whole interval is inside, missed where all of it is outside.

        Example:
            >>> outcomes = [Promise("", "", "", Mean(0.0, low, high, 5), -1.0, 1.0).outcome
            ...             for low, high in ((-0.5, 0.5), (-0.5, 1.5), (1.5, 2.5), (None, None))]
            >>> outcomes
            ['reached', 'not resolved', 'missed', 'not resolved']
        """
        low, high = self.value.low, self.value.high
        if low is None or high is None:
            return UNRESOLVED
        if self.low <= low and high <= self.high:
            return REACHED
        return MISSED if high < self.low or low > self.high else UNRESOLVED

    @property
    def bar(self) -> str:
        """In words.

        Example:
            >>> Promise("", "", "", Mean(0.0, None, None, 1), low=-0.5).bar
            '≥ -0.5'
        """
        if self.low == -math.inf:
            return f"≤ {self.high:.4g}"
        return f"≥ {self.low:.4g}" if self.high == math.inf else f"{self.low:.4g} … {self.high:.4g}"


def promises(groups: Sequence[Group], ours: str) -> list[Promise]:
    """Everything that a method is held to and that the cells say something about.

    Args:
        groups: of one scale and one version of the code.
        ours: the method.

    Example:
        >>> promises([], "nabla_tau")
        []
    """
    measured = [group for group in groups if group.gaps(ours)]
    found = [one for group in measured for one in (*_random(group, ours), *_removed(group, ours), *_kept(group, ours))]
    return [*found, *_sequence(measured, ours)]


def promise_table(groups: Sequence[Group], ours: str) -> list[str]:
    """The promises as Markdown: how many were kept, then each.

    Args:
        groups: of one scale and one version of the code.
        ours: the method.

    Example:
        >>> promise_table([], "nabla_tau")
        []
    """
    found = promises(groups, ours)
    if not found:
        return []
    about = (
        f"Differences from retrained models in points, paired by seed, means with {100 * LEVEL:.0f} % intervals: "
        f"*{REACHED}* where the whole interval keeps the bar, *{MISSED}* where none of it does, else *{UNRESOLVED}*, "
        "as is what was measured with one seed."
    )
    lines = [*counts_table(found), "", *against_lines(groups, ours), *promise_rows(found)]
    return section(f"What {ours} is held to", about, lines)


def counts_table(found: Sequence[Promise]) -> list[str]:
    """How many of the promises were kept, point by point and in all.

    Example:
        >>> counts_table([Promise("test utility", "cifar10", "class", Mean(0.1, 0.0, 0.2, 5), low=-0.5)])[-1]
        '| all | 1 | 0 | 0 |'
    """
    counts: dict[str, Counter[str]] = {}
    for name, outcome in ((name, one.outcome) for one in found for name in (one.point, "all")):
        counts.setdefault(name, Counter())[outcome] += 1
    outcomes, everything = (REACHED, MISSED, UNRESOLVED), counts.pop("all", Counter())
    rows = [[point, *(str(by[one]) for one in outcomes)] for point, by in [*counts.items(), ("all", everything)]]
    return table(["point", *outcomes], rows if found else [])


def promise_rows(found: Sequence[Promise]) -> list[str]:
    """Each promise by itself.

    Example:
        >>> promise_rows([Promise("test utility", "cifar10", "class", Mean(0.1, 0.0, 0.2, 5), low=-0.5)])[-1]
        '| test utility | cifar10 | class | 0.1 [0.0, 0.2] | ≥ -0.5 | reached |'
    """
    rows = [[one.point, one.task, one.forget, str(one.value), one.bar, one.outcome] for one in found]
    return table(["point", "task", "forget set", "value", "bar", "outcome"], rows)


def against_lines(groups: Sequence[Group], ours: str) -> list[str]:
    """Comparisons by gap, at published and at searched settings; those with runs that did next to nothing apart.

    Args:
        groups: of one scale and one version of the code.
        ours: the method.

    Example:
        >>> against_lines([], "nabla_tau")
        []
    """
    lines = []
    for searched, bar in NO_LOSS.items():
        found = [
            (compared.outcome, group.is_idle(name))
            for group in groups
            for name in group.methods
            if name not in (ours, FLOOR, ORIGINAL) and name.endswith("+tuned") == searched
            if (compared := compare(group.gaps(ours), group.gaps(name)))
        ]
        outcomes = Counter(outcome for outcome, _ in found)
        active = Counter(outcome for outcome, idle in found if not idle)
        total, others = sum(outcomes.values()), sum(active.values())
        if total:
            share = 100 * (total - outcomes[LOSS]) / total
            kept = share >= bar and outcomes[WIN] > outcomes[LOSS]
            verdict = UNRESOLVED if outcomes[UNDECIDED] == total else REACHED if kept else MISSED
            settings = "searched" if searched else "published"
            lines += [
                f"With others at {settings} settings, by gap: {outcomes[WIN]} of {total} comparisons won, "
                f"{outcomes[LOSS]} lost, {outcomes[TIE]} tied, {outcomes[UNDECIDED]} undecided; without a loss "
                f"{share:.0f} % (the bar: {bar:.0f} %, and more wins than losses): {verdict}. In {total - others} of "
                f"them the other ends no nearer to retrained models than doing nothing, or by less than {MARGIN} "
                f"point; of the remaining {others}, {active[WIN]} are won, {active[LOSS]} lost.",
                "",
            ]
    return lines


def _random(group: Group, ours: str) -> Iterator[Promise]:
    """Random subsets: attacks as on retrained models, in both directions."""
    fraction = _fraction(group)
    if fraction is None or fraction > RANDOM_UP_TO or group.forget.startswith("sequence"):
        return
    margins: dict[str, float] = {
        "primary AUC": max(LEAST_AUC, _auc_margin(group, ours)),
        **dict.fromkeys(("loss attack", "entropy attack"), max(LEAST_ATTACK, _attack_margin(group, ours))),
    }
    for name, margin in margins.items():
        if difference := _difference(group, ours, name):
            yield _promise(f"random: {name} as retrained", group, difference, -margin, margin)


def _removed(group: Group, ours: str) -> Iterator[Promise]:
    """Classes, labels and groups: gone as from retrained models, train and test rows alike."""
    if _fraction(group) is not None:
        return
    if difference := _difference(group, ours, "forget"):
        bar = REMOVED_UTILITY
        yield _promise("removed: utility on its rows as retrained", group, difference, -bar, bar)
    if difference := _difference(group, ours, "primary AUC"):
        yield _promise("removed: attack no better than on retrained", group, difference, high=REMOVED_ATTACK)
    ratio = _ratio(_losses(group, ours), _losses(group, FLOOR))
    yield _promise("removed: loss as retrained (a ratio)", group, ratio, 1 / REMOVED_LOSS, REMOVED_LOSS)


def _kept(group: Group, ours: str) -> Iterator[Promise]:
    """Utility, predictions and cost."""
    if difference := _difference(group, ours, "test"):
        yield _promise("test utility as retrained", group, difference, low=-UTILITY_LOST)
    if difference := _difference(group, ours, "retain", ORIGINAL):
        yield _promise("retain utility as the original's", group, difference, low=-RETAIN_LOST)
    if difference := _difference(group, ours, JS, ORIGINAL):
        yield _promise("predictions nearer to retrained than the original's", group, difference, high=0.0)
    if group.task in IMAGES and (_fraction(group) or 0.0) <= COST_UP_TO:
        yield _promise(COST_POINT, group, group.cost(ours), high=COST)


def _sequence(groups: Sequence[Group], ours: str) -> Iterator[Promise]:
    """Five requests one after the other against one for all of them: the same rows, the same retrained models."""
    by_name = {(group.task, group.forget): group for group in groups}
    for (task, forget), group in by_name.items():
        once = by_name.get((task, forget.replace("sequence", "random")))
        if not forget.startswith("sequence") or once is None:
            continue
        alike = dict(_originals(group).items() & _originals(once).items())  # else two models would be compared
        single = {seed: gap for seed, gap in once.gaps(ours).items() if seed in alike}
        difference = _minus(group.gaps(ours), single)
        if not difference:
            continue
        theirs = mean_of([single[seed] for seed in difference], LEVEL)
        width = theirs.high - theirs.value if theirs.high is not None else math.inf
        yield _promise("five requests as near as one", group, difference, high=width)


def _originals(group: Group) -> dict[int, str | None]:
    """Seed -> fingerprint of the original."""
    return {seed: original_of(record) for seed, (record,) in group.done(ORIGINAL).items()}


def _promise(point: str, group: Group, by_seed: BySeed, low: float = -math.inf, high: float = math.inf) -> Promise:
    return Promise(point, group.task, group.forget, mean_of(list(by_seed.values()), LEVEL), low, high)


def _difference(group: Group, ours: str, component: str, other: str = FLOOR) -> BySeed:
    """Component of one row less that of another, seed by seed."""
    return _minus(group.values(ours).get(component, {}), group.values(other).get(component, {}))


def _minus(ours: BySeed, theirs: BySeed) -> BySeed:
    return {seed: ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))}


def _ratio(ours: BySeed, theirs: BySeed) -> BySeed:
    return {seed: ours[seed] / theirs[seed] for seed in sorted(set(ours) & set(theirs))}


def _losses(group: Group, method: str) -> BySeed:
    """Mean loss on the forget set."""
    return {
        seed: fmean(one["audit"]["utility"]["forget"]["loss"]["value"] for one in cells)
        for seed, cells in group.done(method).items()
    }


def _fraction(group: Group) -> float | None:
    """Of a random forget set; None for others."""
    share = group.forget.partition("-")[2]
    return float(share) if share else None


def _auc_margin(group: Group, ours: str) -> float:
    """Points that an AUC of n forgotten and m unseen samples can certify: z(0.95) · √((n + m + 1) / (12 n m)) · 100."""
    verdicts = [record["audit"]["verdict"] for (record,) in group.done(ours).values()]
    sizes = [(one["forget_samples"], one["test_samples"]) for one in verdicts]
    return fmean(100 * Z * math.sqrt((n + m + 1) / (12 * n * m)) for n, m in sizes)


def _attack_margin(group: Group, ours: str) -> float:
    """The same for the paper's attacks, by the samples on each side; 0 where there is no such attack."""
    found = [record["audit"]["paper_attacks"]["losses"] for (record,) in group.done(ours).values()]
    return fmean([Z * ATTACK_SD / math.sqrt(one["samples"]) for one in found if one is not None] or [0.0])
