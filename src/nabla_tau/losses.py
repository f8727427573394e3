"""Per-sample losses: the one seam between a task and everything else.

A per-sample loss is any function `(model, batch) -> (N,)`: one finite number per sample of the batch, in nats or in
squared units of the target. The ready-made ones read a batch `(input, ..., target)` or a dict as Transformers models
take it, and compute in float32 at least, under any precision.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nabla_tau.adapters import adapted
from nabla_tau.batches import Batch, target_key, target_of

PerSampleLoss = Callable[[nn.Module, Batch], Tensor]
"""`(model, batch) -> (N,)`."""

IGNORED = -100
"""The label of a token that does not count, as in torch and Transformers."""


def classification(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of one class out of C: ℓ = −log softmax(z)_y.

    Args:
        model: gives logits z of shape (N, C).
        batch: targets y of shape (N,), integers in [0, C).

    Returns:
        Losses in nats, shape (N,).

    Example:
        >>> classification(nn.Identity(), (torch.zeros(2, 4), torch.tensor([0, 3])))
        tensor([1.3863, 1.3863])
    """
    return functional.cross_entropy(logits_of(model, batch), target_of(batch).long(), reduction="none")


def binary(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of yes or no from one logit: ℓ = log(1 + exp(−z)) for y = 1, log(1 + exp(z)) for y = 0.

    Args:
        model: gives logits z of shape (N,) or (N, 1).
        batch: targets y of shape (N,) or (N, 1), in [0, 1].

    Returns:
        Losses in nats, shape (N,).

    Example:
        >>> binary(nn.Identity(), (torch.zeros(2, 1), torch.tensor([0, 1])))
        tensor([0.6931, 0.6931])
    """
    return multi_label(model, batch)


def multi_label(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross-entropy averaged over L labels: ℓ = 1/L Σ_j BCE(σ(z_j), y_j).

    Args:
        model: gives logits z of shape (N, L).
        batch: targets y of shape (N, L), in [0, 1].

    Returns:
        Losses in nats, shape (N,).

    Example:
        >>> multi_label(nn.Identity(), (torch.zeros(1, 3), torch.tensor([[0, 1, 1]])))
        tensor([0.6931])
    """
    logits, target = _aligned(model, batch)
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)


def regression(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error averaged over D outputs: ℓ = 1/D Σ_j (z_j − y_j)².

    Args:
        model: gives predictions z of shape (N,) or (N, D).
        batch: targets y of the same shape.

    Returns:
        Losses in squared units of the target, shape (N,).

    Example:
        >>> regression(nn.Identity(), (torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])))
        tensor([1., 0.])
    """
    logits, target = _aligned(model, batch)
    return (logits - target).square().mean(1)


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy averaged over the labelled tokens of a sample: ℓ = 1/|S| Σ_{t∈S} −log softmax(z_t)_{y_t}.

    S are the positions whose label is not −100. Samples without any are told by `labelled`; whoever uses the loss
    leaves them out and reports them.

    Attributes:
        name: the name it goes by in settings.
        shifted: whether position t predicts label t + 1 (causal language models).

    Example:
        >>> loss = TokenLoss("my_tokens", shifted=True)
        >>> batch = torch.zeros(2, 3, 4), torch.tensor([[1, 2, -100], [1, -100, -100]])
        >>> loss(nn.Identity(), batch), loss.labelled(batch)
        (tensor([1.3863, 0.0000]), tensor([ True, False]))
    """

    name: str
    shifted: bool = False

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Losses in nats, shape (N,); logits of shape (N, T, V), labels (N, T)."""
        return _token_mean(logits_of(model, batch), self.labels(batch), shifted=self.shifted)

    def labelled(self, batch: Batch) -> Tensor:
        """Which samples have a token to predict, shape (N,), boolean."""
        labels = self.labels(batch)
        return (labels[:, 1:] if self.shifted else labels).ne(IGNORED).any(1)

    def labels(self, batch: Batch) -> Tensor:
        """Labels of shape (N, T); a causal model without labels predicts its own input, padding left out.

        Nor does a token count that would be predicted from padding, the first one of a row that is padded on the left.

        Raises:
            ValueError: if the batch has no labels, and no input to take them from.
        """
        target = target_of(batch)
        if target is None and self.shifted and isinstance(batch, Mapping) and "input_ids" in batch:
            ids: Tensor = batch["input_ids"]
            mask = batch.get("attention_mask")
            if mask is None:
                return ids
            padding = mask == 0
            after_padding = functional.pad(padding[:, :-1], (1, 0))
            return ids.masked_fill(padding | after_padding, IGNORED)
        if not isinstance(target, Tensor):
            raise ValueError(
                f"Expected labels of shape (N, T) for {self.name}, got none: add 'labels' to the batch, with "
                f"{IGNORED} at the tokens that do not count."
            )
        return target


token_classification = TokenLoss("token_classification")
"""One class per token: logits (N, T, C), labels (N, T), −100 where a token does not count. See `TokenLoss`."""

causal_language_model = TokenLoss("causal_language_model", shifted=True)
"""The next token: logits (N, T, V), labels (N, T) or, without them, the input itself. See `TokenLoss`."""

sequence_to_sequence = TokenLoss("sequence_to_sequence")
"""The decoder's tokens: logits (N, T, V), labels (N, T), −100 where padded. See `TokenLoss`."""


