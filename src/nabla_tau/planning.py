"""`--plan`: what a request would do and cost, measured on two steps; nothing is changed."""

import math
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nabla_tau.compatibility import identity
from nabla_tau.continuing import passes
from nabla_tau.errors import InvalidRequest
from nabla_tau.facts import method_name
from nabla_tau.kept import Kept, look_into
from nabla_tau.memory import describe, free_bytes, step_bytes
from nabla_tau.outcome import measure
from nabla_tau.problem import Problem
from nabla_tau.sets import largest_batch
from nabla_tau.shards import bytes_held
from nabla_tau.unlearning import Request

TIMED_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """What a request would do.

    Attributes:
        samples: rows of each set.
        batch_size: samples per global batch of each set.
        epochs: passes over the forget set.
        steps: optimiser updates; a method may make fewer, once nothing is left to gain.
        most_steps: the same where the method goes on because the retain set is not back.
        seconds_per_step: from two steps, after one that is not counted, by the samples that they and all steps read.
        seconds: steps and measurements of the target together; the checks, already done, not counted.
        trial_seconds: of the trials before them, at most; 0 where a method makes none.
        repair_seconds: of the steps after them, at most; 0 where a method makes none.
        device_hours: of all processes together, checks and trials counted.
        most_device_hours: the same with the steps after them.
        check_seconds: what reading and checking every row took just now, with the search for copies of forget rows.
        micro_batch_size: samples that a process gives the model at once; None for its whole share of a batch.
        retraining_epoch_seconds: about what each epoch of training on the retain set alone would take; None where a
            method makes no step to tell it by.
        step_bytes: memory of a step: activations, gradients, optimiser moments and, but for `in_place`, the copy of the
            model; of a sharded one this process's part, and the block that is put together.
        free_bytes: memory free on the device.
        training_passes: samples that steps are made on, forget and retain, in trials and after them, at most, over the
            samples of the training set: 2.5 is the work of 2.5 epochs of training.
        settings: what was derived.
        warnings: what was warned about.
        checkpoint: what the folder of checkpoints holds; None where none was named.
    """

    samples: dict[str, int]
    batch_size: dict[str, int | None]
    epochs: int
    steps: int
    most_steps: int
    seconds_per_step: float
    seconds: float
    trial_seconds: float
    repair_seconds: float
    device_hours: float
    most_device_hours: float
    check_seconds: float
    micro_batch_size: int | None
    retraining_epoch_seconds: float | None
    step_bytes: int
    free_bytes: int
    training_passes: float
    settings: dict[str, Any]
    warnings: list[str]
    checkpoint: Kept | None = None

    def __str__(self) -> str:
        """One line per fact; what was warned about was said when it was found, and is in `warnings`."""
        parts = f" in micro-batches of {self.micro_batch_size}" if self.micro_batch_size else ""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.samples.items())
        trials = f", after trials of at most {self.trial_seconds:,.0f} s" if self.trial_seconds else ""
        steps, more_time, most_hours = f"at most {self.steps:,}, in {self.epochs} passes over the forget set", "", ""
        if self.repair_seconds:
            steps = f"{self.steps:,} in {self.epochs} passes over the forget set, fewer once both sets are where they "
            steps += f"should be, up to {self.most_steps:,} while the retain set is not back"
            more_time = f", and {self.repair_seconds:,.0f} s more at most while the retain set is not back"
            most_hours = f", then {self.most_device_hours:.3g}"
        lines = [
            f"rows       {rows}",
            f"steps      {steps}",
            f"time       about {self.seconds:,.0f} s, {self.seconds_per_step:.3g} s a step "
            f"(measured on {TIMED_STEPS} steps){trials}{more_time}; {self.device_hours:.3g} device-hours with "
            + ("trials and checks" if trials else "the checks")
            + most_hours,
            f"checks     took {self.check_seconds:.1f} s: every row read, and copies of forget rows looked for in the "
            "retain set",
            f"memory     about {describe(self.step_bytes)} for a step{parts}, {describe(self.free_bytes)} free",
            f"work       at most {self.training_passes:.2f} x one training pass: samples stepped on, over those of one "
            "epoch of training on forget and retain set",
        ]
        if self.retraining_epoch_seconds is not None:
            lines.append(
                f"retraining about {self.retraining_epoch_seconds:,.0f} s for each epoch on the retain set, as many as "
                "the original was trained for"
            )
        if "trained_by" in self.settings:
            lines.append(f"training   by {self.settings['trained_by']}, which none of these numbers counts")
        if self.checkpoint is not None:
            lines.append(f"checkpoint {self.checkpoint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON takes it."""
        return asdict(self)


def device_hours(seconds: float, processes: int = 1) -> float:
    """Hours of all devices together, which is what is paid for.

    Example:
        >>> device_hours(seconds=1800, processes=8)
        4.0
    """
    return seconds * processes / 3600


class _Measured(Exception):  # noqa: N818  (ends the trial, is no error)
    pass


def plan(request: Request) -> Plan:
    """Check a request, time two steps of it on a copy, and say what all of it would take.

    Args:
        request: as for `unlearn`; it is left as it is, and so are its model and sets.

    Returns:
        A `Plan`; `print` shows it, one line per fact.

    Raises:
        InvalidRequest: as `unlearn`.
        NonFiniteLoss: as `unlearn`.

    Example:
        >>> x, y = torch.eye(8), torch.arange(8) % 2
        >>> sets = (x[:2], y[:2]), (x[2:6], y[2:6]), (x[6:], y[6:])
        >>> found = plan(Request(torch.nn.Linear(8, 2), *sets, device="cpu"))
        >>> found.samples, found.epochs, found.steps
        ({'forget': 2, 'retain': 4, 'validation': 2}, 160, 160)
    """
    started = time.perf_counter()
    ticks: list[tuple[float, int]] = []

    def on_step(done: int, total: int) -> None:
        ticks.append((_now(problem), problem.samples_differentiated))
        if done > TIMED_STEPS or done == total:
            raise _Measured

    try:
        with replace(request, on_step=on_step).prepared() as problem:
            check_seconds = time.perf_counter() - started
            kept = None if request.checkpoint is None else _kept(request, problem)
            measured = _seconds_per_batch(problem)
            free = free_bytes(problem.engine.device)
            ticks.append((_now(problem), problem.samples_differentiated))
            for _ in passes(problem, request.method):
                pass
            raise _Measured  # left as a failure is, so that an original that was given up is put back
    except _Measured:
        pass
    if unsaid := [name for name in ("epochs", "steps") if name not in problem.settings]:
        raise InvalidRequest(
            [
                f"method: expected one that puts epochs and steps into problem.settings before its first step, which a "
                f"plan reads, got {method_name(request.method)} without {' and '.join(unsaid)}: let it say them."
            ]
        )
    timed = ticks[1 if len(ticks) > 2 else 0 :]
    (begun, read), (ended, all_read) = timed[0], timed[-1]
    samples = (all_read - read) * problem.engine.share[1] or _samples_of(problem, len(timed) - 1)
    per_sample = (ended - begun) / samples if samples else 0.0
    return replace(_plan(problem, per_sample, measured, check_seconds, free), checkpoint=kept)


def _kept(request: Request, problem: Problem) -> Kept:
    return look_into(Path(request.checkpoint or ""), lambda: identity(problem, request.method, vars(measure(problem))))


def _plan(problem: Problem, per_sample: float, per_batch: float, check_seconds: float, free: int) -> Plan:
    settings = problem.settings
    measured_batches = _measured_batches(problem)
    forget, retain = problem.forget, problem.retain
    processes = problem.engine.share[1]
    at_once = max(-(-largest_batch(source) // processes) for source in (forget, retain))
    samples = _samples(problem)
    tried = settings.get("most_trial_steps", 0) / retain.batches * retain.size
    most_steps = settings.get("most_steps", settings["steps"])
    repaired = (most_steps - settings["steps"]) * (forget.size / forget.batches + retain.size / retain.batches)
    weights = bytes_held(problem.model.parameters())
    seconds, trial_seconds = samples * per_sample + measured_batches * per_batch, tried * per_sample
    targets = _target_passes(problem) * int(settings.get("target_refreshes", 0)) * problem.validation.batches
    repair_seconds = repaired * per_sample + targets * per_batch if repaired else 0.0
    hours = partial(device_hours, processes=processes)
    return Plan(
        samples=settings["samples"],
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        steps=settings["steps"],
        most_steps=most_steps,
        seconds_per_step=samples * per_sample / max(settings["steps"], 1),
        seconds=seconds,
        trial_seconds=trial_seconds,
        repair_seconds=repair_seconds,
        device_hours=hours(seconds + trial_seconds + check_seconds),
        most_device_hours=hours(seconds + trial_seconds + repair_seconds + check_seconds),
        micro_batch_size=problem.micro_batch_size,
        retraining_epoch_seconds=per_sample * retain.size if settings["steps"] else None,
        check_seconds=check_seconds,
        step_bytes=step_bytes(
            weights,
            settings["state_bytes"] + settings.get("gathered_bytes", 0),
            settings["activation_bytes_per_sample"] * min(at_once, problem.micro_batch_size or at_once),
            copies=(not settings["in_place"]) + settings.get("teachers", 0),
        ),
        free_bytes=free,
        training_passes=(samples + tried + repaired) / (forget.size + retain.size),
        settings=settings,
        warnings=problem.warnings,
    )


def _samples(problem: Problem) -> float:
    """Samples that the planned steps read."""
    settings, forget, retain = problem.settings, problem.forget, problem.retain
    forget_passes = settings.get("forget_passes", settings["epochs"])
    retain_passes = settings.get("retain_passes", settings["steps"] / retain.batches)
    return float(forget_passes * forget.size + retain_passes * retain.size)


def _samples_of(problem: Problem, steps: int) -> float:
    """Those of some of its steps, where a method takes gradients in a way of its own, which nothing counts."""
    return _samples(problem) * steps / max(int(problem.settings["steps"]), 1)


def _measured_batches(problem: Problem) -> int:
    """Batches that are read without gradient: before and after, for every τ, and for the bound of losses."""
    bounded = not math.isinf(problem.largest_loss)
    targets = int(problem.settings.get("target_refreshes", 0)) + (1 if bounded else 0) + (2 if problem.priced else 0)
    # unseen data and as much of the retain set, before and after (4); looks at the retain set come to about one more
    passes = 4 + (1 if bounded else 0) + _target_passes(problem) * targets
    return passes * problem.validation.batches + (3 if bounded else 2) * problem.forget.batches


def _target_passes(problem: Problem) -> int:
    """Passes over the validation set for one τ: two where it is the mean of a price and of what unseen data costs."""
    return 2 if problem.removed is not None and 0 < problem.removed.share < 1 else 1


def _seconds_per_batch(problem: Problem) -> float:
    """Seconds of measuring one batch, from two of the validation set."""
    batches = list(islice(problem.in_order(problem.validation), TIMED_STEPS))
    started = _now(problem)
    with torch.no_grad():
        for batch in batches:
            problem.batch_loss(batch)
    return (_now(problem) - started) / len(batches)


def _now(problem: Problem) -> float:
    """The time once the device has done what it was given: a GPU answers before it has."""
    if problem.engine.device.type == "cuda":
        torch.cuda.synchronize(problem.engine.device)
    return time.perf_counter()
