"""What passes through streams gave: enough to read one that was cut off up to its place, and to see that it is same."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nabla_tau.batches import Batch, leaves
from nabla_tau.errors import InvalidRequest

Length = tuple[int, int]
"""Batches and rows of a pass."""


class StreamLog:
    """The passes through streams that are under way, and those that were no passes as the check had counted them.

    Args:
        read: number of a pass that was under way when the run was cut off -> SHA-256 of what it had given.
        lengths: number of a pass that had other batches or rows than the check counted -> its own.
        kept: whether what is read is to be hashed.

    Attributes:
        lengths: the same, up to now.

    Example:
        >>> log = StreamLog(kept=True)
        >>> log.add(0, torch.arange(3))
        >>> again = StreamLog(log.read())
        >>> again.add(0, torch.arange(1, 4))
        >>> again.require_same(0)
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. checkpoint: expected a stream that gives the samples of a pass again ..., got others: ...
    """

    def __init__(
        self,
        read: Mapping[int, bytes] | None = None,
        lengths: Mapping[int, Length] | None = None,
        *,
        kept: bool = False,
    ) -> None:
        self.lengths, self.kept = dict(lengths or {}), kept
        self._before = dict(read or {})
        self._digests: dict[int, Any] = {}

    def read(self) -> dict[int, bytes]:
        """Number of each pass that is under way -> SHA-256 of what it gave so far, or before it was cut off."""
        return {**self._before, **{number: digest.digest() for number, digest in self._digests.items()}}

    def length(self, number: int, counted: Length) -> Length | None:
        """Batches and rows of a pass that is repeated; None where it was under way, and is followed as far as it went.

        Args:
            number: of the pass.
            counted: what the check counted.
        """
        return None if number in self._before else self.lengths.get(number, counted)

    def add(self, number: int, batch: Batch) -> None:
        """Take note of the next batch of a pass."""
        if not self.kept and number not in self._before:
            return
        digest = self._digests.setdefault(number, hashlib.sha256())
        for leaf in leaves(batch):
            digest.update(_bytes(leaf))

    def require_same(self, number: int) -> None:
        """Make sure that what was read again of a pass is what was read before the run was cut off.

        Raises:
            InvalidRequest: if it is not.
        """
        expected = self._before.pop(number, None)
        if expected is not None and self.read().get(number) != expected:
            raise InvalidRequest(
                [
                    "checkpoint: expected a stream that gives the samples of a pass again as before the run was cut "
                    "off, got others: draw their order from torch's, NumPy's or Python's global state and from nothing "
                    "that counts passes, or name another folder to begin anew."
                ]
            )

    def end(self, number: int, passed: Length, counted: Length, *, whole: bool) -> None:
        """Forget a pass that ended or was given up, but for its length where the check counted another.

        Args:
            number: of the pass.
            passed: what it gave.
            counted: what the check counted.
            whole: whether it came to its end.
        """
        self._digests.pop(number, None)
        self._before.pop(number, None)
        if passed != counted and (whole or passed[0] > counted[0]):
            self.lengths[number] = passed


def _bytes(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return repr(leaf).encode()
