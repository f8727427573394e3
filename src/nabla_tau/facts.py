"""What is to be known about a method before it runs: what it needs, serves, costs and allows to be set."""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

MethodType = TypeVar("MethodType", bound=Callable[..., Any])

LABELS, RETAIN, VALIDATION = "labels", "retain set", "validation set"
CLASSES, SECOND_MODEL, TRAINING = "class structure", "second model in memory", "training function"
NEEDS = (LABELS, RETAIN, VALIDATION, CLASSES, SECOND_MODEL, TRAINING)
"""What a method can need, apart from the model and its loss."""


@dataclass(frozen=True)
class Range:
    """The values that a setting may take.

    Attributes:
        low: smallest value.
        high: largest value.
        above: whether `low` itself is left out.
        whole: whether only whole numbers are allowed.
        search: (low, high) of what a search tries; None where it is not searched.
        scale: "log" where a search draws exponents, else "linear".

    Example:
        >>> rate = Range(0, 1, above=True)
        >>> str(rate), 0.5 in rate, 0 in rate, "0.5" in rate
        ('a number in (0, 1]', True, False, False)
        >>> str(Range(1, whole=True)), 3 in Range(1, whole=True), 2.5 in Range(1, whole=True)
        ('a whole number in [1, ∞)', True, False)
    """

    low: float
    high: float = math.inf
    above: bool = False
    whole: bool = False
    search: tuple[float, float] | None = None
    scale: str = "log"

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        inside = self.low < value <= self.high or (value == self.low and not self.above)
        return inside and (isinstance(value, int) or not self.whole)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} in {'(' if self.above else '['}{self.low:g}, " + (
            f"{self.high:g}]" if math.isfinite(self.high) else "∞)"
        )


EPOCHS = Range(1, whole=True, search=(1, 10))
LEARNING_RATE = Range(0, above=True, search=(1e-5, 1e-1))
MOMENTUM = Range(0, 1)
WEIGHT_DECAY = Range(0)


@dataclass(frozen=True)
class Facts:
    """What a reader, a request and a search must know about a method.

    Attributes:
        reference: paper and equation.
        needs: some of `NEEDS`.
        passes: what it descends on and reads, in passes over the sets.
        mode: "eval" or "train", of the model while it is changed.
        forgets: what it can take out.
        keeps: what it cannot.
        tasks: names of the losses that it can serve; None for any.
        settings: keyword-only argument -> allowed values.
        accumulates: whether a step can be made of micro-batches, with the result of the whole batch, and made again
            where it overflows in fp16.
        prices: whether rows of labels that no row of the retain set carries are pushed to the price of those labels.
        not_continued: why a run of it cannot be continued after it was cut off; None where it can. One that can sees
            the model through the means that `Problem` gives it alone, and keeps no weights of its own.
        not_sharded: why it cannot change a model that is sharded over processes; None where it can. One that can passes
            through the model by `Problem` alone, and does with weights and gradients what is done to each by itself.
    """

    reference: str
    needs: tuple[str, ...]
    passes: str
    mode: str
    forgets: str
    keeps: str
    tasks: tuple[str, ...] | None = None
    settings: Mapping[str, Range] = field(default_factory=dict)
    accumulates: bool = False
    prices: bool = False
    not_continued: str | None = None
    not_sharded: str | None = None


def described(facts: Facts) -> Callable[[MethodType], MethodType]:
    """Attach facts to a method.

    Example:
        >>> known = Facts("ours", (RETAIN,), "1 × D_r", "eval", "nothing", "everything")
        >>> @described(known)
        ... def idle(problem):
        ...     yield from ()
        >>> facts_of(idle) is known
        True
    """

    def attach(method: MethodType) -> MethodType:
        method.facts = facts  # type: ignore[attr-defined]
        return method

    return attach


def facts_of(method: Any) -> Facts | None:
    """The facts of a method, under any number of `functools.partial`; None for one that has none.

    Example:
        >>> facts_of(functools.partial(print)) is None
        True
    """
    found: Facts | None = getattr(unwrapped(method)[0], "facts", None)
    return found


def unwrapped(method: Any) -> tuple[Any, dict[str, Any]]:
    """The function under any number of `functools.partial`, and the settings that these give it.

    Example:
        >>> unwrapped(functools.partial(functools.partial(print, sep=","), sep="")) == (print, {"sep": ""})
        True
    """
    given: dict[str, Any] = {}
    while isinstance(method, functools.partial):
        given, method = {**method.keywords, **given}, method.func
    return method, given


def method_name(method: Any) -> str:
    """A method's own name, under any number of `functools.partial`; that of its class for any other callable.

    Example:
        >>> from nabla_tau import methods
        >>> method_name(functools.partial(methods.scrub, temperature=2.0))
        'scrub'
    """
    inner, _ = unwrapped(method)
    return str(getattr(inner, "__name__", type(inner).__name__))


