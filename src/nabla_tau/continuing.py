"""A run that survives: its state is kept while it works, and taken up again, to the bit, after it was cut off."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nabla_tau.checkpoint import FINISHED, Checkpoint, NotSaved, clear, forget_later, forget_older, write
from nabla_tau.collapse import UtilityCollapse, Watch
from nabla_tau.compatibility import differences, find, require_room
from nabla_tau.errors import InvalidRequest
from nabla_tau.facts import method_name
from nabla_tau.journal import Journal
from nabla_tau.problem import Epoch, Method, NonFiniteLoss, Problem
from nabla_tau.snapshot import journal_of, put_back, taken
from nabla_tau.storage import Unlearned, load_into
from nabla_tau.timetable import Timetable


def passes(problem: Problem, method: Method, last_good: Callable[[], str] = lambda: "") -> Iterator[Epoch]:
    """The epochs of a method; what breaks it off says in which epoch.

    Args:
        problem: the request.
        method: how to unlearn.
        last_good: says where the last good state is.

    Raises:
        NonFiniteLoss: if a loss became NaN or infinite.
        UtilityCollapse: if what is to be kept was lost.
        InvalidRequest: if the method is no function that yields epochs.

    Example:
        >>> def broken(problem):
        ...     yield Epoch()
        ...     finite(math.nan, "a forget batch")
        >>> from nabla_tau.problem import finite
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     list(passes(problem, broken))
        Traceback (most recent call last):
        nabla_tau.problem.NonFiniteLoss: Expected finite losses, got nan for a forget batch... It was in epoch 2, after
        0 steps.
    """
    number = 1
    try:
        for epoch in _epochs(problem, method):
            yield epoch
            number += 1
    except (NonFiniteLoss, UtilityCollapse) as error:
        steps = f"{problem.steps} step{'s' * (problem.steps != 1)}"
        raise type(error)(f"{error} It was in epoch {number}, after {steps}{last_good()}.") from error


def _epochs(problem: Problem, method: Method) -> Iterator[Epoch]:
    """What a method yields, if it yields epochs; one of the user's own may do something else."""
    found: Any = method(problem)
    if not isinstance(found, Iterable):
        raise _no_epoch(method, found)
    for epoch in found:
        if not isinstance(epoch, Epoch):
            raise _no_epoch(method, epoch)
        yield epoch


def _no_epoch(method: Method, got: Any) -> InvalidRequest:
    return InvalidRequest(
        [
            f"method: expected a function that yields an Epoch after each pass, got {type(got).__name__} from "
            f"{method_name(method)}: end each pass with `yield Epoch()`, from nabla_tau.problem."
        ]
    )


