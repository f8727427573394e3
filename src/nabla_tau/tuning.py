"""A fair search of a baseline's settings: it sees forget, retain and validation data, and says what it cost."""

import copy
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from torch import nn

from nabla_tau import methods
from nabla_tau.auditing.scoring import Numbers, Scores, score
from nabla_tau.errors import InvalidRequest, UnlearningWarning, whole_number
from nabla_tau.facts import Range, facts_of, method_name
from nabla_tau.losses import multi_label
from nabla_tau.problem import Method, NonFiniteLoss
from nabla_tau.sets import open_set
from nabla_tau.unlearning import Request

POINT = 0.01
"""How much utility a search may give up: one point of a hundred, beside what the rows leave open."""

ONE_SIDED = 1.645
"""Standard errors of the original's own utility that are left open, at 95 %: to forget a share of few rows costs as
much on unseen ones, and a model that was retrained is not to be refused for that."""

BROKEN = 2.0
"""Value of settings that end in no model: worse than any model's."""


@dataclass(frozen=True)
class Utility:
    """What a model is still good for, at most 1: accuracy or, where predictions are no classes, a share of loss saved.

    Attributes:
        retain: on the retain set.
        validation: on the validation set.
    """

    retain: float
    validation: float


@dataclass(frozen=True)
class Criterion:
    """How well a model has forgotten, as far as forget, retain and validation data tell.

    Attributes:
        gap: the larger of |AUC − ½| and half of `recognised`, in [0, ½]; 0 is best.
        auc: share of pairs of a forget and a validation row in which the forget row costs less, half of ties.
        recognised: where a class is removed, the share of its rows, forgotten and unseen, for which it is predicted: a
            model that never met it predicts it nowhere. Else 0.
        utility: of the model.
        floor: the least that is allowed of each.
        compared_with: which validation rows the forget set was compared with.

    Example:
        >>> good = Criterion(0.02, 0.52, 0.0, Utility(0.98, 0.9), Utility(0.97, 0.88), "all")
        >>> broken = Criterion(0.0, 0.5, 0.0, Utility(0.4, 0.35), Utility(0.97, 0.88), "all")
        >>> good.allowed, good.value, broken.allowed, round(broken.value, 2)
        (True, 0.02, False, 1.52)
    """

    gap: float
    auc: float
    recognised: float
    utility: Utility
    floor: Utility
    compared_with: str

    @property
    def shortfall(self) -> float:
        """What is missing to the floor, both sets together."""
        return max(self.floor.retain - self.utility.retain, 0.0) + max(
            self.floor.validation - self.utility.validation, 0.0
        )

    @property
    def allowed(self) -> bool:
        """Whether enough utility is left."""
        return self.shortfall == 0

    @property
    def value(self) -> float:
        """What a search makes small: the gap; where too little utility is left, 1 + s / (1 + s) of the shortfall s."""
        return self.gap if self.allowed else 1 + self.shortfall / (1 + self.shortfall)


