"""A run that survives: its state is kept while it works, and taken up again, to the bit, after it was cut off."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from nabla_tau.checkpoint import FINISHED, Checkpoint, NotSaved, clear, forget_later, forget_older, write
from nabla_tau.compatibility import differences, find, require_room
from nabla_tau.errors import InvalidRequest
from nabla_tau.journal import Journal, States
from nabla_tau.problem import Epoch, Method, NonFiniteLoss, Problem, finite
from nabla_tau.sets import generators_of
from nabla_tau.state import (
    copy_into,
    load_optimizer_state,
    load_process_state,
    optimizer_state,
    process_state,
    trainable,
    writer,
)
from nabla_tau.storage import Unlearned, load, load_into
from nabla_tau.stream_log import StreamLog
from nabla_tau.timetable import Timetable

MODEL, OPTIMIZER, JOURNAL = "model.safetensors", "optimizer.safetensors", "journal.safetensors"

LOOK = 5
"""Batches of the retain set that utility is judged by, before each save."""

PATIENCE = 0.1
"""Share of all steps in which utility that has collapsed may come back."""


class UtilityCollapse(ArithmeticError):  # noqa: N818  (it says what is the case)
    """What is to be kept costs far more than data that the model never saw; the model passed in is untouched.

    Example:
        >>> raise UtilityCollapse("Expected a retain set that costs at most 4, got 7.")
        Traceback (most recent call last):
        nabla_tau.continuing.UtilityCollapse: Expected a retain set that costs at most 4, got 7.
    """


def most_allowed(retain_loss: float, unseen_loss: float) -> float:
    """The loss on the retain set from which on utility has collapsed: twice the price of unseen data.

        max(L_r, L_v) + max(|L_r|, |L_v|)    of the original

    Example:
        >>> most_allowed(retain_loss=0.1, unseen_loss=2.0)
        4.0
    """
    return max(retain_loss, unseen_loss) + max(abs(retain_loss), abs(unseen_loss))


def passes(problem: Problem, method: Method, last_good: Callable[[], str] = lambda: "") -> Iterator[Epoch]:
    """The epochs of a method; what breaks it off says in which epoch.

    Args:
        problem: the request.
        method: how to unlearn.
        last_good: says where the last good state is.

    Raises:
        NonFiniteLoss: if a loss became NaN or infinite.
        UtilityCollapse: if what is to be kept was lost.

    Example:
        >>> def broken(problem):
        ...     yield Epoch()
        ...     finite(math.nan, "a forget batch")
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
        for epoch in method(problem):
            yield epoch
            number += 1
    except (NonFiniteLoss, UtilityCollapse) as error:
        steps = f"{problem.steps} step{'s' * (problem.steps != 1)}"
        raise type(error)(f"{error} It was in epoch {number}, after {steps}{last_good()}.") from error


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
        self.problem, self.folder, self.identity, self.most_allowed = problem, folder, dict(identity), most_allowed
        self.generators = [g for data in problem.sets.values() for g in generators_of(data)]
        self.state_file = f"process-{problem.engine.share[0]}.safetensors"
        self.timetable = Timetable(problem.engine, every, problem.settings.get("state_bytes", 0))
        self.epochs: list[Epoch] = []
        self.remarks: list[str] = []
        self.started = self.pass_started = 0.0
        self.lost_since: tuple[int, int] | None = None
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
        return (load_into if in_place else load)(self.folder / FINISHED, model)

    def run(self, method: Method) -> list[Epoch]:
        """Run a method from where it was cut off, or from its beginning.

        Raises:
            NonFiniteLoss: if a loss became NaN or infinite, with the epoch.
            UtilityCollapse: if what is to be kept was lost, with the epoch.
            NotSaved: if a checkpoint could not be written.
        """
        problem = self.problem
        problem.journal = self._journal()
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
        values, sizes = problem.journal.rows()
        if not self._is_good(values):
            self.timetable.saved(problem.engine.from_main(time.perf_counter() - started))
            return
        starts = {
            f"pass {number} {place}": state
            for number, states in problem.journal.starts.items()
            for place, state in enumerate(states)
        }
        own = process_state(problem.model, self.generators)
        states = problem.engine.gather(safetensors.torch.save({**own, **starts}))
        tensors, plain = optimizer_state(optimizer)
        files = {
            MODEL: writer(trainable(problem.model)),
            OPTIMIZER: writer(tensors),
            JOURNAL: writer({"values": values, "sizes": sizes}),
            **{f"process-{rank}.safetensors": _bytes_writer(state) for rank, state in enumerate(states)},
        }
        self.kept["saved"] += 1
        facts = {
            "request": self.identity,
            "total_steps": problem.total_steps,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "seconds": started - self.started + self.seconds_before,
            "pass_seconds": started - self.pass_started + self._seconds_of_pass_before(),
            "optimizer": plain,
            "scaler": {} if problem.scaler is None else problem.scaler.state_dict(),
            "streams": {
                "read": {str(number): digest.hex() for number, digest in problem.journal.streams.read().items()},
                "lengths": {str(number): length for number, length in problem.journal.streams.lengths.items()},
            },
            "kept": self.kept,
        }
        self._by_main(lambda: write(self.folder, f"step-{problem.steps:010}", files, facts))
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
            raise NotSaved(
                f"{failed or 'Expected the main process to save, got an error there'}: free space there or mend the "
                f"folder, and make the same call again{self._last_good()}; the model passed in is unchanged."
            )

    def _is_good(self, values: Tensor) -> bool:
        """Whether the state may take the place of one before it.

        Raises:
            NonFiniteLoss: if a loss or a weight is not finite.
            UtilityCollapse: if what was to be kept has not come back.
        """
        problem = self.problem
        finite(float(values.sum()), "a batch since the last checkpoint")
        for name, parameter in problem.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                finite(math.nan, f"what comes next, as {name} is no longer finite")
        found = finite(look(problem), "the first batches of the retain set")
        if found <= self.most_allowed:
            self.lost_since = None
            return True
        epoch, step = self.lost_since = self.lost_since or (len(self.epochs) + 1, problem.steps)
        if problem.steps - step > PATIENCE * problem.total_steps:
            raise UtilityCollapse(
                f"Expected a retain set that costs at most {self.most_allowed:.4g}, twice what unseen data cost the "
                f"original, got {found:.4g} over its first batches, and more than that since epoch {epoch}: the model "
                "passed in is unchanged; take another method, other settings or larger batches."
            )
        return False

    def _journal(self) -> Journal:
        if self.saved is None:
            return Journal(kept=True)
        told, own = self.saved.tensors(JOURNAL), self.saved.tensors(self.state_file)
        starts: dict[int, States] = {}
        for name in sorted(name for name in own if name.startswith("pass ")):
            starts.setdefault(int(name.split()[1]), []).append(own[name])
        streams = self.saved.facts["streams"]
        log = StreamLog(
            {int(number): bytes.fromhex(digest) for number, digest in streams["read"].items()},
            {int(number): (batches, rows) for number, (batches, rows) in streams["lengths"].items()},
            kept=True,
        )
        return Journal(told["values"].tolist(), told["sizes"].tolist(), starts, log, kept=True)

    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Put everything where it was when the checkpoint was saved."""
        assert self.saved is not None
        copy_into(trainable(self.problem.model), self.saved.tensors(MODEL))
        load_optimizer_state(optimizer, self.saved.tensors(OPTIMIZER), self.saved.facts["optimizer"])
        optimizer.zero_grad(set_to_none=True)
        if self.problem.scaler is not None:
            self.problem.scaler.load_state_dict(self.saved.facts["scaler"])
        load_process_state(self.problem.model, self.generators, self.saved.tensors(self.state_file))
        self.started = self.pass_started = time.perf_counter()
        self.timetable.restart()


def look(problem: Problem) -> float:
    """Mean loss of the current model over the first batches of the retain set; nothing moves by it.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu").prepared() as problem:
        ...     look(problem)
        4.25
    """
    with problem.measuring(), torch.no_grad():
        losses = [problem.batch_loss(batch) for batch in islice(problem.in_order(problem.retain), LOOK)]
    return sum(float(loss.value) * loss.size for loss in losses) / max(sum(loss.size for loss in losses), 1)


def _bytes_writer(content: bytes) -> Callable[[Path], None]:
    def fill(path: Path) -> None:
        path.write_bytes(content)

    return fill


@contextmanager
def _schedules_quiet() -> Iterator[None]:
    """A schedule is taken to its place while no step is made, which torch warns about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step")
        yield
