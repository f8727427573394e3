"""A copy of a model that is sharded over processes (torch's `fully_shard`), and how all of them keep in step."""

import atexit
import copy
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nabla_tau.batches import Batch
from nabla_tau.engine import Engine
from nabla_tau.shards import is_shard, units

_NEEDED = "set_reduce_scatter_unused_params"

# Leaving a process group does not end gloo's threads, and one that still lets go of a tensor while Python ends aborts a
# process that had succeeded.
SECONDS_TO_LET_GO = 0.25


@functools.cache
def _let_go_at_exit() -> None:
    atexit.register(time.sleep, SECONDS_TO_LET_GO)


def blocks(model: nn.Module) -> list[nn.Module]:
    """What of a model is put together at a time: the outermost members of its lists and sequences of modules.

    A member that holds most of the model is looked into, and a member that shares a weight with what is outside of it
    is left to the model as a whole.

    Returns:
        Inner modules before those that they are in.

    Example:
        >>> block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> model = nn.ModuleDict({"layers": nn.ModuleList([block, nn.Linear(2, 2)]), "head": nn.Linear(2, 2)})
        >>> [type(block).__name__ for block in blocks(model)]
        ['Sequential', 'Linear']
    """
    found: dict[nn.Module, None] = {}
    most = _weights(model) / 2

    def walk(module: nn.Module) -> None:
        for child in module.children():
            member = isinstance(module, nn.ModuleList | nn.Sequential) and not isinstance(child, _CONTAINERS)
            if not member or _weights(child) > most:
                walk(child)
            if member:
                found[child] = None

    walk(model)
    blocks, taken = [], set[nn.Parameter]()
    for block in found:
        if set(block.parameters()) - taken and not _shares(block, model):
            blocks.append(block)
            taken.update(block.parameters())
    return blocks


_CONTAINERS = nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shares(block: nn.Module, model: nn.Module) -> bool:
    """Whether a weight of a block is used outside of it too."""
    inside = set(block.modules())
    outside = (module for module in model.modules() if module not in inside)
    own = set(block.parameters())
    return any(parameter in own for module in outside for parameter in module.parameters(recurse=False))


def sharding_problems() -> list[str]:
    """Why this torch cannot shard a model as it is needed here, if it cannot.

    Example:
        >>> sharding_problems()
        []
    """
    from torch.distributed.fsdp import FSDPModule

    if hasattr(FSDPModule, _NEEDED):
        return []
    return [
        f"shard: expected a torch whose fully_shard has {_NEEDED}, got torch {torch.__version__}: install a newer one."
    ]


def shard_copy(model: nn.Module, device: torch.device) -> tuple[nn.Module, Callable[[], None]]:
    """A copy of which each process holds a part, without a whole copy on the way, and what fills it.

    Each process has the whole model that is passed in, so that nothing is sent: it takes its part of every weight.
    Gradients are sums over processes. A weight of a single number cannot be cut: every process holds it.

    Args:
        model: whole, on any device.
        device: where the parts are to be.

    Returns:
        The sharded copy, and a function that gives it the weights of the model; it has none before.

    Example:
        >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        >>> changed, put_back = shard_copy(nn.Linear(2, 2), torch.device("cpu"))
        >>> put_back()
        >>> changed(torch.ones(1, 2)).shape
        torch.Size([1, 2])
        >>> torch.distributed.destroy_process_group()
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _let_go_at_exit()
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    changed = copy.deepcopy(model, dict(empty))
    how: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "reshard_after_forward": True,
        "ignored_params": {parameter for parameter in changed.parameters() if parameter.ndim == 0},
    }
    for block in blocks(changed):
        fully_shard(block, **how)
    fully_shard(changed, **how)
    for unit in units(changed):
        unit.register_forward_hook(_of_its_own, prepend=True)
        unit.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        unit.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
        unit.set_reduce_scatter_unused_params(True, recurse=False)  # type: ignore[operator]
    place: Any = changed._apply  # as `to_empty` does, but for buffers, which have their values
    place(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))

    def put_back() -> None:
        with torch.no_grad():
            for mine, original in zip(changed.parameters(), model.parameters(), strict=True):
                mine.copy_(_my_part(original, mine))

    return changed, put_back


def _of_its_own(_: nn.Module, inputs: Any, output: Any) -> Any:
    """The output of a block, no view: one that is changed in place would lose the hook that brings the weights back."""
    if isinstance(output, torch.Tensor):
        return output.clone() if output._is_view() and output.requires_grad else output
    if type(output) in (list, tuple):
        return type(output)(_of_its_own(_, inputs, value) for value in output)
    return output


def _my_part(original: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, sharded as another is, of what this process has of it: nothing is sent."""
    if not is_shard(like):
        return original
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    here = original.detach().to(like.device)
    return distribute_tensor(here, sharded.device_mesh, sharded.placements, src_data_rank=None)