class Keeper:
    """Keeps the state of a run in a folder while a method works, and takes it up again.

    Args:
        problem: the request.
        folder: where checkpoints are.
        identity: what must be the same for a checkpoint to be continued.
        every: seconds between two; None for an interval at which saving takes 2 % of the time.
        most_allowed: loss of the retain set from which on utility has collapsed.

    Attributes:
        remarks: what the reader of the result must know.
        seconds_before: how long the run had worked before it was cut off.

    Raises:
        InvalidRequest: if the folder keeps another run, or nothing but damaged checkpoints.

    Example:
        >>> import tempfile
        >>> from nabla_tau import methods
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with tempfile.TemporaryDirectory() as place, request.prepared() as problem:
        ...     keeper = Keeper(problem, Path(place), {"seed": 0}, every=0)
        ...     epochs = keeper.run(methods.finetune)
        ...     sorted(path.name for path in Path(place).iterdir())
        ['step-0000000005', 'step-0000000006']
    """

    def __init__(
        self,
        problem: Problem,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        every: float | None = None,
        most_allowed: float = math.inf,
    ) -> None:
        self.problem, self.folder, self.identity = problem, folder, dict(identity)
        self.watch = Watch(problem, most_allowed)
        self.timetable = Timetable(problem.engine, every, problem.settings.get("state_bytes", 0))
        self.epochs: list[Epoch] = []
        self.remarks: list[str] = []
        self.started = self.pass_started = 0.0
        self.kept: dict[str, Any] = {"saved": 0, "seconds": 0.0, "continued_after_steps": []}
        self.saved = self._found()
        facts = {} if self.saved is None else self.saved.facts
        self.last_step = 0 if self.saved is None else self.saved.step
        self.epochs_before = [Epoch(**epoch) for epoch in facts.get("epochs", [])]
        self.seconds_before, self.pass_before = facts.get("seconds", 0.0), facts.get("pass_seconds", 0.0)
        if not self.is_finished:
            require_room(folder, problem.settings.get("state_bytes", 0))
        if self.last_step:
            before = facts["kept"]
            self.kept = {**before, "continued_after_steps": [*before["continued_after_steps"], self.last_step]}

    @property
    def is_finished(self) -> bool:
        """Whether the run that the folder keeps came to its end."""
        return self.saved is not None and self.saved.is_finished

    def result(self, model: nn.Module, *, in_place: bool = False) -> Unlearned:
        """What the finished run ended at.

        Args:
            model: of the same architecture; not touched, unless `in_place`.
            in_place: whether the model itself is to be what the run ended at.
        """
        return load_into(self.folder / FINISHED, model if in_place else copy.deepcopy(model))

    def run(self, method: Method) -> list[Epoch]:
        """Run a method from where it was cut off, or from its beginning.

        Raises:
            NonFiniteLoss: if a loss became NaN or infinite, with the epoch.
            UtilityCollapse: if what is to be kept was lost, with the epoch.
            NotSaved: if a checkpoint could not be written.
        """
        problem = self.problem
        problem.journal = journal_of(self.saved, problem)
        problem.after_step, problem.resume = self._after_step, self._restore
        self.started = self.pass_started = time.perf_counter()
        self.timetable.restart()
        try:
            with _schedules_quiet():
                for epoch in passes(problem, method, self._last_good):
                    self.epochs.append(self._as_before(epoch))
                    self.pass_started = time.perf_counter()
            if problem.journal.repeating:
                raise RuntimeError("Expected a method that does the same when it is told the same, got one that ended.")
        finally:
            problem.journal = Journal()
            problem.after_step = problem.resume = lambda optimizer: None
        problem.settings["checkpoints"] = {**self.kept, "every_seconds": self.timetable.wait}
        return self.epochs

    def finish(self, unlearned: Unlearned) -> None:
        """Keep the result in the place of what led to it: the same call gives it back.

        Raises:
            NotSaved: if that is not possible.
        """
        self._by_main(lambda: write(self.folder, FINISHED, unlearned.writers(), {"request": self.identity}))

    def _found(self) -> Checkpoint | None:
        """What to continue from."""
        engine = self.problem.engine
        if engine.is_main:
            clear(self.folder, leftovers_only=True)
        found, damaged = find(self.folder)
        step = -1 if found is None else found.step
        if engine.minimum(step) != -engine.minimum(-step):
            raise InvalidRequest(
                [
                    f"checkpoint: expected all processes to find the same in {self.folder}, got another content on "
                    "some: name a folder that they share."
                ]
            )
        if found is None:
            return None
        request = found.facts.get("request")
        if wrong := differences(request if isinstance(request, dict) else {}, self.identity, self.folder):
            raise InvalidRequest(wrong)
        if engine.is_main:
            forget_later(self.folder, found)
            forget_older(self.folder)  # a process that was killed just then had not
        self.remarks = [f"checkpoint: {text}: continued from the one before it, {found.folder}." for text in damaged]
        return found

    def _as_before(self, epoch: Epoch) -> Epoch:
        """An epoch that was repeated is what it was; one that was cut off took the time of both parts."""
        number = len(self.epochs)
        if number < len(self.epochs_before):
            return self.epochs_before[number]
        return replace(epoch, seconds=epoch.seconds + self._seconds_of_pass_before())

    def _seconds_of_pass_before(self) -> float:
        return self.pass_before if len(self.epochs) == len(self.epochs_before) else 0.0

    def _last_good(self) -> str:
        if not self.last_step:
            return "; no checkpoint had been saved"
        return f"; the last good state, after step {self.last_step}, is in {self.folder}"

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.timetable.due():
            self._save(optimizer)

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        problem, started = self.problem, time.perf_counter()
        if not self.watch.is_good(problem.journal.rows()[0], epoch=len(self.epochs) + 1):
            self.timetable.saved(problem.engine.from_main(time.perf_counter() - started))
            return
        files, state = taken(problem, optimizer)
        self.kept["saved"] += 1
        facts = {
            "request": self.identity,
            "total_steps": problem.total_steps,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "seconds": started - self.started + self.seconds_before,
            "pass_seconds": started - self.pass_started + self._seconds_of_pass_before(),
            "kept": self.kept,
            **state,
        }
        try:
            self._by_main(lambda: write(self.folder, f"step-{problem.steps:010}", files, facts))
        except NotSaved as error:
            raise NotSaved(
                f"{error}: free space there or mend the folder, and make the same call again{self._last_good()}; the "
                "model passed in is unchanged."
            ) from error
        self.last_step = problem.steps
        seconds = problem.engine.from_main(time.perf_counter() - started)
        self.kept["seconds"] += seconds
        self.timetable.saved(seconds)

    def _by_main(self, write_checkpoint: Callable[[], Path]) -> None:
        """Have the main process write; all of them fail if it fails."""
        failed = ""
        if self.problem.engine.is_main:
            try:
                write_checkpoint()
                forget_older(self.folder)
            except OSError as error:
                failed = str(error)
        if self.problem.engine.from_main(bool(failed)):
            raise NotSaved(failed or "Expected the main process to save, got an error there")

    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Put everything where it was when the checkpoint was saved."""
        assert self.saved is not None
        put_back(self.saved, self.problem, optimizer)
        self.started = self.pass_started = time.perf_counter()
        self.timetable.restart()


@contextmanager
def _schedules_quiet() -> Iterator[None]:
    """A schedule is taken to its place while no step is made, which torch warns about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step")
        yield
