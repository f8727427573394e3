"""What a method was told, in order: told again, it takes the same course without the work."""

from array import array
from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from nabla_tau.stream_log import StreamLog

SET, STEP = -2, -1  # what a row is, in place of the size of a batch: a mean over a set, a step

AT_ONCE = 512
"""Means that are fetched from their device together: to fetch each would stop it."""

States = list[Tensor]
"""States of generators."""


class Journal:
    """The means that a method was given and the steps that it made, in order.

    A method sees the model through means over batches and sets alone, and draws from generators of its own: given the
    same means, it does the same. So a run that was cut off is repeated from its beginning with the journal in the
    model's place. Every batch is then an empty share, a step changes nothing, and generators, schedules and running
    means go through what they went through. After the last row the work goes on.

    Args:
        values: means to be told again.
        sizes: samples of a batch, `SET` or `STEP`, in the order to be repeated; a step has no value.
        starts: number of a pass under way through a `DataLoader` -> states of the loader's generators as it began.
        streams: what passes through streams gave.
        kept: whether what is told from here on is written down.

    Attributes:
        starts: the same, of the passes that are under way now.

    Example:
        >>> journal = Journal(kept=True)
        >>> journal.tell(torch.tensor(0.5), 8)
        >>> journal.step()
        >>> journal.tell(2.25, SET)
        >>> values, sizes = journal.rows()
        >>> values, sizes
        (tensor([0.5000, 2.2500], dtype=torch.float64), tensor([ 8, -1, -2]))
        >>> again = Journal(values.tolist(), sizes.tolist())
        >>> again.mean(), again.repeating
        ((0.5, 8), True)
    """

    def __init__(
        self,
        values: Sequence[float] = (),
        sizes: Sequence[int] = (),
        starts: dict[int, States] | None = None,
        streams: StreamLog | None = None,
        *,
        kept: bool = False,
    ) -> None:
        self.values, self.sizes, self.kept = array("d", values), array("q", sizes), kept
        self.streams = streams or StreamLog(kept=kept)
        self.starts: dict[int, States] = dict(starts or {})
        self._fresh: list[Tensor | float] = []
        self._passes = count()
        self._row = self._value = 0
        self._rows = len(self.sizes)

    @property
    def repeating(self) -> bool:
        """Whether there are rows left to be told again."""
        return self._row < self._rows

    def tell(self, value: Tensor | float, size: int) -> None:
        """Write down a mean that a method is given: over so many samples, or over a `SET`."""
        if self.kept:
            self._fresh.append(value)
            self.sizes.append(size)
            if len(self._fresh) == AT_ONCE:
                self._fetch()

    def step(self) -> None:
        """Write down a step."""
        if self.kept:
            self.sizes.append(STEP)

    def mean(self) -> tuple[float, int]:
        """The next row, which is a mean over a batch, and its size."""
        size = self._next(0)
        return self._next_value(), size

    def set_mean(self) -> float:
        """The next row, which is a mean over a set."""
        self._next(SET)
        return self._next_value()

    def repeat_step(self) -> None:
        """Pass over the next row, which is a step."""
        self._next(STEP)

    def repeats_attempt(self) -> bool:
        """Whether a step that overflowed in fp16 is repeated: after it no step is told, but means again."""
        return self.sizes[self._row] != STEP

    def begin_pass(self, states: States) -> int:
        """Number a pass through a `DataLoader` and keep the states that it begins with.

        Those of a pass that is repeated are the ones it began with then, as long as it matters.
        """
        number = next(self._passes)
        if not self.repeating:
            self.starts[number] = states
        return number

    def rows(self) -> tuple[Tensor, Tensor]:
        """Everything told so far: values, float64, and sizes, int64."""
        self._fetch()
        return torch.tensor(self.values, dtype=torch.float64), torch.tensor(self.sizes, dtype=torch.int64)

    def _fetch(self) -> None:
        on_device = [value for value in self._fresh if isinstance(value, Tensor)]
        fetched = iter(torch.stack(on_device).tolist() if on_device else ())
        self.values.extend(next(fetched) if isinstance(value, Tensor) else value for value in self._fresh)
        self._fresh.clear()

    def _next(self, kind: int) -> int:
        size = self.sizes[self._row]
        if min(size, 0) != kind:
            raise RuntimeError(
                "Expected a method that does the same when it is told the same, got one that took another course: it "
                "cannot be continued; give it chance through problem.generator alone."
            )
        self._row += 1
        return size

    def _next_value(self) -> float:
        self._value += 1
        return self.values[self._value - 1]
