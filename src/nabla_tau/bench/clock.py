"""What a piece of work took."""

import time
from collections.abc import Callable

import torch


def clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds: on a CPU that of the processor, so that other programs do not count; else the wall's.

    Example:
        >>> seconds = clock(torch.device("cpu"))
        >>> started = seconds()
        >>> time.sleep(0.2)
        >>> seconds() - started < 0.1
        True
    """
    return time.process_time if device.type == "cpu" else time.perf_counter
