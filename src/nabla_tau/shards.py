"""What a model that is sharded over processes holds here: parts of tensors, and which modules put theirs together."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is one of which each process holds a part: a `DTensor`, whose import takes a second.

    Example:
        >>> import torch
        >>> is_shard(torch.zeros(2))
        False
    """
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def held(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its part, or all of one that is not sharded.

    Example:
        >>> import torch
        >>> held(torch.ones(2))
        tensor([1., 1.])
    """
    sharded: Any = tensor
    part: Tensor = sharded.to_local() if is_shard(tensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, without gradient; every process has to call it where the tensor is sharded.

    Example:
        >>> import torch
        >>> whole(torch.ones(2, requires_grad=True))
        tensor([1., 1.])
    """
    sharded: Any = tensor.detach()
    full: Tensor = sharded.full_tensor() if is_shard(tensor) else sharded
    return full


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's weights are spread over processes.

    Example:
        >>> is_sharded(nn.Linear(2, 2))
        False
    """
    return any(map(is_shard, model.parameters()))


def bytes_held(tensors: Iterator[Tensor]) -> int:
    """Bytes of what this process holds of some tensors.

    Example:
        >>> bytes_held(nn.Linear(10, 10, bias=False).parameters())
        400
    """
    return sum(held(tensor).numel() * tensor.element_size() for tensor in tensors)


def units(model: nn.Module) -> dict[nn.Module, list[nn.Parameter]]:
    """The modules of a sharded model that put their weights together, each with those that are its own.

    Example:
        >>> units(nn.Linear(2, 2))
        {}
    """
    found: dict[nn.Module, list[nn.Parameter]] = {}
    taken: set[nn.Parameter] = set()
    gathering = [module for module in model.modules() if _gathers(module)]
    for module in reversed(gathering):  # the inner ones first
        found[module] = [p for p in module.parameters() if is_shard(p) and p not in taken]
        taken.update(found[module])
    return found


def gathered_bytes(model: nn.Module) -> int:
    """Bytes of what is put together at once while a sharded model works; 0 of any other.

    Of the largest unit: its weights as they arrive and as they are used, then their gradients and what is sent of them.

    Example:
        >>> gathered_bytes(nn.Linear(2, 2))
        0
    """
    sizes = (sum(p.numel() * p.element_size() for p in own) for own in units(model).values())
    return 4 * max(sizes, default=0)


def _gathers(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" and kind.__module__.startswith("torch.") for kind in type(module).__mro__)
