"""Batch norm in eval mode and every dropout off while unlearning; every module's mode as it was afterwards."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from nabla_tau.errors import InvalidRequest

_DROPOUTS = frozenset(
    {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
        torch.dropout,
        torch.dropout_,
        torch.alpha_dropout,
        torch.alpha_dropout_,
        torch.feature_dropout,
        torch.feature_dropout_,
        torch.feature_alpha_dropout,
        torch.feature_alpha_dropout_,
    }
)
# Functions that drop out inside: where they take `dropout_p`.
_DROPOUT_PLACE = {functional.scaled_dot_product_attention: 4, functional.multi_head_attention_forward: 10}

_FUNCTION = "_gradient_checkpointing_func"
_own: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
"""What a module has of its own where `unlearning_modes` has changed it, besides its mode."""

# What models switch gradient checkpointing on and off by: in Transformers the later name, and the one before.
_ENABLE = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
_DISABLE = ("activation_checkpointing_disable", "gradient_checkpointing_disable")


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
        if func in _DROPOUT_PLACE:
            place = _DROPOUT_PLACE[func]
            if len(args) > place:
                args = (*args[:place], 0.0, *args[place + 1 :])
            else:
                kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


@contextmanager
def unlearning_modes(model: nn.Module) -> Iterator[None]:
    """Eval mode everywhere, train mode only where backward or checkpointing needs it; modes restored at the end.

    Recurrent layers are put in train mode (their GPU kernels have no backward in eval mode) with their dropout at
    0, and so are blocks with gradient checkpointing switched on (they recompute in train mode only). Their children
    stay in eval mode.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.LSTM(2, 2))
        >>> with unlearning_modes(model):
        ...     [module.training for module in model]
        [False, True]
        >>> [module.training for module in model]
        [True, True]
    """
    modes = {module: module.training for module in model.modules()}
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    changed: list[tuple[nn.Module, str, Any]] = []

    def change(module: nn.Module, name: str, value: Any) -> None:
        changed.append((module, name, getattr(module, name)))
        _own.setdefault(module, {}).setdefault(name, getattr(module, name))  # that of the outermost, where they nest
        setattr(module, name, value)

    try:
        for module in modes:
            module.training = module in recurrent or module in checkpointed
        for module in recurrent:
            change(module, "dropout", 0.0)
        for module in checkpointed:
            if hasattr(module, "layerdrop"):
                change(module, "layerdrop", 0.0)
            if hasattr(module, _FUNCTION):
                change(module, _FUNCTION, _recomputing(getattr(module, _FUNCTION)))
        yield
    finally:
        for module, name, value in reversed(changed):
            setattr(module, name, value)
            if _own[module].get(name) is value:
                del _own[module][name]
        for module, training in modes.items():
            module.training = training


def gradient_checkpointing_problems(model: Any) -> list[str]:
    """Why a model's gradient checkpointing cannot be switched on, if it cannot.

    Example:
        >>> gradient_checkpointing_problems(nn.Linear(2, 2))
        ['gradient_checkpointing: expected a model that offers it, as Transformers models do by ..., got Linear...']
    """
    offered = next((name for name in _ENABLE if callable(getattr(model, name, None))), None)
    if offered is not None and getattr(model, "supports_gradient_checkpointing", True):
        return []
    what = f"no {_ENABLE[1]}()" if offered is None else "supports_gradient_checkpointing=False"
    return [
        f"gradient_checkpointing: expected a model that offers it, as Transformers models do by {_ENABLE[1]}(), got "
        f"{type(model).__name__} with {what}: leave it out; micro_batch_size saves memory with any model."
    ]


@contextmanager
def gradient_checkpointing(model: nn.Module) -> Iterator[None]:
    """Gradient checkpointing as the model itself offers it, switched on; as it was found at the end.

    `unlearning_modes` inside of it makes it work in eval mode.

    Raises:
        InvalidRequest: if the model refuses it.

    Example:
        >>> class Block(nn.Linear):
        ...     gradient_checkpointing = False
        ...     def gradient_checkpointing_enable(self):
        ...         self.gradient_checkpointing = True
        >>> model = Block(2, 2)
        >>> with gradient_checkpointing(model), unlearning_modes(model):
        ...     model.gradient_checkpointing, model.training
        (True, True)
        >>> model.gradient_checkpointing
        False
    """
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):  # the user's choice stays
        yield
        return
    found = {module: (dict(vars(module)), set(module._forward_hooks)) for module in model.modules()}
    enable, disable = _offered(model, _ENABLE), _offered(model, _DISABLE)
    keyword = next((name for name in inspect.signature(enable).parameters if name.endswith("ing_kwargs")), None)
    try:
        enable(**({} if keyword is None else {keyword: {"use_reentrant": False}}))
    except (ValueError, NotImplementedError) as error:
        raise InvalidRequest([f"gradient_checkpointing: expected a model that offers it, got {error}"]) from error
    added = {module: (set(vars(module)) - set(found[module][0]), set(module._forward_hooks)) for module in found}
    try:
        yield
    finally:
        disable()
        for module, (attributes, hooks) in found.items():  # what switching off leaves behind
            for name in added[module][0] & set(vars(module)):
                delattr(module, name)
            for name in {"gradient_checkpointing", _FUNCTION} & set(attributes):
                setattr(module, name, attributes[name])
            for number in added[module][1] - hooks:
                module._forward_hooks.pop(number, None)


def _offered(model: nn.Module, names: tuple[str, ...]) -> Callable[..., Any]:
    found = (getattr(model, name, None) for name in names)
    return next((function for function in found if callable(function)), lambda: None)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put every buffer back at the end, in place and in its module: some models count their calls in one.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> with buffers_kept(model):
        ...     _ = model.train()(torch.ones(4, 2))
        >>> int(model.num_batches_tracked)
        0
    """
    kept = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    buffer.copy_(value)


