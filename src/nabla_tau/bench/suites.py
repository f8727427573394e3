"""The suites: which tasks and forget sets each holds, and its methods."""

from dataclasses import dataclass

from nabla_tau.auditing.measures import FEWEST_SAMPLES
from nabla_tau.bench.alpha import FRACTIONS, STUDY
from nabla_tau.bench.cells import REFERENCES, TUNED, UNLEARNING, Cell
from nabla_tau.bench.tasks import TASKS, forget_problem
from nabla_tau.errors import InvalidRequest
from nabla_tau.facts import suggestion

SEEDS = (0, 1, 2, 3, 4)
PAPER = ("nabla_tau", "nabla_tau_published", "finetune", "neggrad", "scrub", "scrub_rewind", "ssd", "amnesiac")
ALL = tuple(UNLEARNING)

_RANDOM = ("random-0.03", "random-0.15", "random-0.30")


def random_share(fraction: float) -> str:
    """The one name of a random forget set, however its fraction is written.

    Example:
        >>> random_share(0.3), random_share(0.001)
        ('random-0.30', 'random-0.001')
    """
    return f"random-{fraction:.2f}" if round(fraction, 2) == fraction else f"random-{fraction:g}"


@dataclass(frozen=True)
class Suite:
    """Tasks with their forget sets, and the methods that run by default.

    Attributes:
        about: one line.
        forgets: task -> names of forget sets.
        methods: names, beside the references, which always run.
        seeds: one slice of each task for each.
    """

    about: str
    forgets: dict[str, tuple[str, ...]]
    methods: tuple[str, ...] = PAPER
    seeds: tuple[int, ...] = SEEDS


SUITES = {
    "smoke": Suite("bundled digits, all methods, under two minutes", {"noisy_digits": ("random-0.15",)}, ALL, (0,)),
    "paper-cifar10": Suite("CIFAR-10, ResNet-18", {"cifar10": (*_RANDOM, "class")}),
    "paper-cifar100": Suite("CIFAR-100, ResNet-18 on superclasses", {"cifar100": (*_RANDOM, "class", "subclass")}),
    "paper-goemotions": Suite("GoEmotions, MiniLM", {"go_emotions": (*_RANDOM, "class")}),
    "alpha-rho": Suite(
        "the paper's grid of α₀ × ρ, coarse",
        {"cifar10": tuple(random_share(fraction) for fraction in FRACTIONS)},
        tuple(STUDY),
    ),
    "beyond": Suite(
        "CIFAR-10 outside the published range",
        {"cifar10": ("random-0.001", "random-0.01", "random-0.50", "random-0.70", "random-0.90", "sequence-0.15")},
    ),
    "domains": Suite(
        "a table, sound, a regression",
        {
            "location30": ("random-0.15", "class"),
            "spoken_digits": ("random-0.15", "class", "group"),
            "diabetes": ("random-0.15", "group"),
        },
        ALL,
    ),
}
"""Every suite by its name."""


def cells_of(
    suite: str,
    *,
    scale: str = "quick",
    methods: tuple[str, ...] = (),
    fractions: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
) -> list[Cell]:
    """The cells of a suite, slice by slice: those of one task and seed follow one another.

    Forget sets of the suite that have too few rows at this scale to be audited are left out: see `too_few`.

    Args:
        suite: one of `SUITES`.
        scale: quick or full.
        methods: instead of the suite's; `scrub+tuned` searches settings first; the references always run.
        fractions: random forget sets, as `0.15` or `0.3`, instead of those of the suite; other forget sets are kept.
        tasks: only these.
        seeds: instead of the suite's.

    Raises:
        InvalidRequest: if a name is unknown (the allowed ones are named), or a fraction has too few rows to be audited.

    Example:
        >>> [str(cell.path) for cell in cells_of("smoke", methods=("scrub",), seeds=(0,))][-1]
        'quick/noisy_digits/seed-0/random-0.15/scrub.json'
        >>> cells_of("smoke", methods=("srub",))
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. methods: expected some of ..., got 'srub': did you mean 'scrub'?
    """
    problems = unknown("suite", [suite], list(SUITES))
    if problems:
        raise InvalidRequest(problems)
    chosen = SUITES[suite]
    problems = unknown("scale", [scale], ["quick", "full"])
    own = [one for one in methods if ":" in one]
    problems += [
        f"methods: expected some of the package's, got {one!r}: benchmarks/own_method.py sets your own beside them."
        for one in own
    ]
    named = [one for one in methods if one not in own]
    problems += unknown("methods", named, [*ALL, *TUNED, *STUDY, *REFERENCES])
    problems += unknown("tasks", tasks, list(chosen.forgets))
    problems += [
        f"fractions: expected numbers between 0 and 1, as 0.15 for 15 %, got {one!r}."
        for one in fractions
        if forget_problem(f"random-{one}")
    ]
    problems += [f"seeds: expected whole numbers in [0, 1000), got {one}." for one in seeds if not 0 <= one < 1000]
    if not problems:
        problems += [
            f"fractions: expected at least {FEWEST_SAMPLES} rows to forget and to keep, which the audit needs, got "
            f"{too_small}."
            for task in (tasks or chosen.forgets)
            for one in fractions
            if (too_small := too_few(task, f"random-{one}", scale))
        ]
    if problems:
        raise InvalidRequest(problems)
    names = list(dict.fromkeys((*REFERENCES, *(methods or chosen.methods))))
    return [
        Cell(scale, task, seed, forget, method)
        for task in dict.fromkeys(tasks or chosen.forgets)
        for seed in dict.fromkeys(seeds or chosen.seeds)
        for forget in _replaced(chosen.forgets[task], fractions)
        if not too_few(task, forget, scale)
        for method in names
    ]


def too_few(task: str, forget: str, scale: str) -> str:
    """What a random forget set, or the rest of the rows, holds where that is too little to be audited; else nothing.

    Example:
        >>> too_few("cifar10", "random-0.001", "quick"), too_few("cifar10", "random-0.001", "full")
        ('4 of 4000 rows to forget', '')
        >>> too_few("cifar10", "random-0.999", "quick")
        '4 of 4000 rows to keep'
    """
    fraction, size = forget.partition("-")[2], TASKS[task].recipes[scale].train
    if not fraction:
        return ""
    rows = round(float(fraction) * size)
    too_small = {"forget": rows, "keep": size - rows}
    return next((f"{n} of {size} rows to {what}" for what, n in too_small.items() if n < FEWEST_SAMPLES), "")


def unknown(what: str, given: tuple[str, ...] | list[str], known: list[str]) -> list[str]:
    """A sentence for each name that is not among the known ones.

    Example:
        >>> unknown("scale", ["quik"], ["quick", "full"])
        ["scale: expected some of quick, full, got 'quik': did you mean 'quick'?"]
    """
    close = {one: suggestion(one, known) for one in given if one not in known}
    return [
        f"{what}: expected some of {', '.join(known)}, got {one!r}{f': {hint}' if 'did you mean' in hint else '.'}"
        for one, hint in close.items()
    ]


def _replaced(forgets: tuple[str, ...], fractions: tuple[str, ...]) -> list[str]:
    if not fractions:
        return list(forgets)
    chosen = dict.fromkeys(random_share(float(one)) for one in fractions)  # 0.3 and 0.30 are one
    return [*chosen, *(name for name in forgets if not name.startswith("random-"))]
