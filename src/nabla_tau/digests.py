"""Checksums of weights."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weights_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, types, shapes and values.

    Example:
        >>> one, other = ("weight", torch.zeros(2)), ("weight", torch.ones(2))
        >>> weights_digest([one]) == weights_digest([one]), weights_digest([one]) == weights_digest([other])
        (True, False)
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights, key=lambda item: item[0]):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()
