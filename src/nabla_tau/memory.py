"""How many samples fit into one step, measured on a few."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch, rows_in, take_rows
from nabla_tau.losses import PerSampleLoss
from nabla_tau.shards import bytes_held, is_shard, units

PUBLISHED_BATCH_SIZE = 256
USABLE = 0.9  # share of the free memory that a step may take
COPIES = 4  # weights, gradients and two moments of AdamW


def activation_bytes(model: nn.Module, loss: PerSampleLoss, batch: Batch, samples: int = 8) -> float:
    """Bytes that backward needs kept per sample, measured on the first samples of a batch.

    Where blocks are checkpointed, what one of them keeps when backward runs it again counts too.

    Args:
        model: in the modes it will be unlearned in.
        loss: per-sample loss.
        batch: on the model's device.
        samples: how many of its samples to measure on.

    Example:
        >>> from nabla_tau.losses import regression
        >>> activation_bytes(nn.Linear(100, 1), regression, (torch.zeros(8, 100), torch.zeros(8)))  # inputs and error
        404.0
    """
    few = take_rows(batch, torch.arange(min(samples, rows_in(batch))))
    with _one_block_kept(model):
        return _kept_bytes(model, loss, few) / rows_in(few)


def _kept_bytes(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> int:
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters() if not is_shard(parameter)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        _put_together(model, own),
    ):
        losses = loss(model, batch)  # held, so that no storage is freed and counted twice
    del losses
    return sum(kept.values())


@contextmanager
def _put_together(model: nn.Module, own: set[int]) -> Iterator[None]:
    """Of a sharded model, the weights of a block count as the model's own while they are put together, and are gone."""
    handles: list[Any] = []
    for unit, parameters in units(model).items():
        mine: set[int] = set()
        wanted = {id(parameter) for parameter in parameters}
        names = [name for name, parameter in unit.named_parameters() if id(parameter) in wanted]

        def come(unit: nn.Module, _: Any, names: list[str] = names, mine: set[int] = mine) -> None:
            mine.update(unit.get_parameter(name).untyped_storage().data_ptr() for name in names)
            own.update(mine)

        def go(unit: nn.Module, _: Any, output: Any, mine: set[int] = mine) -> None:
            own.difference_update(mine)
            mine.clear()

        handles += [unit.register_forward_pre_hook(come), unit.register_forward_hook(go, prepend=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _one_block_kept(model: nn.Module) -> Iterator[None]:
    """The largest checkpointed block keeps its activations: in backward it has them again while its turn lasts."""
    blocks = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    inner = [block for block in blocks if not any(other in blocks for other in block.modules() if other is not block)]
    largest: Any = max(inner, key=lambda block: sum(p.numel() for p in block.parameters()), default=None)
    if largest is None:
        yield
        return
    largest.gradient_checkpointing = False
    try:
        yield
    finally:
        largest.gradient_checkpointing = True


def state_bytes(model: nn.Module) -> int:
    """Bytes of gradients and AdamW's two moments of what is trainable in a model, its weights not counted.

    Of a sharded model, those that this process holds.

    Example:
        >>> state_bytes(nn.Linear(10, 10, bias=False))  # 3 x 100 x float32
        1200
    """
    return (COPIES - 1) * bytes_held(p for p in model.parameters() if p.requires_grad)


def step_bytes(weights: int, state: int, activations: float, copies: int = 1) -> int:
    """Bytes that unlearning takes above the model that is there.

        copies · weights + state + activations

    Args:
        weights: bytes of the model.
        state: bytes of gradients and AdamW's two moments, three times those of what is trainable.
        activations: bytes that backward keeps of the samples in one pass: micro-batch size · bytes per sample.
        copies: of the model; 0 where the original is given up.

    Example:
        >>> describe(step_bytes(weights=4 * 10**8, state=3 * 4 * 10**8, activations=64 * 5e6))
        '1.8 GiB'
    """
    return round(copies * weights + state + activations)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, in bytes; the machine's own where it is no CUDA device.

    Example:
        >>> free_bytes(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def fitting_batch_size(per_sample: float, state: int, free: int, size: int = PUBLISHED_BATCH_SIZE) -> int:
    """A batch size, the published 256 for one, or the largest halving of it that memory can take.

    Args:
        per_sample: bytes of activations per sample.
        state: bytes of gradients and moments.
        free: bytes available.
        size: what is wanted.

    Returns:
        Samples: the largest size / 2^k, rounded down, at least 1, with samples · per_sample + state ≤ 0.9 · free.

    Example:
        >>> fitting_batch_size(per_sample=1e6, state=0, free=10**9), fitting_batch_size(1e7, 0, 10**9)
        (256, 64)
    """
    while size > 1 and size * per_sample + state > USABLE * free:
        size //= 2
    return size


def describe(count: float) -> str:
    """Bytes for a reader.

    Example:
        >>> describe(3 * 2**20)
        '3.0 MiB'
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min(int(math.log2(max(count, 1)) // 10), len(units) - 1)
    return f"{count / 1024**power:.1f} {units[power]}"
