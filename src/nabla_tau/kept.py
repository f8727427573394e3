"""What a folder of checkpoints holds for a request; looking changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nabla_tau.compatibility import differences, find
from nabla_tau.errors import InvalidRequest
from nabla_tau.locking import holder_of

NOTHING, RUN, FINISHED, ANOTHER, DAMAGED = "nothing", "run", "finished", "another request", "damaged"


@dataclass(frozen=True)
class Kept:
    """What is in a folder.

    Attributes:
        folder: its name.
        state: "nothing", "run" (cut off, of this request), "finished" (its result), "another request" or "damaged".
        step: after which step the run was saved.
        steps: how many were planned then; more are where it had gone on after them.
        remarks: what differs from the request, or is damaged, a sentence each.
        held_by: the process that works in it now, if any does.

    Example:
        >>> print(Kept("runs/17.state", RUN, step=1200, steps=3200))
        a run of this request at step 1,200 of 3,200 planned in runs/17.state: the same call continues it
    """

    folder: str
    state: str
    step: int = 0
    steps: int = 0
    remarks: list[str] = field(default_factory=list)
    held_by: str = ""

    def __str__(self) -> str:
        """One line, and one for each remark."""
        held, then = {
            NOTHING: ("nothing", "a run would begin anew"),
            RUN: (
                f"a run of this request at step {self.step:,} of {self.steps:,} planned",
                "the same call continues it",
            ),
            FINISHED: ("the finished result of this request", "the same call gives it back, without the work"),
            ANOTHER: ("a run of another request", "the call would be refused"),
            DAMAGED: ("nothing but damaged checkpoints", "the call would be refused"),
        }[self.state]
        if self.held_by:
            then = f"{self.held_by} works in it now, and the call would be refused"
        said = f"{held} in {self.folder}: {then}"
        return "\n           ".join([said, *self.remarks])


def look_into(folder: Path, identity: Callable[[], Mapping[str, Any]]) -> Kept:
    """Say what a folder holds.

    Args:
        folder: of all checkpoints of a run.
        identity: says what a run must have in common with the one that is kept there; asked only if there is one.

    Example:
        >>> look_into(Path("runs/that-never-was"), dict).state
        'nothing'
    """
    name, held_by = str(folder), holder_of(folder)
    try:
        found, damaged = find(folder)
    except InvalidRequest as error:
        return Kept(name, DAMAGED, remarks=error.problems, held_by=held_by)
    if found is None:
        return Kept(name, NOTHING, held_by=held_by)
    request = found.facts.get("request")
    if wrong := differences(request if isinstance(request, dict) else {}, identity(), folder):
        return Kept(name, ANOTHER, remarks=wrong, held_by=held_by)
    remarks = [f"{text}: the one before it, {found.folder}, would be used" for text in damaged]
    if found.is_finished:
        return Kept(name, FINISHED, remarks=remarks, held_by=held_by)
    return Kept(name, RUN, found.step, found.facts["total_steps"], remarks, held_by)
