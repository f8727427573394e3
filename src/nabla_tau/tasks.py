"""Which per-sample loss a model and its batches call for, where that leaves no doubt, and whether a given one fits."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau.adapters import adapted
from nabla_tau.batches import TARGET_KEYS, Batch, leaves, target_key, target_of
from nabla_tau.errors import Problems
from nabla_tau.losses import (
    LOSSES,
    PerSampleLoss,
    TokenLoss,
    binary,
    classification,
    logits_of,
    model_inputs,
    multi_label,
    name_of,
    regression,
)

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
        InvalidRequest: if the model cannot take the first batch, or gives no logits.

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


def first_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The model's logits on a first batch, without gradient.

    Raises:
        InvalidRequest: if the model cannot take the batch or gives no logits; it says what does not fit.

    Example:
        >>> first_logits(nn.Linear(2, 3), (torch.zeros(4, 2), torch.zeros(4))).shape
        torch.Size([4, 3])
        >>> first_logits(nn.Linear(2, 3), (torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4)))
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. model: expected outputs for the first batch, got RuntimeError: ...: its inputs are float64, the model's
        weights float32; convert one of them, inputs.astype('float32') or model.double().
    """
    problems = Problems()
    with problems.gathered("model", "outputs for the first batch", lambda: misfit(model, batch)), torch.no_grad():
        logits = logits_of(model, batch)
    problems.refuse()
    return logits


def misfit(model: nn.Module, batch: Batch) -> str:
    """What a model finds wrong with a batch, as far as that can be seen: names, text, kinds of numbers, shapes.

    Example:
        >>> misfit(nn.Linear(2, 3), {"x": torch.zeros(4, 2), "labels": torch.zeros(4)})
        "forward takes 'input', the batch has 'x', 'labels'; a dict's keys are forward's argument names: rename them."
    """
    inputs: Any
    if isinstance(batch, Mapping):
        parameters = inspect.signature(model.forward).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if any(p.default is p.empty and p.name not in batch for p in named):
            taken = ", ".join(repr(p.name) for p in named)
            keys = ", ".join(map(repr, batch))
            return (
                f"forward takes {taken}, the batch has {keys}; a dict's keys are forward's argument names: rename them."
            )
        inputs = model_inputs(model, batch)
        if listed := [
            key
            for key, column in inputs.items()
            if isinstance(column, list | tuple) and all(isinstance(one, Tensor) for one in column)
        ]:
            return (
                f"{', '.join(map(repr, listed))} came as a list, no tensor; call set_format('torch') on the "
                "dataset, or give the loader a collate_fn that stacks."
            )
    else:
        inputs = batch[:-1] if isinstance(batch, tuple | list) and len(batch) > 1 else batch
    columns = list(leaves(inputs))
    if text := {type(column).__name__ for column in columns if not isinstance(column, Tensor)}:
        return f"some of its inputs are no tensors but of type {', '.join(sorted(text))}; encode them as numbers."
    if told := _too_large(model, batch):
        return told
    given = {column.dtype for column in columns if column.is_floating_point()}
    weights = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if given and weights and not given & weights:
        return (
            f"its inputs are {_names(given)}, the model's weights {_names(weights)}; convert one of them, "
            "inputs.astype('float32') or model.double()."
        )
    seen = ", ".join(f"{_names([column.dtype])} of shape {tuple(column.shape)}" for column in columns)
    return f"it was called with {seen or 'nothing'}; see that the model takes such a batch by itself."


def _too_large(model: nn.Module, batch: Batch) -> str | None:
    """Tokens that an embedding does not hold, or more of them than the model has positions for."""
    tokens = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if not isinstance(tokens, Tensor) or tokens.ndim != 2:
        return None
    known = vocabulary(model)
    if known is not None and not 0 <= int(tokens.min()) <= int(tokens.max()) < known:
        return (
            f"its embedding holds tokens in [0, {known}), the batch has {int(tokens.min())} to {int(tokens.max())}; "
            "encode the texts with the model's own tokenizer, or call resize_token_embeddings."
        )
    longest = getattr(getattr(adapted(model), "config", None), "max_position_embeddings", None)
    if isinstance(longest, int) and tokens.shape[1] > longest > 0:
        return (
            f"it has {longest} positions, the rows hold {tokens.shape[1]} tokens; cut them with max_length={longest}."
        )
    return None