@dataclass(frozen=True)
class MaskedLanguageModel(TokenLoss):
    """Cross-entropy at masked tokens: labels of the batch or, without them, masks drawn once per sample.

    The mask of a sample is drawn from a generator seeded by `seed` and the sample's own tokens, so that a sample has
    the same mask in every pass, batch and process, before and after unlearning.

    Attributes:
        mask_token_id: what stands in place of a token to be predicted; needed where batches have no labels.
        special_token_ids: never masked (padding, separators).
        share: share of the other tokens that is masked, in (0, 1); at least one per sample.
        seed: of the masks.

    Reference:
        Devlin et al., BERT, arXiv:1810.04805 (2018), section 3.1, for the share; here every chosen token is masked.

    Example:
        >>> loss = MaskedLanguageModel("masked_language_model", mask_token_id=9, special_token_ids=(0,))
        >>> masked, labels = loss.mask(torch.tensor([[5, 6, 7, 0]]))
        >>> int((masked == 9).sum()), int((labels != -100).sum())
        (1, 1)
    """

    mask_token_id: int | None = None
    special_token_ids: tuple[int, ...] = ()
    share: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the share.

        Raises:
            ValueError: if `share` is outside (0, 1).
        """
        if not 0 < self.share < 1:
            raise ValueError(f"Expected a share of tokens to mask in (0, 1), got {self.share}: 0.15 is usual.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Losses in nats, shape (N,); logits of shape (N, T, V)."""
        if target_of(batch) is not None:
            return super().__call__(model, batch)
        masked, labels = self.mask(batch["input_ids"])
        return _token_mean(logits_of(model, {**batch, "input_ids": masked}), labels, shifted=False)

    def labels(self, batch: Batch) -> Tensor:
        """Labels of the batch or, without them, of the masks drawn; shape (N, T)."""
        return super().labels(batch) if target_of(batch) is not None else self.mask(batch["input_ids"])[1]

    def mask(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the mask of each sample.

        Args:
            input_ids: shape (N, T).

        Returns:
            Masked tokens and labels, both (N, T); a sample of special tokens alone has no label.

        Raises:
            ValueError: if `mask_token_id` is None.
        """
        if self.mask_token_id is None:
            raise ValueError(
                "Expected labels in the batch or a mask token, got neither: pass "
                "loss=losses.masked_language_model(tokenizer.mask_token_id, tokenizer.all_special_ids)."
            )
        tokens = input_ids.cpu()
        special = torch.tensor([*self.special_token_ids, self.mask_token_id])
        chosen = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, sample in enumerate(tokens):
            candidates = (~torch.isin(sample, special)).nonzero().flatten()
            if len(candidates):
                generator = torch.Generator().manual_seed(_token_seed(sample[candidates], self.seed))
                count = max(1, round(self.share * len(candidates)))
                chosen[row, candidates[torch.randperm(len(candidates), generator=generator)[:count]]] = True
        where = chosen.to(input_ids.device)
        return input_ids.masked_fill(where, self.mask_token_id), input_ids.masked_fill(~where, IGNORED)


def masked_language_model(
    mask_token_id: int | None = None, special_token_ids: tuple[int, ...] | list[int] = (), *, seed: int = 0
) -> MaskedLanguageModel:
    """The per-sample loss of a masked language model. See `MaskedLanguageModel`.

    Args:
        mask_token_id: `tokenizer.mask_token_id`; not needed where batches carry labels.
        special_token_ids: `tokenizer.all_special_ids`.
        seed: of the masks.

    Example:
        >>> masked_language_model(103, [0, 101, 102]).name
        'masked_language_model'
    """
    return MaskedLanguageModel(
        "masked_language_model",
        mask_token_id=mask_token_id,
        special_token_ids=tuple(special_token_ids),
        seed=seed,
    )


LOSSES: dict[str, PerSampleLoss] = {
    "classification": classification,
    "binary": binary,
    "multi_label": multi_label,
    "regression": regression,
    "token_classification": token_classification,
    "causal_language_model": causal_language_model,
    "masked_language_model": masked_language_model(),
    "sequence_to_sequence": sequence_to_sequence,
}
"""Every ready-made loss by its name."""

OWN = "a loss of your own"
"""The task of a loss that is none of them."""


def not_one_each(losses: Any, size: int, loss: PerSampleLoss, where: str) -> str | None:
    """What is wrong with the losses of a batch, if they are not one number per sample.

    Args:
        losses: what the loss gave.
        size: samples in the batch.
        loss: the loss, for its name.
        where: the batch, for the message.

    Returns:
        One sentence, or None.

    Example:
        >>> not_one_each(torch.zeros(3), 3, classification, "a batch") is None
        True
        >>> not_one_each(torch.tensor(0.5), 3, classification, "a batch")
        "loss: expected one number per sample, shape (3,), got () from classification on a batch: ..."
    """
    if isinstance(losses, Tensor) and tuple(losses.shape) == (size,) and losses.is_floating_point():
        return None
    advice = "compute it with reduction='none' and average over everything but the samples."
    if not isinstance(losses, Tensor):
        got = type(losses).__name__
        if callable(losses):
            advice = f"call {_plain_name(loss)} with its settings and pass what it returns."
    elif tuple(losses.shape) == (size,):
        got, advice = f"{losses.dtype} values", "give real floating-point numbers."
    else:
        got = str(tuple(losses.shape))
    return f"loss: expected one number per sample, shape ({size},), got {got} from {name_of(loss)} on {where}: {advice}"


def ready_made(loss: PerSampleLoss) -> bool:
    """Whether a loss is one of this module's, which read logits and targets in a known way.

    Example:
        >>> ready_made(classification), ready_made(lambda model, batch: model(batch))
        (True, False)
    """
    return task_of(loss) != OWN


def task_of(loss: PerSampleLoss) -> str:
    """What a loss reads, by what it is and not by what it is called.

    Returns:
        A key of `LOSSES`, or `OWN` for a function of the user's own. Any other `TokenLoss` goes by
        "token_classification" or, where it is shifted, "causal_language_model".

    Example:
        >>> task_of(regression), task_of(TokenLoss("classification", shifted=True)), task_of(lambda model, batch: 0)
        ('regression', 'causal_language_model', 'a loss of your own')
    """
    name = next((name for name, known in LOSSES.items() if known is loss), None)
    if name is None and isinstance(loss, TokenLoss):
        return "causal_language_model" if loss.shifted else "token_classification"
    return name or OWN


def name_of(loss: PerSampleLoss) -> str:
    """The name a loss goes by in settings; none of the user's own has that of a ready-made one.

    Example:
        >>> from functools import partial
        >>> name_of(classification), name_of(causal_language_model), name_of(partial(classification))
        ('classification', 'causal_language_model', 'own classification')
    """
    name = _plain_name(loss)
    return f"own {name}" if name in LOSSES and not ready_made(loss) else name


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model on the inputs of a batch and take its logits, in float32 at least.

    `(input, ..., target)` calls `model(input, ...)`; a dict calls the model by keyword, without its labels and without
    columns that `forward` does not name.

    Args:
        model: returns a tensor, a tuple whose first element is one, or a mapping with `logits`.
        batch: any batch.

    Returns:
        Logits of the shape the model gives them, (N, ...).

    Raises:
        TypeError: if the output holds no logits.

    Example:
        >>> logits_of(nn.Identity(), (torch.ones(1, 3, dtype=torch.bfloat16), torch.zeros(1)))
        tensor([[1., 1., 1.]])
    """
    return logits_in(outputs_of(model, batch))


def logits_in(output: Any) -> Tensor:
    """The logits in what a model returned, in float32 at least.

    Args:
        output: a tensor, a tuple whose first element is one, or a mapping with `logits`.

    Raises:
        TypeError: if it holds no logits.

    Example:
        >>> logits_in({"logits": torch.zeros(2, dtype=torch.bfloat16)}).dtype
        torch.float32
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits")
    elif isinstance(output, tuple | list):
        logits = output[0] if output else None
    if not isinstance(logits, Tensor):
        got = f"one with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else type(output).__name__
        raise TypeError(
            "Expected a model that returns a tensor, a tuple that begins with one, or a mapping with 'logits', "
            f"got {got}: pass loss=, a function (model, batch) -> (N,)."
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def model_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a dict batch that `forward` takes, labels left out.

    Example:
        >>> model_inputs(nn.Identity(), {"input": torch.zeros(1), "user_id": ["a"], "labels": torch.zeros(1)})
        {'input': tensor([0.])}
    """
    parameters = inspect.signature(adapted(model).forward).parameters
    label = target_key(batch)
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {key for key in batch if key in parameters and key != label}
    if anything and not named:
        return {key: value for key, value in batch.items() if key != label}
    return {key: value for key, value in batch.items() if key in named}


def _plain_name(loss: PerSampleLoss) -> str:
    inner = getattr(loss, "func", loss)
    return str(getattr(inner, "name", getattr(inner, "__name__", type(inner).__name__)))


def outputs_of(model: nn.Module, batch: Batch) -> Any:
    """What the model returns for the inputs of a batch, whatever that is.

    Example:
        >>> outputs_of(nn.Identity(), (torch.ones(1), torch.zeros(1)))
        tensor([1.])
    """
    if isinstance(batch, Mapping):
        inputs = model_inputs(model, batch)
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        label = target_key(batch)
        if shift is not None and label is not None and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = shift(labels=batch[label])
        return model(**inputs)
    if isinstance(batch, list | tuple):
        return model(*(batch[:-1] if len(batch) > 1 else batch))
    return model(batch)


def _aligned(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Outputs and targets as (N, D), in the type of the outputs."""
    logits, target = logits_of(model, batch), target_of(batch)
    return logits.reshape(len(logits), -1), target.reshape(len(target), -1).to(logits.dtype)


def _token_mean(logits: Tensor, labels: Tensor, *, shifted: bool) -> Tensor:
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    tokens = functional.cross_entropy(logits.transpose(1, 2), labels.long(), ignore_index=IGNORED, reduction="none")
    return tokens.sum(1) / labels.ne(IGNORED).sum(1).clamp(min=1)


def _token_seed(tokens: Tensor, seed: int) -> int:
    """A seed that depends on the tokens alone (FNV-1a), not on padding or place in the batch."""
    value = 0xCBF29CE484222325 ^ seed
    for token in tokens.tolist():
        value = ((value ^ token) * 0x100000001B3) % 2**64
    return value % 2**63
