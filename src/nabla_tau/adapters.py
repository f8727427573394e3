"""Models that are changed through a PEFT adapter alone, such as LoRA: what is theirs to save, and to read back."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nabla_tau.digests import weights_digest

ADAPTER, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"  # PEFT's own names


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is one of PEFT's, which then was imported.

    Example:
        >>> is_adapted(nn.Linear(2, 2))
        False
    """
    return any(kind.__module__.startswith("peft.") and kind.__name__ == "PeftModel" for kind in type(model).__mro__)


def adapted(model: nn.Module) -> nn.Module:
    """The model that an adapter is put on, whose `forward` names its inputs; any other model itself.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> adapted(model) is model
        True
    """
    base: nn.Module = model.get_base_model() if is_adapted(model) else model  # type: ignore[operator]
    return base


def adapter_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights of the active adapter by PEFT's names, where nothing else of the model is trainable; None elsewhere.

    Example:
        >>> adapter_weights(nn.Linear(2, 2)) is None
        True
    """
    if not is_adapted(model):
        return None
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=str(model.active_adapter), save_embedding_layers=False
    )
    places = {tensor.data_ptr() for tensor in found.values()}
    trainable = {parameter.data_ptr() for parameter in model.parameters() if parameter.requires_grad}
    return found if trainable <= places else None


def write_adapter(weights: dict[str, Tensor], folder: Path) -> None:
    """Write an adapter's weights as `PeftModel.from_pretrained(base, folder)` reads them, beside its configuration.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_adapter({}, Path(folder))
        ...     [path.name for path in Path(folder).iterdir()]
        ['adapter_model.safetensors']
    """
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in weights.items()}, folder / ADAPTER)


def write_configuration(model: nn.Module, folder: Path) -> None:
    """Write the configuration of the active adapter.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig, get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=1, target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_configuration(model, Path(folder))
        ...     [path.name for path in Path(folder).iterdir()]
        ['adapter_config.json']
    """
    configuration: Any = model.peft_config[model.active_adapter]  # type: ignore[index]
    configuration.save_pretrained(folder)


def read_adapter(model: nn.Module, folder: Path) -> None:
    """Give a model the adapter that was saved in a folder.

    Raises:
        ValueError: if the model has none, or one of another kind.

    Example:
        >>> read_adapter(nn.Linear(2, 2), Path("runs/request-17"))
        Traceback (most recent call last):
        ValueError: Expected a PEFT model with an adapter like the one in runs/request-17, got Linear: ...
    """
    mine = adapter_weights(model)
    if mine is None:
        raise ValueError(
            f"Expected a PEFT model with an adapter like the one in {folder}, got {type(model).__name__}: pass the "
            "original, or read it with PeftModel.from_pretrained(base, folder)."
        )
    from peft import set_peft_model_state_dict

    saved = load_file(folder / ADAPTER)
    shapes, wanted = ({name: tuple(t.shape) for name, t in weights.items()} for weights in (saved, mine))
    if shapes != wanted:
        wrong = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        raise ValueError(
            f"Expected a model with the adapter that was saved in {folder}, got one that its weights do not fit: "
            f"{len(wrong)} differ, first {wrong[0]}."
        )
    set_peft_model_state_dict(model, saved, adapter_name=str(model.active_adapter))


def base_record(model: nn.Module, folder: Path) -> dict[str, str]:
    """What an adapter in a folder belongs to: the weights beneath it, and its configuration.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig, get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=1, target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_configuration(model, Path(folder))
        ...     sorted(base_record(model, Path(folder)))
        ['base_sha256', 'configuration_sha256']
    """
    return {"base_sha256": _base(model), "configuration_sha256": _configuration(folder)}


def require_base(model: nn.Module, folder: Path, record: dict[str, Any]) -> None:
    """Make sure that a model is the one whose adapter was saved in a folder.

    Args:
        model: with the adapter.
        folder: that `write_adapter` and `write_configuration` wrote to.
        record: with what `base_record` found.

    Raises:
        ValueError: if the weights beneath the adapter or its configuration are others.

    Example:
        >>> from peft import LoraConfig, get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=1, target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = Path(place)
        ...     write_configuration(model, folder)
        ...     record = base_record(model, folder)
        ...     require_base(model, folder, record)
        ...     _ = model.base_model.model[0].base_layer.bias.data.add_(1)
        ...     require_base(model, folder, record)
        Traceback (most recent call last):
        ValueError: Expected the model that the adapter in ... was trained on, got one with other weights ...
    """
    if _configuration(folder) != record["configuration_sha256"]:
        raise ValueError(f"Expected {CONFIGURATION} as it was saved in {folder}, got another: restore the file.")
    with tempfile.TemporaryDirectory() as mine:
        write_configuration(model, Path(mine))
        given, saved = _settings(Path(mine)), _settings(folder)
    wrong = sorted(name for name in {*given, *saved} if given.get(name) != saved.get(name))
    if wrong:
        told = "; ".join(f"{name} {given.get(name)!r} instead of {saved.get(name)!r}" for name in wrong)
        raise ValueError(f"Expected a model with the adapter of {folder}, got one that is set up otherwise: {told}.")
    if _base(model) != record["base_sha256"]:
        raise ValueError(
            f"Expected the model that the adapter in {folder} was trained on, got one with other weights beneath it: "
            "pass the original, with its adapter."
        )


def _base(model: nn.Module) -> str:
    """SHA-256 over the weights beneath the adapter."""
    own = {tensor.data_ptr() for tensor in (adapter_weights(model) or {}).values()}
    return weights_digest(item for item in model.state_dict().items() if item[1].data_ptr() not in own)


def _configuration(folder: Path) -> str:
    path = folder / CONFIGURATION
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _settings(folder: Path) -> dict[str, Any]:
    """What a configuration sets, but for how and by whom it is used."""
    found: dict[str, Any] = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))
    return {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name not in ("inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version")
    }
