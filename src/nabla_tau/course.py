"""How the plan of ∇τ is gone through, cut short, and gone on after."""

from dataclasses import dataclass, field

import torch

LAST_LEARNING_RATE_FACTOR = 0.1


class Course:
    """How the plan is gone through: its progress x goes from 0 to 1 over E passes, the learning rate to a tenth.

    A pass has one x, until the plan is cut short: then what is left is gone through step by step.

    Args:
        optimizer: its rate is that of the first pass.
        epochs: passes, E.
        batches: steps of a pass.

    Attributes:
        end: passes after which the plan is done.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> course = Course(optimizer, epochs=10, batches=2)
        >>> course.progress(4)
        0.4
        >>> course.cut_short(4, passes=2)
        >>> [round(course.progress(epoch, step), 2) for epoch in (4, 5, 6) for step in (0, 1)]
        [0.4, 0.55, 0.7, 0.85, 1.0, 1.0]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, epochs: int, batches: int) -> None:
        self.end, self.batches = epochs, batches
        self.cut: int | None = None
        self.done = 0.0  # of it, when it was cut short
        self.schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, epochs)

    def progress(self, epoch: int, step: int = 0) -> float:
        """Progress x before this step of this pass."""
        if epoch >= self.end:
            return 1.0
        if self.cut is None:
            return epoch / self.end
        return self.done + (1 - self.done) * ((epoch - self.cut) * self.batches + step) / self._steps_left(self.cut)

    def is_look(self, epoch: int, every: int) -> bool:
        """Whether it is looked at before this pass if the retain set is back: after the plan, or to cut it short."""
        if epoch >= self.end:
            return (epoch - self.end) % every == 0
        return 0 < epoch < self.end - every and epoch % every == 0

    def cut_short(self, epoch: int, passes: int) -> None:
        """What is left from this pass on is gone through in so many passes."""
        self.done, self.cut, self.end = self.progress(epoch), epoch, epoch + passes
        rate_now = 1 - (1 - LAST_LEARNING_RATE_FACTOR) * self.done
        optimizer, last = self.schedule.optimizer, LAST_LEARNING_RATE_FACTOR / rate_now
        self.schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, last, self._steps_left(epoch))

    def step_done(self) -> None:
        """The rate falls step by step where the plan is cut short."""
        if self.cut is not None:
            self.schedule.step()

    def pass_done(self) -> None:
        """It falls pass by pass until then."""
        if self.cut is None:
            self.schedule.step()

    def _steps_left(self, epoch: int) -> int:
        return (self.end - epoch) * self.batches


@dataclass
class Repair:
    """Whether the run goes on after the plan.

    Attributes:
        allowed: what the retain set may cost, L_r⁰ + m/100.
        found: what it cost at each look.

    Example:
        >>> repair = Repair(allowed=0.1)
        >>> [repair.goes_on(retain_loss) for retain_loss in (0.8, 0.9, 0.4, 0.4)], Repair(allowed=0.1).goes_on(0.1)
        ([True, True, True, False], False)
    """

    allowed: float
    found: list[float] = field(default_factory=list)

    def goes_on(self, retain_loss: float) -> bool:
        """Whether the retain set costs more than it may, and less than at the last look.

        The first look is no measure: α was 0 then, and the push is there again after it.
        """
        self.found.append(retain_loss)
        return retain_loss > self.allowed and (len(self.found) < 3 or retain_loss < self.found[-2])
