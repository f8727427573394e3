"""How the plan of ∇τ is gone through, cut short, and gone on after."""

import math
from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import LinearLR

LAST_LEARNING_RATE_FACTOR = 0.1


class Course:
    """How the plan is gone through: the learning rate falls to a tenth over E passes, linearly.

    It falls pass by pass, until the plan is cut short: then what is left is gone through step by step.

    Args:
        optimizer: its rate is that of the first pass.
        epochs: passes, E.
        look_every: passes from one look at the retain set to the next; as many are left when the plan is cut short.
        batches: steps of a pass.

    Attributes:
        end: passes after which the plan is done.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> course, rates = Course(optimizer, epochs=10, look_every=2, batches=2), []
        >>> for epoch in range(6):
        ...     if epoch == 4:
        ...         course.cut_short(epoch)  # from 1 − 0.9 · 4/10
        ...     for _ in range(2):
        ...         optimizer.step()
        ...         rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...         course.step_done()
        ...     course.pass_done()
        >>> rates
        [1.0, 1.0, 0.91, 0.91, 0.82, 0.82, 0.73, 0.73, 0.64, 0.505, 0.37, 0.235]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, epochs: int, look_every: int, batches: int) -> None:
        self.end, self.look_every, self.batches = epochs, look_every, batches
        self.by_steps = False
        self.schedule = LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, epochs)

    def is_look(self, epoch: int) -> bool:
        """Whether the retain set is looked at before this pass: after the plan, and in it while a cut saves passes."""
        if epoch >= self.end:
            return (epoch - self.end) % self.look_every == 0
        return 0 < epoch < self.end - self.look_every and epoch % self.look_every == 0

    def cut_short(self, epoch: int) -> None:
        """The plan ends at the next look."""
        [first], [now] = self.schedule.base_lrs, self.schedule.get_last_lr()
        last = LAST_LEARNING_RATE_FACTOR * float(first) / float(now)
        self.schedule = LinearLR(self.schedule.optimizer, 1.0, last, self.look_every * self.batches)
        self.end, self.by_steps = epoch + self.look_every, True

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
        last: what it cost at the last look.

    Example:
        >>> repair = Repair(allowed=0.1)
        >>> [repair.goes_on(retain_loss) for retain_loss in (0.8, 0.4, 0.4)], Repair(allowed=0.1).goes_on(0.1)
        ([True, True, False], False)
    """

    allowed: float
    last: float = math.inf

    def goes_on(self, retain_loss: float) -> bool:
        """Whether the retain set costs more than it may, and less than at the last look."""
        last, self.last = self.last, retain_loss
        return self.allowed < retain_loss < last
