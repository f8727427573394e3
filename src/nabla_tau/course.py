"""How the plan of ∇τ is gone through, cut short, and gone on after."""

from dataclasses import dataclass, field

import torch
from torch.optim.lr_scheduler import LinearLR

LAST_LEARNING_RATE_FACTOR = 0.1


class Course:
    """How the plan is gone through: the learning rate falls to a tenth over E passes, linearly.

    It falls pass by pass, until the plan is cut short: then what is left is gone through step by step.

    Args:
        optimizer: its rate is that of the first pass.
        epochs: passes, E.

    Attributes:
        end: passes after which the plan is done.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> course, rates = Course(optimizer, epochs=10), []
        >>> for epoch in range(6):
        ...     if epoch == 4:
        ...         course.cut_short(epoch, passes=2, batches=2)  # from 1 − 0.9 · 4/10
        ...     for _ in range(2):
        ...         optimizer.step()
        ...         rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...         course.step_done()
        ...     course.pass_done()
        >>> rates
        [1.0, 1.0, 0.91, 0.91, 0.82, 0.82, 0.73, 0.73, 0.64, 0.505, 0.37, 0.235]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        self.end = epochs
        self.by_steps = False
        self.schedule = LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, epochs)

    def is_look(self, epoch: int, every: int) -> bool:
        """Whether it is looked at before this pass if the retain set is back: after the plan, or to cut it short."""
        if epoch >= self.end:
            return (epoch - self.end) % every == 0
        return 0 < epoch < self.end - every and epoch % every == 0

    def cut_short(self, epoch: int, passes: int, batches: int) -> None:
        """What is left from this pass on is gone through in so many passes, of so many batches."""
        [first], [now] = self.schedule.base_lrs, self.schedule.get_last_lr()
        last = LAST_LEARNING_RATE_FACTOR * float(first) / float(now)
        self.schedule = LinearLR(self.schedule.optimizer, 1.0, last, passes * batches)
        self.end, self.by_steps = epoch + passes, True

    def step_done(self) -> None:
        """The rate falls step by step where the plan is cut short."""
        if self.by_steps:
            self.schedule.step()

    def pass_done(self) -> None:
        """It falls pass by pass until then."""
        if not self.by_steps:
            self.schedule.step()


@dataclass
class Repair:
    """Whether the run goes on after the plan.

    Attributes:
        allowed: what the retain set may cost, L_r⁰ + m/100.
        found: what it cost at each look.

    Example:
        >>> repair = Repair(allowed=0.1)
        >>> [repair.goes_on(retain_loss) for retain_loss in (0.8, 0.4, 0.4)], Repair(allowed=0.1).goes_on(0.1)
        ([True, True, False], False)
    """

    allowed: float
    found: list[float] = field(default_factory=list)

    def goes_on(self, retain_loss: float) -> bool:
        """Whether the retain set costs more than it may, and less than at the last look."""
        self.found.append(retain_loss)
        return retain_loss > self.allowed and (len(self.found) == 1 or retain_loss < self.found[-2])
