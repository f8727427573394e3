"""Batch norm frozen and every dropout off while unlearning; every module's mode as it was afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_DROPOUTS = frozenset(
    {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
        torch.dropout,
        torch.alpha_dropout,
        torch.feature_dropout,
        torch.feature_alpha_dropout,
    }
)


class WithoutDropout(TorchFunctionMode):
    """Inside it, functional dropout does nothing, whatever `training=` says.

    Eval mode reaches `nn.Dropout` alone: `functional.dropout(x, p)` is active by default in every mode.

    Example:
        >>> with WithoutDropout():
        ...     functional.dropout(torch.ones(3), p=0.9)
        tensor([1., 1., 1.])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace what draws at random; pass everything else on."""
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is functional.scaled_dot_product_attention:
            args, kwargs = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, {**kwargs}
            kwargs.pop("dropout_p", None)
        return func(*args, **kwargs)


@contextmanager
def unlearning_modes(model: nn.Module) -> Iterator[None]:
    """Eval mode everywhere, train mode only where backward or checkpointing needs it; modes restored at the end.

    Recurrent layers are put in train mode (their GPU kernels have no backward in eval mode) with their dropout at
    0, and so are blocks with gradient checkpointing switched on (they recompute in train mode only). Their children
    stay in eval mode.
    """
    modes = {module: module.training for module in model.modules()}
    dropouts = {module: module.dropout for module in model.modules() if isinstance(module, nn.RNNBase)}
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    layerdrops = {module: module.layerdrop for module in checkpointed if hasattr(module, "layerdrop")}
    forwards = {module: module.__dict__.get("forward") for module in checkpointed}
    try:
        for module in modes:
            module.training = module in dropouts or module in forwards
        for module in dropouts:
            module.dropout = 0.0
        for module in layerdrops:
            setattr(module, "layerdrop", 0.0)  # noqa: B010  (a plain attribute, unknown to nn.Module)
        for module in checkpointed:  # recomputed by autograd's own threads, where no mode of ours is active
            module.forward = _without_dropout(module.forward)
        yield
    finally:
        for module, forward in forwards.items():
            del module.forward
            if forward is not None:
                module.forward = forward
        for module, layerdrop in layerdrops.items():
            module.layerdrop = layerdrop
        for module, dropout in dropouts.items():
            module.dropout = dropout
        for module, training in modes.items():
            module.training = training


def _without_dropout(forward: Callable[..., Any]) -> Callable[..., Any]:
    def inactive(*args: Any, **kwargs: Any) -> Any:
        with WithoutDropout():
            return forward(*args, **kwargs)

    return inactive