class Judge:
    """Measures models by the criterion; the original and, for the floor, ∇τ's own result once at the start.

    Args:
        request: model and sets; its method and `on_step` are of no account.
        ours: what `nabla_tau` ended at on the same sets.
        own_validation: validation rows that are like the forget set, where that is a group; a class is found by itself.

    Raises:
        InvalidRequest: as `unlearn`.
        ValueError: if a loss of the original or of `ours` is not finite.

    Example:
        >>> import torch
        >>> x, y = torch.randn(60, 4), torch.arange(60) % 2
        >>> model = nn.Linear(4, 2)
        >>> judge = Judge(Request(model, (x[:10], y[:10]), (x[10:40], y[10:40]), (x[40:], y[40:]), device="cpu"), model)
        >>> found = judge(model)
        >>> found.allowed, found.compared_with, found.value == abs(found.auc - 0.5)
        (True, 'all validation rows', True)
    """

    def __init__(self, request: Request, ours: nn.Module, own_validation: Any = None) -> None:
        with _quiet(), request.prepared() as problem:
            self.loss, self.engine = problem.loss, problem.engine
            self.sources = {"forget": problem.forget, "retain": problem.retain, "validation": problem.validation}
        if own_validation is not None:
            size = problem.validation.batch_size or problem.validation.size
            self.sources["own validation"] = open_set(own_validation, size)
        original = self._scores(request.model)
        self.scale = max(float(original["validation"].losses.mean()), 1e-12)
        self.removed = _removed(original, self.loss)
        self.rows, self.compared_with = _comparable(original["validation"], self.removed)
        after = self._utility(self._scores(ours))
        self.floor = Utility(
            retain=min(self._least(original["retain"]), after.retain),
            validation=min(self._least(original["validation"]), after.validation),
        )

    def __call__(self, model: nn.Module) -> Criterion:
        """The criterion of one model; the model is left as it is.

        Raises:
            ValueError: if a loss is not finite.
        """
        scores = self._scores(model)
        unseen = scores.get("own validation", scores["validation"].take(self.rows))
        forget = scores["forget"]
        members = np.repeat([True, False], [len(forget), len(unseen)])
        value = float(roc_auc_score(members, -np.concatenate([forget.losses, unseen.losses])))
        recognised = _recognised([forget, scores["validation"]], self.removed)
        return Criterion(
            gap=max(abs(value - 0.5), recognised / 2),
            auc=value,
            recognised=recognised,
            utility=self._utility(scores),
            floor=self.floor,
            compared_with="the validation rows given" if "own validation" in scores else self.compared_with,
        )

    def _scores(self, model: nn.Module) -> dict[str, Scores]:
        placed = copy.deepcopy(model).to(self.engine.device)
        return {name: score(placed, self.loss, source, self.engine) for name, source in self.sources.items()}

    def _utility(self, scores: Mapping[str, Scores]) -> Utility:
        """Accuracy; where predictions are no classes, 1 − L / L_v with L_v of the original on the validation set."""
        return Utility(*(float(self._useful(scores[name]).mean()) for name in ("retain", "validation")))

    def _least(self, scores: Scores) -> float:
        """What must be left of the original's utility on a set."""
        useful = self._useful(scores)
        return float(useful.mean() - POINT - ONE_SIDED * useful.std() / len(useful) ** 0.5)

    def _useful(self, scores: Scores) -> Numbers:
        """Each row's part of the utility, shape (n,)."""
        correct = scores.bank.get("correct")
        return np.asarray(1 - scores.losses / self.scale if correct is None else correct)


def criterion(
    model: nn.Module,
    *,
    original: nn.Module,
    ours: nn.Module,
    forget: Any,
    retain: Any,
    validation: Any,
    own_validation: Any = None,
    **options: Any,
) -> Criterion:
    """How well a model has forgotten, without a test set and without a retrained model.

        max(|AUC(ℓ on D_f, ℓ on D_v) − ½|, r / 2),   if utility on D_r and D_v ≥ min(U − 0.01 − 1.645 s, ∇τ's)

    Where the forget set is a class (none of its labels occurs in the retain set), it is compared with the validation
    rows of that class, and r is the share of both for which that class is predicted; a model that never met it predicts
    it nowhere. Else r = 0. A group is compared with `own_validation`. Utility is accuracy, of labels and tokens too;
    where predictions are no classes, 1 − L / L_v with the mean loss L_v of the original on D_v. U is that of the
    original, s its standard error: forgetting a share of few rows costs as much on unseen ones.

    Args:
        model: the unlearned model.
        original: the model before.
        ours: what `nabla_tau` ends at on the same sets.
        forget: D_f.
        retain: D_r.
        validation: D_v.
        own_validation: validation rows that are like the forget set, where that is a group.
        options: `loss`, `batch_size` and `device`, as for `unlearn`.

    Returns:
        A `Criterion`; its `value` is what `tune` makes small.

    Raises:
        InvalidRequest: as `unlearn`.
        ValueError: if a loss is not finite.

    Example:
        >>> import torch
        >>> x, y = torch.randn(60, 4), torch.arange(60) % 2
        >>> model = nn.Linear(4, 2)
        >>> sets = {"forget": (x[:10], y[:10]), "retain": (x[10:40], y[10:40]), "validation": (x[40:], y[40:])}
        >>> 0 <= criterion(model, original=model, ours=model, **sets, device="cpu").gap <= 0.5
        True
    """
    return Judge(Request(original, forget, retain, validation, **options), ours, own_validation)(model)


