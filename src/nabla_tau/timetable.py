"""When to save: as often as the share of the time that saving may take allows."""

import math
import time
from collections.abc import Callable

from nabla_tau.engine import Engine

SHARE = 0.02
"""Of the time between two saves, what a save may take, where no interval is chosen."""

SHORTEST = 10.0
"""Seconds between two saves at least, where no interval is chosen: less work than that is not worth a save."""

BYTES_PER_SECOND = 1e8  # of writing, until it is measured


class Timetable:
    """Tells, after each step, whether it is time to save; all processes are told the same.

    The clock is the main process's. It is asked after 1, 2, 4, … steps since the last save, or when the steps that are
    left at the speed so far are done, so that processes hardly ever wait for one another. What a save changes in the
    result is nothing: it may come after any step.

    Args:
        engine: the processes.
        every: seconds between two saves; None for 50 times what the last one took, and 10 at least.
        size: bytes that a save is expected to write.
        clock: seconds.

    Attributes:
        wait: seconds between two saves.

    Example:
        >>> from nabla_tau.engine import start_engine
        >>> seconds = iter(range(100))  # a step a second
        >>> timetable = Timetable(start_engine("cpu"), every=3, size=0, clock=lambda: next(seconds))
        >>> [timetable.due() for _ in range(4)]
        [False, False, True, True]
    """

    def __init__(
        self, engine: Engine, every: float | None, size: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.engine, self.every, self.clock = engine, every, clock
        self.wait = self._wait(size / BYTES_PER_SECOND)
        self.since, self.steps, self.asked_at = 0.0, 0, 1
        self.restart()

    def due(self) -> bool:
        """Whether to save now; to be asked once after every step."""
        self.steps += 1
        if self.steps < self.asked_at:
            return False
        passed = self.clock() - self.since
        left = math.ceil((self.wait - passed) * self.steps / max(passed, 1e-9)) if passed < self.wait else 0
        left = int(self.engine.from_main(min(left, self.steps)))
        self.asked_at = self.steps + max(left, 1)
        return left == 0

    def saved(self, seconds: float) -> None:
        """Begin to wait again, after a save that took so many seconds."""
        self.wait = self._wait(seconds)
        self.restart()

    def restart(self) -> None:
        """Begin to wait anew."""
        self.since = self.clock()
        self.steps, self.asked_at = 0, 1

    def _wait(self, seconds: float) -> float:
        return max(SHORTEST, seconds / SHARE) if self.every is None else self.every