def accumulates(method: Any) -> bool:
    """Whether a method's step can be made of micro-batches; unknown methods are taken not to.

    Example:
        >>> from nabla_tau import methods
        >>> accumulates(methods.nabla_tau), accumulates(methods.scrub), accumulates(lambda problem: ())
        (True, False, False)
    """
    facts = facts_of(method)
    return facts is not None and facts.accumulates


def setting_problems(method: Any) -> list[str]:
    """What is wrong with the settings that `functools.partial` gave a method.

    Returns:
        One sentence per problem; none for a method without facts, or one that can run.

    Example:
        >>> from nabla_tau import methods
        >>> setting_problems(functools.partial(methods.scrub, temperature=0, epoch=3))
        ['method: expected temperature of scrub to be a number in (0, ∞), got 0.',
        "method: expected settings that scrub has, got 'epoch': did you mean 'epochs'?"]
        >>> setting_problems(methods.retrain)
        ['method: expected train=, a function (dataset, seed) -> nn.Module, got none: retraining cannot be guessed ...']
    """
    inner, given = unwrapped(method)
    facts, name = facts_of(inner), method_name(inner)
    if facts is None:
        return []
    known = [p.name for p in inspect.signature(inner).parameters.values() if p.kind is p.KEYWORD_ONLY]
    problems = [
        f"method: expected {setting} of {name} to be {allowed}, got {given[setting]!r}."
        for setting, allowed in facts.settings.items()
        if setting in given and given[setting] not in allowed
    ]
    problems += [
        f"method: expected settings that {name} has, got {setting!r}: {suggestion(setting, known)}"
        for setting in given
        if setting not in known
    ]
    if TRAINING in facts.needs and not callable(given.get("train")):
        got = repr(given["train"]) if given.get("train") is not None else "none"
        problems.append(
            f"method: expected train=, a function (dataset, seed) -> nn.Module, got {got}: retraining cannot be "
            f"guessed from a module; pass method=functools.partial(methods.{name}, train=my_training)."
        )
    return problems


def continuing_problems(method: Any) -> list[str]:
    """Why a run of a method cannot be kept in checkpoints and continued.

    Returns:
        One sentence where it cannot.

    Example:
        >>> from nabla_tau import methods
        >>> continuing_problems(methods.nabla_tau)
        []
        >>> continuing_problems(methods.retrain)
        ['checkpoint: expected a method that can be continued, got retrain: its training is a function of yours; ...']
    """
    return _incapable(method, "checkpoint", "can be continued", "not_continued")


def sharded_problems(method: Any) -> list[str]:
    """Why a method cannot change a model that is sharded over processes.

    Returns:
        One sentence where it cannot.

    Example:
        >>> from nabla_tau import methods
        >>> sharded_problems(methods.nabla_tau)
        []
        >>> sharded_problems(methods.scrub)
        ['shard: expected a method that can change a sharded model, got scrub: its teacher is whole; ...']
    """
    return _incapable(method, "shard", "can change a sharded model", "not_sharded")


def _incapable(method: Any, option: str, able: str, fact: str) -> list[str]:
    """Why a method cannot do what an option asks, if it cannot: the reason is one of its facts."""
    facts = facts_of(method)
    if facts is not None and getattr(facts, fact) is None:
        return []
    reason = "it has no facts that say so" if facts is None else getattr(facts, fact)
    return [
        f"{option}: expected a method that {able}, got {method_name(method)}: {reason}; leave {option} "
        "out, or take another method, as methods.nabla_tau."
    ]


def task_problems(method: Any, loss_name: str) -> list[str]:
    """Whether a method can serve the task.

    Args:
        method: any method.
        loss_name: name of the per-sample loss.

    Returns:
        One sentence where it cannot.

    Example:
        >>> from nabla_tau import methods
        >>> task_problems(methods.random_label, "classification")
        []
        >>> task_problems(methods.random_label, "regression")
        ['method: expected one of losses.classification, ... for random_label, got regression: ...']
    """
    facts = facts_of(method)
    if facts is None or facts.tasks is None or loss_name in facts.tasks:
        return []
    return [
        f"method: expected one of losses.{', losses.'.join(facts.tasks)} for {method_name(method)}, got {loss_name}: "
        f"it is defined by {'labels' if LABELS in facts.needs else 'predicted distributions'}; pass such a loss, or a "
        "method that serves any, as methods.nabla_tau."
    ]


def suggestion(name: str, known: list[str]) -> str:
    """Did you mean …?

    Example:
        >>> suggestion("srcub", ["scrub", "ssd"]), suggestion("xyz", ["scrub", "ssd"])
        ("did you mean 'scrub'?", 'there are scrub, ssd.')
    """
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(known)}." if known else "there is nothing to set."