@dataclass
class Shards:
    """How the processes of a sharded model keep in step: a pass through it is theirs together.

    Every forward and backward pass puts weights together and gradients apart, so that no process may leave one out or
    make one more. A process with nothing to read reads a spare sample, of which nothing is counted.

    Attributes:
        model: the sharded model.
        engine: the processes.
        spare: a batch of one sample.
        counted: whether what is read now has a share in the loss.
        reached: numbers of the trainable parameters that a sample's gradient has reached since the last step.
    """

    model: nn.Module
    engine: Engine
    spare: Batch
    counted: bool = False
    reached: set[int] = field(default_factory=set)

    def rounds(self, mine: int) -> int:
        """How many passes all processes make, where this one has something to read in so many."""
        return -self.engine.minimum(-mine)

    def settle(self) -> None:
        """Leave a parameter without gradient that no sample's gradient reached on any process, as if unsharded."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        mine = torch.tensor([number in self.reached for number in range(len(parameters))], device=self.engine.device)
        for parameter, count in zip(parameters, self.engine.sum(mine.int()).tolist(), strict=True):
            if not count:
                parameter.grad = None
        self.reached.clear()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, it is seen which parameters gradients reach, in the whole ones that are there for a block's turn."""
        numbers = {p: number for number, p in enumerate(p for p in self.model.parameters() if p.requires_grad)}
        places = {p: _place(self.model, name) for name, p in self.model.named_parameters() if p in numbers}
        handles: list[Any] = []
        known: set[torch.Tensor] = set()

        def watch(tensor: Any, number: int) -> None:
            if tensor not in known:
                known.add(tensor)
                handles.append(tensor.register_post_accumulate_grad_hook(lambda _: self._reach(number)))

        def together(own: list[tuple[nn.Module, str, int]]) -> Callable[..., None]:
            def look(*_: Any) -> None:
                for module, name, number in own:
                    watch(getattr(module, name), number)

            return look

        for unit, parameters in units(self.model).items():
            own = [(*places[p], numbers[p]) for p in parameters if p in numbers]
            handles.append(unit.register_forward_pre_hook(together(own)))  # after torch's own, which puts together
        for parameter, number in numbers.items():
            if not is_shard(parameter):
                watch(parameter, number)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _reach(self, number: int) -> None:
        if self.counted:
            self.reached.add(number)


@contextmanager
def in_step(model: nn.Module, engine: Engine, spare: Batch) -> Iterator[Shards]:
    """What keeps the processes of a sharded model in step.

    Args:
        model: sharded.
        engine: the processes.
        spare: a batch of one sample, for a process with nothing to read.

    Example:
        >>> from types import SimpleNamespace
        >>> alone = SimpleNamespace(minimum=int, sum=torch.clone, device="cpu")
        >>> model = nn.Linear(2, 2)
        >>> with in_step(model, alone, torch.zeros(1, 2)) as shards:
        ...     shards.counted = True
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     shards.rounds(3), sorted(shards.reached)
        (3, [0, 1])
    """
    shards = Shards(model, engine, spare)
    with shards.watched():
        yield shards


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return model.get_submodule(path), own
