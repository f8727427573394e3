"""What has to be found out about a loss of the user's own: which columns it reads, and what it holds itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from nabla_tau.batches import Batch, target_key
from nabla_tau.losses import PerSampleLoss, ready_made
from nabla_tau.modes import buffers_kept


def columns_read(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> frozenset[str]:
    """The columns of a dict batch that a loss of the user's own reads, or has the model read; labels left out.

    Nothing for a loss of this package, which reads what `forward` names, and for other batches. Where no reading was
    seen, all columns.

    Args:
        model: on the device of the batch, in the modes to unlearn in.
        loss: per-sample loss; it is called once.
        batch: any batch.

    Example:
        >>> def triplet(model, batch):
        ...     anchor, other = model(batch["anchor"]), model(batch["other"])
        ...     return (anchor - other).abs().sum(1)
        >>> batch = {name: torch.ones(2, 3) for name in ("anchor", "other", "user_id")}
        >>> sorted(columns_read(nn.Identity(), triplet, batch))
        ['anchor', 'other']
    """
    if ready_made(loss) or not isinstance(batch, Mapping):
        return frozenset()
    watched = _Watched(batch)
    with torch.no_grad(), buffers_kept(model), suppress(Exception):  # what is wrong with it is told where it is checked
        loss(model, watched)
    return frozenset(name for name in watched.seen or batch if name in batch) - {target_key(batch)}


class _Watched(dict[str, Any]):
    """A dict that remembers which of its values were asked for; `**` asks for all of them one by one."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        super().__init__(batch)
        self.seen = set[str]()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As that of a dict."""
        self.seen.add(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        """As that of a dict."""
        self.seen.add(key)
        return super().pop(key, *default)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def values(self) -> Any:
        """As that of a dict."""
        self.seen.update(self)
        return super().values()

    def items(self) -> Any:
        """As that of a dict."""
        self.seen.update(self)
        return super().items()


@contextmanager
def held_still(loss: Any, model: nn.Module) -> Iterator[list[str]]:
    """Parameters that a loss has of its own get no gradient meanwhile.

    Yields:
        One sentence where it has trainable ones.

    Example:
        >>> class Proxies(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.centres = nn.Parameter(torch.zeros(3))
        >>> loss = Proxies()
        >>> with held_still(loss, nn.Linear(2, 3)) as told:
        ...     told, loss.centres.requires_grad
        (['loss: its own parameters (centres) stay as they are: ...'], False)
        >>> loss.centres.requires_grad
        True
    """
    owner = getattr(loss, "__self__", getattr(loss, "func", loss))
    known = {id(parameter) for parameter in model.parameters()}
    named = owner.named_parameters() if isinstance(owner, nn.Module) else ()
    own = {name: one for name, one in named if one.requires_grad and id(one) not in known}
    try:
        for parameter in own.values():
            parameter.requires_grad_(False)
        yield [
            f"loss: its own parameters ({', '.join(own)}) stay as they are: what they hold of the forgotten rows is "
            "not unlearned; make them a part of the model to have it unlearned, too."
        ] * bool(own)
    finally:
        for parameter in own.values():
            parameter.requires_grad_(True)
