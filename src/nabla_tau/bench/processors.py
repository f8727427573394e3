"""Which kind of processor a figure comes from: kinds differ in seconds, and in the last bits of trained weights."""

import platform
from pathlib import Path

import torch

_INFORMATION = Path("/proc/cpuinfo")


def processor() -> str:
    """Name and, where Linux tells, family and model: two kinds may share one name.

    Example:
        >>> processor() != ""
        True
    """
    if _INFORMATION.exists():
        lines = (line.partition(":") for line in _INFORMATION.read_text().splitlines())
        of_last_core = {name.strip(): value.strip() for name, _, value in lines}
        if {"model name", "cpu family", "model"} <= of_last_core.keys():
            return "{model name} (family {cpu family}, model {model})".format_map(of_last_core)
    return platform.processor() or platform.machine()


def processor_kind() -> str:
    """`processor`, and the vector instructions that torch is held to (`ATEN_CPU_CAPABILITY`).

    Example:
        >>> processor_kind().startswith(processor()), torch.backends.cpu.get_cpu_capability() in processor_kind()
        (True, True)
    """
    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"