@contextmanager
def training_modes(model: nn.Module) -> Iterator[None]:
    """Train mode everywhere, inside `unlearning_modes`: what that had switched off is on, and off again at the end.

    Args:
        model: in the modes to unlearn in.

    Example:
        >>> model = nn.Sequential(nn.Dropout(0.1), nn.LSTM(2, 2, num_layers=2, dropout=0.3))
        >>> with unlearning_modes(model):
        ...     with training_modes(model):
        ...         inside = model[0].training, model[1].dropout
        ...     inside, (model[0].training, model[1].dropout)
        ((True, 0.3), (False, 0.0))
    """
    modes = {module: module.training for module in model.modules()}
    own = {module: dict(_own.get(module, {})) for module in modes}
    switched_off = {module: {name: getattr(module, name) for name in names} for module, names in own.items()}
    try:
        model.train()
        _set_all(own)
        yield
    finally:
        _set_all(switched_off)
        for module, training in modes.items():
            module.training = training


def _set_all(attributes: dict[nn.Module, dict[str, Any]]) -> None:
    for module, values in attributes.items():
        for name, value in values.items():
            setattr(module, name, value)


def follow_spectral_norms(model: nn.Module) -> None:
    """A step of power iteration for every `parametrizations.spectral_norm`, as in train mode: eval mode has none.

    Example:
        >>> layer = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)).eval()
        >>> with torch.no_grad():
        ...     layer.parametrizations.weight.original.mul_(9)[:, 0].add_(9)
        ...     for _ in range(50):
        ...         follow_spectral_norms(layer)
        ...     round(float(torch.linalg.matrix_norm(layer.weight, 2)), 3)
        tensor(...)
        1.0
    """
    for parametrized in (module for module in model.modules() if isinstance(module, ParametrizationList)):
        resting = [one for one in parametrized if isinstance(one, _SpectralNorm) and not one.training]
        if resting:
            for one in resting:
                one.training = True
            with torch.no_grad():
                parametrized()  # the weight, computed anew
            for one in resting:
                one.training = False


@contextmanager
def without_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm reads with its running statistics: a batch of one sample has none of its own.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> with without_batch_statistics(model):
        ...     model.training
        False
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.training]
    try:
        for module in norms:
            module.training = False
        yield
    finally:
        for module in norms:
            module.training = True


def statistics_of(model: nn.Module) -> list[Tensor]:
    """The running statistics of every batch norm, as they stand in the model.

    Example:
        >>> statistics_of(nn.BatchNorm1d(2))
        [tensor([0., 0.]), tensor([1., 1.]), tensor(0)]
    """
    norms = (module for module in model.modules() if isinstance(module, _NormBase))
    return [statistic for module in norms for statistic in module.buffers(recurse=False)]


def reads_the_batch(model: nn.Module) -> list[str]:
    """Batch norms without running statistics: in every mode, what they give a sample depends on the others.

    Example:
        >>> reads_the_batch(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)))
        ['1']
    """
    norms = ((name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    return [name for name, module in norms if module.running_mean is None]


def draws_on_the_batch(model: nn.Module) -> list[str]:
    """What in a model depends, in train mode, on the other samples of a batch or on chance.

    Example:
        >>> draws_on_the_batch(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Dropout(0.0)))
        ['batch norm', 'dropout']
    """
    found = ["batch norm"] if any(isinstance(module, _NormBase) for module in model.modules()) else []
    rates = (getattr(module, name, 0) for module in model.modules() for name in ("p", "dropout"))
    return found + (["dropout"] if any(isinstance(rate, float) and rate > 0 for rate in rates) else [])


def _recomputing(checkpoint: Any) -> Callable[..., Any]:
    """Checkpointing whose blocks drop nothing out when autograd, on a thread of its own, runs them again."""

    def recompute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(_without_dropout(function), *args, **kwargs)

    return recompute


def _without_dropout(forward: Callable[..., Any]) -> Callable[..., Any]:
    def inactive(*args: Any, **kwargs: Any) -> Any:
        with WithoutDropout():
            return forward(*args, **kwargs)

    return inactive
