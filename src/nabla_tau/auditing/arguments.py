"""The arguments of `audit`, checked before anything is read: models by name, seed, sizes, salt, and the loss."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nabla_tau import checks
from nabla_tau.engine import device_problems
from nabla_tau.errors import InvalidRequest, Problems, whole_number
from nabla_tau.losses import LOSSES, PerSampleLoss
from nabla_tau.storage import Unlearned, fingerprint

FEWEST_SALT_BYTES = 16


def named_models(unlearned: Any, original: Any, retrained: Any) -> tuple[dict[str, nn.Module], Problems]:
    """The models to be audited by the names they have in the report, and what is wrong with them.

    Args:
        unlearned: a module or an `Unlearned`; so are the others.
        original: None where there is none.
        retrained: several, one alone, or None.

    Example:
        >>> models, problems = named_models(nn.Linear(2, 2), None, [nn.Sequential(nn.Linear(2, 2)), None])
        >>> list(models), problems
        (['unlearned', 'retrained 1'], ['retrained 2 model: expected a torch.nn.Module, got NoneType: ...'])
    """
    alone = isinstance(retrained, nn.Module | Unlearned) and not isinstance(retrained, nn.ModuleList)
    several = [retrained] if alone else () if retrained is None else retrained
    problems = Problems()
    if not isinstance(several, Iterable) or isinstance(several, Mapping | str | torch.Tensor):
        problems.append(f"retrained: expected a list of models, got {type(retrained).__name__}.")
        several = ()
    given = {} if original is None else {"original": original}
    given |= {"unlearned": unlearned} | {f"retrained {number}": one for number, one in enumerate(several, 1)}
    models = {name: one.model if isinstance(one, Unlearned) else one for name, one in given.items()}
    for name, model in models.items():  # a model to be audited need not be trainable
        found = [text for text in checks.model_problems(model) if "trainable parameters" not in text]
        problems += [f"{name} {text}" for text in found]
    modules = {name: model for name, model in models.items() if isinstance(model, nn.Module)}
    if "unlearned" in modules and _came_from(original, modules["unlearned"]):
        problems.append(
            "original: expected the model before unlearning, got what unlearn() made of the one given as unlearned: "
            "swap the two."
        )
    return modules, problems


def _came_from(result: Any, model: nn.Module) -> bool:
    """Whether a result of `unlearn` began with these weights."""
    before = result.settings.get("original_fingerprint") if isinstance(result, Unlearned) else None
    return before is not None and before == fingerprint(model)


def argument_problems(seed: Any, batch_size: Any, device: Any, loss: Any, salt: Any, request: Any) -> list[str]:
    """What is wrong with the arguments that are neither model nor set.

    Example:
        >>> argument_problems(-1, None, None, None, b"short", None)
        ['seed: expected a whole number in [0, 2^32), got -1.', 'salt: expected at least 16 bytes, got 5: ...']
    """
    problems = [*whole_number("seed", seed, 0, 2**32), *device_problems(device)]
    if batch_size is not None:
        problems += whole_number("batch_size", batch_size, 1, 2**31)
    if loss is not None:
        problems += checks.loss_problems(loss)
    if salt is not None and not isinstance(salt, bytes):
        problems.append(f"salt: expected bytes, got {type(salt).__name__}: take secrets.token_bytes(32), and keep it.")
    elif salt is not None and len(salt) < FEWEST_SALT_BYTES:
        problems.append(
            f"salt: expected at least {FEWEST_SALT_BYTES} bytes, got {len(salt)}: take secrets.token_bytes(32)."
        )
    named = request is None or (
        isinstance(request, Mapping) and all(isinstance(one, str) for pair in request.items() for one in pair)
    )
    if not named:
        problems.append(f"request: expected a dict of names and texts, got {request!r}.")
    return problems


def recorded_loss(unlearned: Any) -> PerSampleLoss | None:
    """The loss that `unlearn` used; None where that is not known.

    Raises:
        InvalidRequest: if it was the user's own.

    Example:
        >>> recorded_loss(nn.Linear(2, 2)) is None
        True
        >>> recorded_loss(Unlearned(nn.Linear(2, 2), [], {"loss": "focal"}, True))
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. loss: expected the loss that unlearn() was given, 'focal', got none: pass it as loss=.
    """
    name = unlearned.settings.get("loss") if isinstance(unlearned, Unlearned) else None
    if name is None or name in LOSSES:
        return None if name is None else LOSSES[name]
    raise InvalidRequest([f"loss: expected the loss that unlearn() was given, {name!r}, got none: pass it as loss=."])


@contextmanager
def naming(name: str, problems: Problems) -> Iterator[None]:
    """Gather what a model is refused for, with the name that it has in the report.

    Example:
        >>> problems = Problems()
        >>> with naming("retrained 2", problems):
        ...     raise InvalidRequest(["model: expected outputs."])
        >>> problems
        ['retrained 2 model: expected outputs.']
    """
    found = Problems()
    with found.gathered("model", "a model that can be run", "see that it runs by itself."):
        yield
    problems += [f"{name} {text}" if text.startswith("model:") else text for text in found if text not in problems]
    problems.cause = problems.cause or found.cause
