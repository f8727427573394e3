"""What a process pays once, paid before anything is timed."""

import torch
from torch import nn


def warm_up() -> None:
    """Make one step with an optimiser: the first of a process imports some hundred modules of torch.

    That takes seconds, which would be counted to whichever method, or training, came first.

    Example:
        >>> warm_up()
    """
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