def vocabulary(model: nn.Module) -> int | None:
    """How many tokens the embedding of a model of Transformers holds; None of any other model.

    Example:
        >>> vocabulary(nn.Linear(2, 2)) is None
        True
    """
    try:
        embedding = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:  # of models that have none, as those of images
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def unfit(model: nn.Module, loss: PerSampleLoss, logits: Tensor, batch: Batch) -> str | None:
    """What keeps a ready-made loss from comparing a model's outputs with the targets of the batch.

    Returns:
        One sentence; None where they fit, and for a loss of the user's own.

    Example:
        >>> unfit(nn.Linear(2, 3), classification, torch.zeros(4, 3), (torch.zeros(4, 2), torch.zeros(4, 1)))
        'loss: expected outputs (N, C) and targets (N,) for classification, got (4, 3) and (4, 1): pass a loss that ...'
    """
    target = target_of(batch)
    if isinstance(loss, TokenLoss):
        target, wanted = loss.labels(batch), "outputs (N, T, V) and labels (N, T)"
        fits = logits.ndim == 3 and target.shape == logits.shape[:2]
    elif loss is classification:
        wanted = "outputs (N, C) and targets (N,)"
        fits = logits.ndim == 2 and isinstance(target, Tensor) and target.shape == logits.shape[:1]
    elif loss is binary:
        wanted = "one output and one target a row"
        fits = isinstance(target, Tensor) and target.numel() == logits.numel() == logits.shape[0]
    elif loss in (multi_label, regression):
        wanted = "outputs and targets of the same shape (N,) or (N, D)"
        fits = isinstance(target, Tensor) and target.numel() == logits.numel() and target.shape[:1] == logits.shape[:1]
    else:
        return None
    if fits:
        return None
    got = tuple(target.shape) if isinstance(target, Tensor) else _describe_target(target)
    advice = "pass a loss that compares these, or reshape the targets."
    column = target_key(batch) if isinstance(batch, Mapping) else None
    if isinstance(loss, TokenLoss) and column is not None and isinstance(target, Tensor) and target.ndim == 1:
        advice = f"column {column!r} is read as labels; rename it if it is something else."
    elif isinstance(loss, TokenLoss) and _puts_tokens_before(model):
        advice = "prompt tuning puts tokens of its own before a text, which is not supported; take an adapter as LoRA."
    return f"loss: expected {wanted} for {name_of(loss)}, got {tuple(logits.shape)} and {got}: {advice}"


def _puts_tokens_before(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def _by_head(model: nn.Module) -> str | None:
    model = adapted(model)
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
    if wrong := [(batch, t) for batch, t in zip(batches, targets, strict=True) if not isinstance(t, Tensor)]:
        batch, target = wrong[0]
        raise _doubt(f"{_describe_target(target)} ({_describe(batch)})", list(LOSSES))
    shape = tuple(first_logits(model, batches[0]).shape)
    target = targets[0]
    seen = f"outputs of shape {_shape(shape)} and {target.dtype} targets of shape {_shape(tuple(target.shape))}"
    if len(shape) == 2 and shape[1] > 1 and target.ndim == 1 and _whole(target):
        return "classification"
    if len(shape) == 2 and shape[1] > 1 and target.numel() == shape[0]:
        if target.isnan().any():
            raise _doubt(f"{seen}, some of them NaN", ["classification (once every sample has a class)"])
        raise _doubt(seen, ["classification (with targets.long().flatten(), integers of shape (N,))"])
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


def _describe_target(target: Any) -> str:
    if target is None:
        return f"batches without targets, which a dict keeps under {', '.join(TARGET_KEYS)} and a tuple at its end"
    return f"targets that are no tensor but of type {type(target).__name__}, to be encoded as numbers"


def _names(types: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))


def _doubt(seen: str, choices: list[Any]) -> TaskInDoubt:
    return TaskInDoubt(
        f"Expected outputs and targets that fix the task, got {seen}: pass loss= one of "
        f"{', '.join(f'losses.{choice}' for choice in choices)}, or a function (model, batch) -> (N,)."
    )
