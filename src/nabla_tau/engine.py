"""Device and processes, on Accelerate: the one place where an `Accelerator` is built."""

import atexit
import functools
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn

from nabla_tau.errors import InvalidRequest
from nabla_tau.shards import is_shard


@dataclass(frozen=True)
class Engine:
    """Where the computation runs, and how its parts are put together.

    N processes compute what one computes: each takes a contiguous share of every global batch, and only sums are
    reduced. No wrapper averages gradients over ranks, which would weigh unequal shares alike.

    Attributes:
        accelerator: Accelerate's view of the processes.
        device: where model and batches are.

    Example:
        >>> engine = start_engine("cpu")  # one process
        >>> engine.share, engine.is_main, engine.sum(torch.tensor(2.5)), engine.minimum(64)
        ((0, 1), True, tensor(2.5000), 64)
        >>> engine.from_main(2.5), engine.gather(b"mine")
        (2.5, [b'mine'])
    """

    accelerator: Accelerator
    device: torch.device

    @property
    def share(self) -> tuple[int, int]:
        """(rank of this process, number of processes)."""
        return self.accelerator.process_index, self.accelerator.num_processes

    @property
    def sum_type(self) -> torch.dtype:
        """What sums are accumulated in: float64, where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def mixed_precision(self) -> str:
        """What forward passes compute in: "no" (the type of the weights), "bf16" or "fp16"."""
        return str(self.accelerator.mixed_precision)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, the same on all of them; the shape is kept."""
        if self.share[1] == 1:
            return values
        reduced: Tensor = self.accelerator.reduce(values, reduction="sum")
        return reduced

    def minimum(self, value: int) -> int:
        """The smallest value of any process."""
        if self.share[1] == 1:
            return value
        return int(self.accelerator.gather(torch.tensor([value], device=self.device)).min())

    def from_main(self, value: float) -> float:
        """What the main process says, on all of them."""
        said = torch.tensor(value if self.is_main else 0.0, dtype=self.sum_type, device=self.device)
        return float(self.sum(said))

    def gather(self, content: bytes) -> list[bytes]:
        """What each process has, in the order of their ranks; as many bytes of each."""
        if self.share[1] == 1:
            return [content]
        mine = torch.frombuffer(bytearray(content), dtype=torch.uint8)[None].to(self.device)
        return [bytes(row.numpy()) for row in self.accelerator.gather(mine).cpu()]

    def autocast(self, keep_casts: bool = True) -> AbstractContextManager[Any]:
        """The mixed precision that `accelerate launch --mixed_precision` asked for.

        Args:
            keep_casts: whether a weight is cast once for all its uses inside, and held.
        """
        kept = None if keep_casts else AutocastKwargs(cache_enabled=False)
        context: AbstractContextManager[Any] = self.accelerator.autocast(autocast_handler=kept)
        return context

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over processes; a parameter without one anywhere keeps none.

        That of a sharded parameter is left alone: backward has put it together.

        An optimiser skips a parameter whose gradient is None but decays one whose gradient is zero, so a process
        with an empty share must not turn the first into the second.
        """
        if self.share[1] == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad and not is_shard(p)]
        if not parameters:
            return
        present = self.sum(
            torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device).int()
        ).tolist()
        used = [parameter for parameter, count in zip(parameters, present, strict=True) if count]
        for dtype in sorted({parameter.dtype for parameter in used}, key=str):
            group = [parameter for parameter in used if parameter.dtype == dtype]
            flat = self.sum(torch.cat([_gradient(parameter).flatten() for parameter in group]))
            for parameter, part in zip(group, torch.split(flat, [p.numel() for p in group]), strict=True):
                parameter.grad = part.view_as(parameter)


def start_engine(device: str | torch.device | None = None) -> Engine:
    """Take the device and the processes that Accelerate finds, or the device asked for.

    Args:
        device: None for Accelerate's choice (a GPU where there is one); several processes keep the ones it gives them.

    Raises:
        InvalidRequest: if there is no such device, or if several processes are asked onto another kind of device than
            theirs.

    Example:
        >>> start_engine("cpu").device
        device(type='cpu')
    """
    if problems := device_problems(device):
        raise InvalidRequest(problems)
    wanted = None if device is None else torch.device(device)
    several = processes() > 1
    # Accelerate has to be told that processes without a GPU belong together; alone, its own choice stays untouched.
    on_cpu = several and ((wanted is not None and wanted.type == "cpu") or not torch.cuda.is_available())
    accelerator = Accelerator(cpu=on_cpu)
    found: torch.device = accelerator.device
    if wanted is not None and accelerator.num_processes > 1 and wanted.type != found.type:
        raise InvalidRequest(
            [f"device: expected that of this process, {found}, got {wanted}: with several processes leave device out."]
        )
    if accelerator.num_processes > 1:
        _leave_group_at_exit()
    return Engine(accelerator, found if wanted is None or accelerator.num_processes > 1 else wanted)


def processes() -> int:
    """Number of processes that were launched together, before any of them has met the others.

    Example:
        >>> processes()
        1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_problems(device: Any) -> list[str]:
    """What is wrong with a device that is asked for, if anything; the ones that there are, are named.

    Example:
        >>> device_problems("cpu"), device_problems(None)
        ([], [])
        >>> device_problems("gpu")
        ["device: expected one of cpu..., got 'gpu'."]
    """
    if device is None:
        return []
    found = torch.accelerator.current_accelerator(check_available=True)
    names = [] if found is None else [f"{found.type}:{place}" for place in range(torch.accelerator.device_count())]
    try:
        wanted = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:  # no name of a device
        wanted = None
    if wanted is not None and (wanted.type == "cpu" or f"{wanted.type}:{wanted.index or 0}" in names):
        return []
    return [f"device: expected one of {', '.join(['cpu', *names])}, got {str(device)!r}."]


@functools.cache
def _leave_group_at_exit() -> None:
    """A process group that is still there when Python ends can abort a script that had succeeded."""
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