@dataclass(frozen=True)
class Trial:
    """One run of the search: settings, what they gave (None where a loss was not finite), and its cost."""

    settings: dict[str, Any]
    criterion: Criterion | None
    steps: int
    seconds: float

    @property
    def value(self) -> float:
        """What the search makes small."""
        return BROKEN if self.criterion is None else self.criterion.value


@dataclass(frozen=True)
class Tuned:
    """What a search found, and what it cost.

    Attributes:
        method: name of the method.
        settings: the best settings found.
        best: their criterion; None if every trial broke.
        ours: the criterion of `nabla_tau`, which was not searched.
        trials: all of them, the first with the method's defaults.
        steps: of all trials together, without those of `nabla_tau`.
        seconds: of all trials and their measuring together.
        our_steps: of `nabla_tau`.
        our_seconds: of `nabla_tau`, once.

    Example:
        >>> useful = Utility(0.9, 0.9)
        >>> ours = Criterion(0.01, 0.51, 0.0, useful, useful, "all validation rows")
        >>> print(Tuned("scrub", {"temperature": 2.0}, ours, ours, [], 900, 60.0, our_steps=160, our_seconds=4.0))
        scrub: 0 trials, 900 steps, 60.0 s; nabla_tau: none, 160 steps, 4.0 s
        best       |AUC − ½| 0.0100, utility on retain 0.900 and validation 0.900; compared with all validation rows
        nabla_tau  |AUC − ½| 0.0100, utility on retain 0.900 and validation 0.900
        method=functools.partial(methods.scrub, temperature=2.0)
    """

    method: str
    settings: dict[str, Any]
    best: Criterion | None
    ours: Criterion
    trials: list[Trial] = field(repr=False)
    steps: int
    seconds: float
    our_steps: int
    our_seconds: float

    def __str__(self) -> str:
        """A few lines for a reader."""
        lines = [
            f"{self.method}: {len(self.trials)} trials, {self.steps} steps, {self.seconds:.1f} s; nabla_tau: none, "
            f"{self.our_steps} steps, {self.our_seconds:.1f} s"
        ]
        if self.best is None:
            return "\n".join([*lines, "no settings gave a model with finite losses"])
        remark = "" if self.best.allowed else "; too little utility is left"
        lines += [
            f"best       {_line(self.best)}; compared with {self.best.compared_with}{remark}",
            f"nabla_tau  {_line(self.ours)}",
            f"method=functools.partial({'methods.' * (self.method in methods.METHODS)}{self.method}, "
            f"{', '.join(f'{name}={value!r}' for name, value in self.settings.items())})",
        ]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """The search as JSON takes it."""
        return asdict(self)


