"""Which per-sample loss a model and its batches call for, where that leaves no doubt."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch, target_of
from nabla_tau.losses import LOSSES, PerSampleLoss, logits_of

# Endings of class names in Transformers that fix the task.
_TRANSFORMERS_HEADS = {
    "ForTokenClassification": "token_classification",
    "ForCausalLM": "causal_language_model",
    "LMHeadModel": "causal_language_model",
    "ForMaskedLM": "masked_language_model",
    "ForConditionalGeneration": "sequence_to_sequence",
    "ForSeq2SeqLM": "sequence_to_sequence",
}
_PROBLEM_TYPES = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


class TaskInDoubt(ValueError):  # noqa: N818  (it says what is the case)
    """Outputs and targets fit several losses, or none.

    Example:
        >>> infer_loss(nn.Identity(), [(torch.zeros(2, 3), torch.full((2, 3), 0.5))])
        Traceback (most recent call last):
        nabla_tau.tasks.TaskInDoubt: Expected outputs and targets that fix the task, got ... all in [0, 1]: pass loss=
        one of losses.multi_label, losses.regression, or a function (model, batch) -> (N,).
    """


def infer_loss(model: nn.Module, batches: list[Batch]) -> PerSampleLoss:
    """Choose the ready-made loss that the model's outputs and the batches' targets leave no doubt about.

    Args:
        model: in eval mode, on the device of the batches.
        batches: one or more batches, from different sets where possible.

    Returns:
        One of `losses.LOSSES`.

    Raises:
        TaskInDoubt: if several losses fit or none does; the message names the choices.
        TypeError: if the model's output holds no logits.

    Example:
        >>> infer_loss(nn.Identity(), [(torch.zeros(2, 3), torch.tensor([0, 2]))]).__name__
        'classification'
    """
    name = _by_head(model) or _by_shapes(model, batches)
    loss = LOSSES[name]
    if name == "masked_language_model" and target_of(batches[0]) is None:
        raise _doubt(
            "a masked language model without labels",
            ["masked_language_model(mask_token_id, special_token_ids)"],
        )
    return loss


def _by_head(model: nn.Module) -> str | None:
    config = getattr(model, "config", None)
    if config is None:
        return None
    for ending, name in _TRANSFORMERS_HEADS.items():
        if type(model).__name__.endswith(ending):
            decoder_only = name == "sequence_to_sequence" and not getattr(config, "is_encoder_decoder", True)
            return "causal_language_model" if decoder_only else name
    return _PROBLEM_TYPES.get(str(getattr(config, "problem_type", None)))


def _by_shapes(model: nn.Module, batches: list[Batch]) -> str:
    targets = [target_of(batch) for batch in batches]
    if not all(isinstance(target, Tensor) for target in targets):
        raise _doubt(f"batches without targets ({_describe(batches[0])})", list(LOSSES))
    with torch.no_grad():
        shape = tuple(logits_of(model, batches[0]).shape)
    target: Tensor = targets[0]
    seen = f"outputs of shape {_shape(shape)} and {target.dtype} targets of shape {_shape(tuple(target.shape))}"
    if len(shape) == 2 and shape[1] > 1 and target.ndim == 1 and _whole(target):
        return "classification"
    if tuple(target.shape) == shape and len(shape) == 2 and shape[1] > 1:
        return _one_value_per_output(targets, seen)
    single = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if single and (target.ndim == 1 or tuple(target.shape) == (shape[0], 1)):
        return _one_output(targets, seen)
    if len(shape) == 3 and tuple(target.shape) == shape[:2] and _whole(target):
        raise _doubt(seen, ["token_classification", "causal_language_model", "sequence_to_sequence"])
    raise _doubt(seen, list(LOSSES))


def _one_value_per_output(targets: list[Tensor], seen: str) -> str:
    if not all(_zero_or_one(target) for target in targets):
        in_unit = all(bool(((target >= 0) & (target <= 1)).all()) for target in targets)
        if in_unit or _whole(targets[0]):
            raise _doubt(f"{seen}, all in [0, 1]" if in_unit else seen, ["multi_label", "regression"])
        return "regression"
    if all(bool((target.sum(1) == 1).all()) for target in targets):
        raise _doubt(f"{seen}, every row with a single 1", ["multi_label", "classification (with targets.argmax(1))"])
    return "multi_label"


def _one_output(targets: list[Tensor], seen: str) -> str:
    if all(_zero_or_one(target) for target in targets):
        if _whole(targets[0]):
            return "binary"
        raise _doubt(f"{seen}, all 0 or 1", ["binary", "regression"])
    if _whole(targets[0]):
        raise _doubt(seen, ["regression", "classification (with one output per class)"])
    return "regression"


def _zero_or_one(target: Tensor) -> bool:
    return bool(((target == 0) | (target == 1)).all())


def _whole(target: Tensor) -> bool:
    return not target.is_floating_point()


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape[1:])])})" if len(shape) > 1 else "(N,)"


def _describe(batch: Batch) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with keys {sorted(map(str, batch))}"
    return f"{type(batch).__name__} of {len(batch) if hasattr(batch, '__len__') else 1}"


def _doubt(seen: str, choices: list[Any]) -> TaskInDoubt:
    return TaskInDoubt(
        f"Expected outputs and targets that fix the task, got {seen}: pass loss= one of "
        f"{', '.join(f'losses.{choice}' for choice in choices)}, or a function (model, batch) -> (N,)."
    )
