"""The state of a run as tensors: of the model, the optimiser and each process, to be written and put back."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nabla_tau.randomness import random_states, set_random_states


def writer(tensors: Mapping[str, Tensor]) -> Callable[[Path], None]:
    """What writes tensors into a file of safetensors; only views, and what is on a device, are copied first.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "model.safetensors"
        ...     writer({"first": torch.eye(3)[0]})(file)
        ...     load_file(file)
        {'first': tensor([1., 0., 0.])}
    """
    return lambda path: save_file({name: _whole(tensor) for name, tensor in tensors.items()}, path)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a method changes, by name; the others are the original's.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> _ = model.bias.requires_grad_(False)
        >>> list(trainable(model))
        ['weight']
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimiser remembers of each parameter, as `NUMBER.NAME`: tensors, and what is none.

    Its settings are left out: who continues has set them anew, and taken its schedule to the same place.

    Example:
        >>> optimizer = torch.optim.SGD([weight := nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> optimizer_state(optimizer)
        ({'0.momentum_buffer': tensor([1., 1.])}, {})
    """
    state = {
        f"{number}.{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_state` read.

    Example:
        >>> optimizer = torch.optim.SGD([weight := nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        >>> load_optimizer_state(optimizer, {"0.momentum_buffer": torch.ones(2)}, {})
        >>> optimizer.state[weight]
        {'momentum_buffer': tensor([1., 1.])}
    """
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def process_state(model: nn.Module, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """What each process has for itself: random states, and buffers, which batch norm moves by its own share.

    Example:
        >>> [name for name in process_state(nn.BatchNorm1d(2), []) if name.startswith("buffer")]
        ['buffer running_mean', 'buffer running_var', 'buffer num_batches_tracked']
    """
    buffers = {f"buffer {name}": _whole(buffer) for name, buffer in model.named_buffers()}
    return {**random_states(generators), **buffers}


def load_process_state(model: nn.Module, generators: Sequence[torch.Generator], state: Mapping[str, Tensor]) -> None:
    """Put back what `process_state` read.

    Raises:
        ValueError: if it is of another model.

    Example:
        >>> from nabla_tau.randomness import undisturbed
        >>> model = nn.BatchNorm1d(2)
        >>> with undisturbed():
        ...     load_process_state(model, [], {**process_state(model, []), "buffer running_mean": torch.ones(2)})
        >>> model.running_mean
        tensor([1., 1.])
    """
    named = {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
    copy_into(named, {name: value for name, value in state.items() if name.startswith("buffer ")})
    set_random_states(state, generators)


def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of the same names, in place.

    Raises:
        ValueError: if names, types or shapes differ.

    Example:
        >>> copy_into({"weight": torch.zeros(2)}, {"weight": torch.zeros(3)})
        Traceback (most recent call last):
        ValueError: Expected a checkpoint of this model, got another shape or type of weight.
    """
    if unlike := sorted({*tensors} ^ {*values}):
        raise ValueError(f"Expected a checkpoint of this model, got one that differs in {', '.join(unlike)}.")
    for name, tensor in tensors.items():
        if tensor.shape != values[name].shape or tensor.dtype != values[name].dtype:
            raise ValueError(f"Expected a checkpoint of this model, got another shape or type of {name}.")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])


def _whole(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, with a storage of its own."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()