def tune(
    method: str | Method,
    request: Request,
    *,
    trials: int = 20,
    space: Mapping[str, Range] | None = None,
    own_validation: Any = None,
    on_trial: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """Search a baseline's settings by `criterion`, with Optuna's tree-structured Parzen estimator.

    The first trial has the method's defaults, so that the best is never worse than these. ∇τ has no settings; it runs
    once, for the floor of the criterion, and to compare.

    Args:
        method: name of a method of the package, or a method of one's own.
        request: model and sets, loss, seed, batch size and device.
        trials: how many settings to try, at least 1.
        space: the settings to search, each with a default and a `Range` that says what is searched; the method's own
            if left out.
        own_validation: validation rows that are like the forget set, where that is a group.
        on_trial: called with (trials done, trials in all) after each.

    Returns:
        A `Tuned`. The same request gives the same one, but for seconds.

    Raises:
        InvalidRequest: if the request cannot be carried out, the method has nothing to search, or Optuna is missing.

    Reference:
        Akiba et al., Optuna, arXiv:1907.10902 (2019).

    Example:
        >>> import torch
        >>> x, y = torch.randn(60, 4), torch.arange(60) % 2
        >>> request = Request(nn.Linear(4, 2), (x[:10], y[:10]), (x[10:40], y[10:40]), (x[40:], y[40:]), device="cpu")
        >>> tuned = tune("neggrad", request, trials=2)
        >>> len(tuned.trials), tuned.trials[0].settings, tuned.steps >= 5
        (2, {'epochs': 5, 'learning_rate': 0.0001}, True)
        >>> def upwards(problem, rate=1e-3):  # a method of one's own
        ...     yield from methods.neggrad(problem, epochs=1, learning_rate=rate)
        >>> tune(upwards, request, trials=2, space={"rate": Range(0, search=(1e-5, 1e-2))}).trials[0].settings
        {'rate': 0.001}
    """
    run = methods.find_method(method) if isinstance(method, str) else method
    if not callable(run):
        raise InvalidRequest([f"method: expected a method or the name of one, got {type(run).__name__}."])
    name = method if isinstance(method, str) else method_name(run)
    searched = _searched(name, run, request, space, trials)
    optuna = _optuna()
    with _quiet():
        ours = replace(request, method=methods.nabla_tau, on_step=lambda done, total: None).run()
        judge = Judge(request, ours.model, own_validation)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=int(request.seed)))
        defaults = _defaults(run)
        study.enqueue_trial({setting: defaults[setting] for setting in searched})
        done: list[Trial] = []
        for number in range(trials):
            asked = study.ask()
            settings = {setting: _suggested(asked, setting, allowed) for setting, allowed in searched.items()}
            try:
                done.append(_tried(replace(request, method=partial(run, **settings)), judge, settings))
            except Exception as error:
                error.add_note(f"in trial {number + 1} of {trials}, with {settings}")
                raise
            study.tell(asked, done[-1].value)
            on_trial(number + 1, trials)
    best = min(done, key=lambda trial: trial.value)
    return Tuned(
        method=name,
        settings=best.settings,
        best=best.criterion,
        ours=judge(ours.model),
        trials=done,
        steps=sum(trial.steps for trial in done),
        seconds=sum(trial.seconds for trial in done),
        our_steps=ours.settings["steps_done"],
        our_seconds=ours.seconds,
    )


def _tried(request: Request, judge: Judge, settings: dict[str, Any]) -> Trial:
    started = time.perf_counter()
    steps = 0

    def count(done: int, total: int) -> None:
        nonlocal steps
        steps = done

    found: Criterion | None = None
    try:
        model = replace(request, on_step=count).run().model
    except NonFiniteLoss:  # the settings broke the model on the way
        model = None
    if model is not None:
        with suppress(ValueError):  # of a loss that is not finite: they broke it at the end
            found = judge(model)
    return Trial(settings, found, steps, time.perf_counter() - started)


def _searched(
    name: str, run: Method, request: Request, space: Mapping[str, Range] | None, trials: int
) -> dict[str, Range]:
    """What is searched.

    Raises:
        InvalidRequest: if that is nothing, cannot be drawn from, or holds no default of the method, or if the request
            is one whose run cannot be repeated.
    """
    problems = whole_number("trials", trials, 1, 2**31)
    problems += [
        f"{option}: expected a request without it, as every trial starts from the original anew, got "
        f"{getattr(request, option)!r}: leave it out."
        for option in ("in_place", "shard", "checkpoint")
        if getattr(request, option)
    ]
    facts = facts_of(run)
    settings = space if space is not None else facts.settings if facts else {}
    strange = {setting: allowed for setting, allowed in settings.items() if not isinstance(allowed, Range)}
    problems += [
        f"space: expected a facts.Range for each setting, got {type(one).__name__} for {setting}: "
        "Range(0, search=(1e-5, 1e-1)) allows 0 and above and searches between the two."
        for setting, one in strange.items()
    ]
    searched = {setting: one for setting, one in settings.items() if setting not in strange and one.search}
    if not searched and not strange:
        problems.append(f"method: expected one with settings to search, got {name}, which has none: pass space=.")
    defaults = _defaults(run)
    for setting, allowed in searched.items():
        problems += _space_problems(name, setting, allowed, defaults)
    if problems:
        raise InvalidRequest(problems)
    return searched


