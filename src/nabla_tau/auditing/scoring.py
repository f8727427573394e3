"""One forward pass over a set, kept for every measure: losses, scores and predictions in the order of the rows."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from nabla_tau.auditing.bank import Bank, classification_bank, multi_label_bank, regression_bank, token_bank
from nabla_tau.batches import Batch, leaves, rows_in, target_of, to_device
from nabla_tau.engine import Engine
from nabla_tau.losses import (
    PerSampleLoss,
    TokenLoss,
    logits_in,
    ready_made,
    task_of,
)
from nabla_tau.modes import WithoutDropout, buffers_kept, unlearning_modes
from nabla_tau.randomness import seeded
from nabla_tau.sets import Source

Numbers = NDArray[Any]

BANKS: dict[str, Callable[..., Bank]] = {
    "classification": classification_bank,
    "binary": multi_label_bank,
    "multi_label": multi_label_bank,
    "regression": regression_bank,
}
"""Task -> its bank; token losses have `token_bank`, a loss of the user's own has none."""


@dataclass(frozen=True)
class Scores:
    """What one model says about one set; every array has a row per sample, in the order of the rows.

    Attributes:
        bank: membership scores by name, each (n,), higher for what looks like a member; `loss` is −ℓ.
        predictions: class probabilities (n, C), label probabilities (n, L) or values (n, D); (n, 0) where the task has
            none of these.
        targets: what was to be predicted, (n,) or (n, L), integers where it is a class or a single label; (n, 0) where
            there are no predictions.
        positions: place of each sample in its set, (n,), rising; samples without a labelled token are left out.
    """

    bank: dict[str, Numbers]
    predictions: Numbers
    targets: Numbers
    positions: Numbers

    @property
    def losses(self) -> Numbers:
        """Per-sample losses ℓ, shape (n,), float64."""
        return -self.bank["loss"]

    @property
    def classes(self) -> Numbers | None:
        """The class of each sample, shape (n,), of a single label too; None where samples have none."""
        if self.targets.ndim == 1:
            return self.targets
        single = self.targets.shape[1] == 1 and np.issubdtype(self.targets.dtype, np.integer)
        return self.targets[:, 0] if single else None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.bank["loss"])

    def of(self, names: Iterable[str]) -> "Scores":
        """The same with some of the scores."""
        return replace(self, bank={name: self.bank[name] for name in names})

    def take(self, rows: Numbers) -> "Scores":
        """The same for some of the rows."""
        bank = {name: values[rows] for name, values in self.bank.items()}
        return Scores(bank, self.predictions[rows], self.targets[rows], self.positions[rows])


def score(model: nn.Module, loss: PerSampleLoss, source: Source, engine: Engine) -> Scores:
    """Score a set with one forward pass per batch, in eval mode and without dropout.

    Args:
        model: on the engine's device; its modes are as before afterwards.
        loss: per-sample loss ℓ. The ready-made ones bring a bank of scores; one of the user's own brings itself alone.
        source: the set.
        engine: device and processes; each process scores its share, all receive everything.

    Returns:
        `Scores`, in the order of the rows, the same on every process.

    Raises:
        ValueError: if a loss or score is not a finite number; its name and the first positions are in the message.

    Example:
        >>> from nabla_tau.engine import start_engine
        >>> from nabla_tau.losses import classification
        >>> from nabla_tau.sets import open_set
        >>> source = open_set((torch.eye(3), torch.tensor([0, 1, 0])), batch_size=2)
        >>> scores = score(nn.Identity(), classification, source, start_engine("cpu"))
        >>> len(scores), scores.bank["correct"].tolist()
        (3, [1.0, 1.0, 0.0])
    """
    parts: list[tuple[int, int, dict[str, Numbers]]] = []
    with torch.no_grad(), unlearning_modes(model), buffers_kept(model), _recording(model) as record:
        for number, batch in enumerate(source.ordered(engine.share)):
            if batch is not None and (
                part := _score_batch(model, loss, to_device(batch, engine.device), engine, record)
            ):
                parts.append((number, engine.share[0], part))
    if engine.share[1] > 1:
        parts = sorted(gather_object(parts), key=lambda part: part[:2])
    names = [name for name in parts[0][2] if all(name in part for _, _, part in parts)]
    joined = {name: np.concatenate([part[name] for _, _, part in parts]) for name in names}
    bank = {name.removeprefix("bank:"): values for name, values in joined.items() if name.startswith("bank:")}
    everything = Scores(bank, joined["predictions"], joined["targets"], np.arange(len(joined["counted"])))
    scores = everything.take(np.flatnonzero(joined["counted"]))
    _require_finite(scores)
    return scores


def rows_change(source: Source) -> bool:
    """Whether a set reads differently the second time, as under random augmentation: then its losses are not its own.

    Args:
        source: the set; its first batch is read twice, by dataset and collate_fn.

    Returns:
        True if any number differs.

    Example:
        >>> from nabla_tau.sets import open_set
        >>> rows_change(open_set([(torch.ones(3), 0), (torch.zeros(3), 1)], batch_size=2))
        False
    """
    with seeded(0):
        first = list(leaves(next(iter(source.ordered()))))
    with seeded(1):
        again = list(leaves(next(iter(source.ordered()))))
    return len(first) != len(again) or any(not _equal(one, two) for one, two in zip(first, again, strict=True))


