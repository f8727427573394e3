"""The model that is changed: a copy of the original or, where memory is short, the original itself."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nabla_tau.errors import InvalidRequest
from nabla_tau.memory import describe
from nabla_tau.sharding import shard_copy

Changeable = tuple[nn.Module, Callable[[], None]]
"""The model to be changed, and a function that gives it the original's weights again."""


@contextmanager
def copied(model: nn.Module, device: torch.device) -> Iterator[Changeable]:
    """A copy to be changed; the original is not touched.

    Raises:
        InvalidRequest: if the model cannot be copied.

    Example:
        >>> original = nn.Linear(2, 2)
        >>> with copied(original, torch.device("cpu")) as (model, put_back):
        ...     _ = nn.init.zeros_(model.weight)
        ...     put_back()
        >>> model is original, bool((model.weight == original.weight).all())
        (False, True)
    """
    with _copying("copied"):
        changed = copy.deepcopy(model).to(device)

    def put_back() -> None:
        with torch.no_grad():
            for parameter, original in zip(changed.parameters(), model.parameters(), strict=True):
                parameter.copy_(original)

    yield changed, put_back


@contextmanager
def sharded(model: nn.Module, device: torch.device) -> Iterator[Changeable]:
    """A copy to be changed of which each process holds a part; the original is not touched.

    Raises:
        InvalidRequest: if the model cannot be copied or sharded.

    Example:
        >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        >>> original = nn.Linear(2, 2)
        >>> with sharded(original, torch.device("cpu")) as (model, put_back):
        ...     type(model.weight).__name__, bool((model.weight.full_tensor() == original.weight).all())
        ('DTensor', True)
        >>> torch.distributed.destroy_process_group()
    """
    with _copying("copied and sharded"):
        changed, put_back = shard_copy(model, device)
        put_back()
    yield changed, put_back


@contextmanager
def _copying(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InvalidRequest(
            [
                f"model: expected a module that can be {what}, got {type(error).__name__} ({error}): detach tensors "
                "that it keeps from an earlier forward pass."
            ]
        ) from error


@contextmanager
def given_up(model: nn.Module, device: torch.device, place: Path | None = None) -> Iterator[Changeable]:
    """The original itself to be changed, its weights on disk meanwhile; if what is inside fails, it gets them back.

    What can change is written: trainable parameters and buffers, to a folder of its own, one tensor a file so that
    writing them makes no copy of the model either.

    Args:
        model: the original.
        device: where it is to be changed.
        place: that folder, where a killed process is to leave it; one that it left before is written anew. None is a
            new one among the temporary files (`TMPDIR` says where).

    Raises:
        InvalidRequest: if the disk has no room for them.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> before = model.weight.tolist()
        >>> try:
        ...     with given_up(model, torch.device("cpu")):
        ...         _ = nn.init.zeros_(model.weight)
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt:
        ...     model.weight.tolist() == before
        True
    """
    home = next(model.parameters()).device
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
    folder = place or Path(tempfile.mkdtemp(prefix="nabla-tau-original-"))
    try:
        _require_room(model, folder)
        for number, tensor in enumerate(_changing(model)):
            save_file({"values": tensor.detach().cpu().contiguous()}, folder / f"{number}.safetensors")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def put_back() -> None:
        with torch.no_grad():
            for number, tensor in enumerate(_changing(model)):
                tensor.copy_(load_file(folder / f"{number}.safetensors")["values"])

    try:
        model.zero_grad(set_to_none=True)
        model.to(device)
        yield model, put_back
    except BaseException as failure:
        try:
            put_back()
        except Exception as error:
            failure.add_note(f"The original's weights could not be put back ({error}): they are in {folder}.")
            raise failure from error
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        model.zero_grad(set_to_none=True)
        model.to(home)
    shutil.rmtree(folder, ignore_errors=True)


def _changing(model: nn.Module) -> Iterator[Tensor]:
    """What unlearning may change, in an order of its own that stays."""
    yield from (parameter for parameter in model.parameters() if parameter.requires_grad)
    yield from model.buffers()


def _require_room(model: nn.Module, folder: Path) -> None:
    needed = sum(tensor.numel() * tensor.element_size() for tensor in _changing(model))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidRequest(
            [
                f"in_place: expected {describe(needed)} of room for the original's weights in {folder.parent}, got "
                f"{describe(free)}: free space there, or set TMPDIR to another folder."
            ]
        )