def _space_problems(name: str, setting: str, allowed: Range, defaults: Mapping[str, float]) -> Iterator[str]:
    assert allowed.search is not None
    low, high = allowed.search
    about = f"space: expected {setting} of {name} to be searched"
    if allowed.scale not in ("log", "linear"):
        yield f"{about} on the scale log or linear, got {allowed.scale!r}."
    if not low < high or low not in allowed or high not in allowed:
        yield f"{about} from low to high, both {allowed}, got {allowed.search}."
    if allowed.scale == "log" and low <= 0:
        yield f"{about} from above 0 on, as exponents are drawn, got {allowed.search}: or give scale='linear'."
    if setting not in defaults:
        known = ", ".join(defaults) or "none"
        yield f"space: expected settings of {name} with a number as default (there are: {known}), got {setting!r}."
    elif not low <= defaults[setting] <= high:
        yield f"{about} around its default {defaults[setting]:g}, which the first trial has, got {allowed.search}."


def _defaults(run: Method) -> dict[str, Any]:
    """The settings that have a number as default."""
    parameters = inspect.signature(run).parameters.items()
    return {name: one.default for name, one in parameters if isinstance(one.default, int | float)}


def _suggested(trial: Any, name: str, allowed: Range) -> Any:
    assert allowed.search is not None
    low, high = allowed.search
    if allowed.whole:
        return trial.suggest_int(name, int(low), int(high), log=allowed.scale == "log")
    return trial.suggest_float(name, low, high, log=allowed.scale == "log")


@dataclass(frozen=True)
class _Removed:
    """Labels of which every forget row carries one, and no retain row does; none where only a part is removed."""

    labels: Numbers
    several: bool  # in a row

    def carried(self, scores: Scores) -> Numbers:
        """Which rows carry one, shape (n,)."""
        if self.several:
            return np.asarray((scores.targets[:, self.labels] > 0).any(1))
        return np.isin(np.asarray(scores.classes), self.labels)

    def predicted(self, scores: Scores) -> Numbers:
        """For which rows that carry one it is predicted, shape (n,)."""
        if self.several:
            return np.asarray((scores.predictions[:, self.labels] >= 0.5).any(1))
        return np.asarray(scores.bank["correct"] > 0)


def _removed(scores: Mapping[str, Scores], loss: Any) -> _Removed | None:
    forget, retain = scores["forget"], scores["retain"]
    if loss is multi_label:
        labels = np.flatnonzero((forget.targets > 0).all(0) & ~(retain.targets > 0).any(0))
        return _Removed(labels, several=True) if len(labels) else None
    if forget.classes is None or retain.classes is None or np.isin(forget.classes, retain.classes).any():
        return None
    return _Removed(np.unique(forget.classes), several=False)


def _comparable(validation: Scores, removed: _Removed | None) -> tuple[Numbers, str]:
    """Which validation rows the forget set is compared with."""
    everything = np.arange(len(validation))
    if removed is None:
        return everything, "all validation rows"
    rows = np.flatnonzero(removed.carried(validation))
    if not len(rows):
        return everything, "all validation rows, as none is of the class to be forgotten"
    return rows, f"the {len(rows)} validation rows of the class to be forgotten"


def _recognised(sets: Sequence[Scores], removed: _Removed | None) -> float:
    """The share of rows with a removed label for which it is predicted."""
    if removed is None:
        return 0.0
    return float(np.concatenate([removed.predicted(one)[removed.carried(one)] for one in sets]).mean())


def _line(found: Criterion) -> str:
    utility = found.utility
    known = f", class predicted for {100 * found.recognised:.1f} % of its rows" if found.recognised else ""
    return (
        f"|AUC − ½| {abs(found.auc - 0.5):.4f}{known}, utility on retain {utility.retain:.3f} and validation "
        f"{utility.validation:.3f}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """What a single run would warn about says nothing about a search."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        yield


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InvalidRequest(
            ["tune: expected the package optuna, got none: install it with pip install 'nabla-tau[tune]'."]
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