def scores_change(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> bool:
    """Whether a model or a loss draws at random: the same batch costs something else the second time.

    Args:
        model: in the modes to be scored in, on the device of the batch.
        loss: per-sample loss.
        batch: any batch.

    Example:
        >>> batch = torch.ones(3, 2), torch.zeros(3)
        >>> scores_change(nn.Identity(), lambda model, batch: model(batch[0]).mean(1) + torch.randn(3), batch)
        True
    """
    with torch.no_grad(), seeded(0):
        first = loss(model, batch)
    with torch.no_grad(), seeded(1):
        again = loss(model, batch)
    return not torch.allclose(first, again, rtol=1e-4, atol=1e-6, equal_nan=True)  # a GPU may add up in any order


def _equal(one: Any, two: Any) -> bool:
    """Equal, NaN to NaN too."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and bool(((one == two) | ((one != one) & (two != two))).all())
    return bool(np.array_equal(np.asarray(one), np.asarray(two)))


def _require_finite(scores: Scores) -> None:
    for name, values in scores.bank.items():
        bad = scores.positions[~np.isfinite(values)]
        if len(bad):
            raise ValueError(
                f"Expected finite numbers, got NaN or infinity for {len(bad)} samples in the score {name!r} (places "
                f"{', '.join(map(str, bad[:5]))}): check the inputs, the weights and the loss."
            )


@dataclass
class _Record:
    """What the model returned last, and what its last linear layer read and wrote."""

    output: Any = None
    linear: tuple[Tensor, Tensor] | None = None
    handles: list[Any] = field(default_factory=list)


class _Answer(nn.Module):
    """Gives outputs that a model gave before, in float64: what is small in them rounds to no loss at all in float32."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **named: Any) -> Tensor:
        return self.output


@contextmanager
def _recording(model: nn.Module) -> Iterator[_Record]:
    record = _Record()

    def on_linear(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(output, Tensor):
            record.linear = (inputs[0], output)

    def on_model(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        record.output = output

    try:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                record.handles.append(module.register_forward_hook(on_linear))
        record.handles.append(model.register_forward_hook(on_model))
        yield record
    finally:
        for handle in record.handles:
            handle.remove()


def _score_batch(
    model: nn.Module, loss: PerSampleLoss, batch: Batch, engine: Engine, record: _Record
) -> dict[str, Numbers]:
    counted = loss.labelled(batch).cpu() if isinstance(loss, TokenLoss) else torch.ones(rows_in(batch)).bool()
    record.output = record.linear = None
    with engine.autocast(), WithoutDropout():
        losses = _where_float64_is(loss(model, batch)).double()
        if ready_made(loss) and record.output is not None and bool((losses == 0).any()):
            answer = _Answer(_where_float64_is(logits_in(record.output)).double())
            losses = losses.where(losses != 0, loss(answer, to_device(batch, losses.device)))
    bank, predictions, targets = _from_outputs(loss, batch, record, len(losses))
    found = {"bank:loss": -losses, **{f"bank:{name}": values for name, values in bank.items()}}
    found |= {"predictions": predictions, "targets": targets, "counted": counted}
    return {name: values.detach().cpu().numpy() for name, values in found.items()}


def _from_outputs(
    loss: PerSampleLoss, batch: Batch, record: _Record, size: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Bank, predictions and targets of a ready-made loss; nothing for one of the user's own."""
    nothing = torch.zeros(size, 0)
    if isinstance(loss, TokenLoss):
        logits, labels = map(_where_float64_is, (logits_in(record.output), loss.labels(batch)))
        if loss.shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        return token_bank(logits, labels), nothing, nothing
    if (task := task_of(loss)) not in BANKS:
        return {}, nothing, nothing
    logits, target = logits_in(record.output), target_of(batch)
    features = None
    if record.linear is not None and record.linear[1].shape == logits.shape:
        inputs, output = record.linear
        if torch.equal(output.to(logits.dtype), logits):
            features = inputs
    logits, target = _where_float64_is(logits), _where_float64_is(target)
    bank = BANKS[task](logits, target, None if features is None else _where_float64_is(features))
    flat = logits.reshape(len(logits), -1)
    if task == "classification":
        return bank, flat.softmax(1), target
    target = target.reshape(len(target), -1)
    if task == "binary" and bool(target.eq(target.long()).all()):
        target = target.long()
    predictions = flat if task == "regression" else flat.double().sigmoid()  # 1 − p is exact where p is nearly 1
    if task == "regression" and not target.is_floating_point():
        target = target.double()  # whole numbers are no classes there
    return bank, predictions, target


def _where_float64_is(tensor: Tensor) -> Tensor:
    """The tensor on a device that has float64."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor
