"""What is no reason to refuse a request, but for its reader to know: seen on the first batches."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch, leaves, rows_in, take_rows, target_key
from nabla_tau.losses import LOSSES, PerSampleLoss, name_of, outputs_of, ready_made
from nabla_tau.modes import buffers_kept
from nabla_tau.tasks import first_logits

FEW = 8
"""Rows, or numbers, that show little."""

OTHER_SCALE = 3
"""Times as large or small."""

MOST_NUMBERS = 100_000
"""Of a column that are looked at."""

RELATIVE, ABSOLUTE = 0.02, 1e-4
"""By how much the cost of rows may differ with the batch that they stand in, in the mean; rounding does less."""


def probability_doubts(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> list[str]:
    """Whether outputs look like probabilities where the loss reads logits: then it would be another loss.

    Example:
        >>> batch = 3 * torch.randn(64, 3), torch.zeros(64, dtype=torch.long)
        >>> probability_doubts(nn.Identity(), LOSSES["classification"], batch)
        []
        >>> probability_doubts(nn.Softmax(1), LOSSES["classification"], batch)
        ['model: its outputs lie between 0 and 1 as probabilities do, and classification reads logits: ...']
    """
    if loss not in (LOSSES["classification"], LOSSES["binary"], LOSSES["multi_label"]):
        return []
    logits = first_logits(model, batch).detach().float()
    within = bool(((logits >= 0) & (logits <= 1)).all()) and len(logits) >= FEW
    if loss is LOSSES["classification"]:
        sums = logits.sum(1)
        within = within and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    else:
        within = within and float(logits.max() - logits.min()) > 0.5  # a trained model is sure of some
    if not within:
        return []
    return [
        f"model: its outputs lie between 0 and 1 as probabilities do, and {name_of(loss)} reads logits: leave the "
        "sigmoid or softmax at its end out, or pass a loss of your own that reads probabilities."
    ]


def unread_outputs(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> list[str]:
    """Whether the model has other outputs than the one that a ready-made loss reads.

    Example:
        >>> class TwoHeads(nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x), x.sum(1)
        >>> unread_outputs(TwoHeads(2, 3), LOSSES["classification"], (torch.zeros(4, 2), torch.zeros(4).long()))
        ['model: gives 2 outputs, of which classification reads the first alone: ...']
    """
    if not ready_made(loss):
        return []
    with torch.no_grad():
        found = outputs_of(model, batch)
    if type(found) not in (tuple, list, dict):  # those of Transformers have other things for other uses
        return []
    given = list(found.values() if isinstance(found, dict) else found)
    size = rows_in(batch)
    numbers = [one for one in given if isinstance(one, Tensor) and one.is_floating_point() and one.shape[:1] == (size,)]
    if len(numbers) < 2:
        return []
    which = "'logits'" if isinstance(found, dict) else "the first"
    return [
        f"model: gives {len(numbers)} outputs, of which {name_of(loss)} reads {which} alone: what the others tell of "
        "the forgotten rows is not unlearned, and what they are good for is not looked after; pass loss=, a function "
        "that adds up what all of them cost."
    ]


def scale_doubts(batches: dict[str, Batch]) -> list[str]:
    """Whether unseen rows come on another scale than those to keep, as without the normalisation of the others.

    Args:
        batches: a batch of each set, by the set's name.

    Returns:
        One sentence where numbers are three times as large or small, by their mean and by that of the larger ones.

    Example:
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> scale_doubts({"retain": (x, x), "validation": (x + 0.1, x)})
        []
        >>> scale_doubts({"retain": (x, x), "validation": (255 * x, x)})
        ['validation: its inputs are 255 times as large as those of the retain set, ...']
    """
    kept, unseen = (_real_inputs(batches[name]) for name in ("retain", "validation"))
    if len(kept) != len(unseen):
        return []
    for one, other in zip(kept, unseen, strict=True):
        sizes = [torch.stack([column.mean(), column.quantile(0.9)]) for column in (one, other)]
        if bool((torch.stack(sizes) > 0).all()):
            ratios = sizes[1] / sizes[0]
            if bool((ratios > OTHER_SCALE).all() or (ratios < 1 / OTHER_SCALE).all()):
                return [
                    f"validation: its inputs are {float(ratios[0]):.3g} times as large as those of the retain set, in "
                    "the first batch of each: unseen rows that are prepared in another way set a wrong target, and "
                    "damage that they would show is not seen; give them the same normalisation."
                ]
    return []


def _real_inputs(batch: Batch) -> list[Tensor]:
    """Sizes of the real numbers of each column, without the target; not all of them where there are many."""
    inputs: Any = batch
    if isinstance(batch, Mapping):
        inputs = {name: column for name, column in batch.items() if name != target_key(batch)}
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        inputs = batch[:-1]
    real = [one for one in leaves(inputs) if isinstance(one, Tensor) and one.is_floating_point()]
    sizes = [column.detach().float().abs().flatten() for column in real if column.numel() >= FEW]
    return [one[:: max(1, len(one) // MOST_NUMBERS)] for one in sizes]


def row_doubts(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> list[str]:
    """Whether a row costs something else where fewer stand beside it.

    Args:
        model: on the device of the batch, in the modes to unlearn in.
        loss: per-sample loss.
        batch: of two rows at least, else there is nothing to compare.

    Returns:
        One sentence where it does.

    Example:
        >>> batch = (torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),)
        >>> row_doubts(nn.Identity(), lambda model, batch: model(batch[0]).pow(2).sum(1), batch)
        []
        >>> row_doubts(nn.Identity(), lambda model, batch: -model(batch[0] @ batch[0].T).log_softmax(1).diag(), batch)
        ['loss: a row costs something else where fewer rows stand beside it (...): ...']
    """
    fewer = rows_in(batch) // 2
    if not fewer:
        return []
    with torch.no_grad(), buffers_kept(model), suppress(Exception):
        beside_all = loss(model, batch)[:fewer].double()
        beside_few = loss(model, take_rows(batch, torch.arange(fewer))).double()
        moved, usual = float((beside_all - beside_few).abs().mean()), float(beside_all.abs().mean())
        if moved > RELATIVE * usual + ABSOLUTE:
            return [
                f"loss: a row costs something else where fewer rows stand beside it ({moved:.3g} apart in the mean, at "
                f"{usual:.3g}): loss or model lets the rows of a batch see each other, or draws at random. What "
                "forgetting a row means then depends on its batch: let what a row costs depend on that row alone."
            ]
    return []
