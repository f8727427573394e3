"""The whole weights of a sharded model, one tensor after the other, and the file that they are written to."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from nabla_tau.shards import whole

# The names that the format has for the types of numbers.
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def gathered(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight and buffer that is saved, whole and on the CPU, by name; shared ones under their first name.

    One at a time is put together. All processes have to go through it.

    Example:
        >>> [(name, tuple(tensor.shape)) for name, tensor in gathered(nn.Linear(3, 2))]
        [('weight', (2, 3)), ('bias', (2,))]
    """
    for name, tensor in _saved(model):
        yield name, whole(tensor).cpu().contiguous()


def write_gathered(model: nn.Module, path: Path) -> None:
    """Write a model's whole weights as safetensors: header first, then one tensor after the other.

    If writing fails, the rest is still gathered, since the other processes do so; then the error goes on.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if a tensor is of a type that the format has no name for.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_gathered(nn.Linear(2, 1, bias=False), Path(folder) / "model.safetensors")
        ...     list(load_file(Path(folder) / "model.safetensors"))
        ['weight']
    """
    left = gathered(model)
    try:
        header = _header(model)
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _, tensor in left:
                if tensor.numel():
                    file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
    finally:
        for _ in left:
            pass


def _saved(model: nn.Module) -> list[tuple[str, Tensor]]:
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            found.setdefault(id(tensor), (name, tensor))
    return list(found.values())


def _header(model: nn.Module) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in _saved(model):
        if tensor.dtype not in _TYPES:
            raise ValueError(f"Expected weights of {', '.join(_TYPES.values())}, got {tensor.dtype} for {name}.")
        size = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(entries).encode()
    return text + b" " * (-len(text) % 8)
