"""Peak memory of a piece of work."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Bytes in use at the peak above those at the start, in a list that is filled at the end.

    Example:
        >>> with peak_memory(torch.device("cpu")) as peak:
        ...     _ = torch.ones(50_000_000).sum()  # 200 MB; garbage that goes meanwhile counts against them
        >>> peak[0] > 60_000_000
        True
    """
    peak: list[int] = [0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the process's peak so far is forgotten
    before = resident("VmRSS")
    yield peak
    peak[0] = resident("VmHWM") - before


def resident(what: str) -> int:
    """Resident memory of this process in bytes: now (VmRSS, its own alone RssAnon) or at its peak (VmHWM).

    Where there is no /proc it is the peak.

    Example:
        >>> resident("VmHWM") >= resident("VmRSS") > 0
        True
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith(what)).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
