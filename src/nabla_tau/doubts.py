"""What is no reason to refuse a request, but for its reader to know: seen on the first batches."""

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau.batches import Batch, leaves, rows_in, take_rows
from nabla_tau.errors import some
from nabla_tau.losses import LOSSES, PerSampleLoss, logits_in, name_of, outputs_of, ready_made
from nabla_tau.modes import buffers_kept
from nabla_tau.shards import is_shard
from nabla_tau.survey import inputs_of
from nabla_tau.tasks import first_logits

FEW = 8
"""Rows that show what leads where."""

OTHER_SCALE, FEWEST_ROWS = 10, 32
"""Times as large or small; rows, and numbers, of which that says something."""

MOST_NUMBERS = 100_000
"""Of a column that are looked at, where 32 rows have no more."""

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
    """Whether there are parameters that lead to other outputs than the one that a ready-made loss reads.

    Features and attention weights beside logits are no such outputs: what makes them makes the logits.

    Example:
        >>> class TwoHeads(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.classes, self.price = nn.Linear(2, 3), nn.Linear(2, 1)
        ...     def forward(self, x):
        ...         return self.classes(x), self.price(x)
        >>> unread_outputs(TwoHeads(), LOSSES["classification"], (torch.zeros(4, 2), torch.zeros(4).long()))
        ['model: price.weight, price.bias lead to outputs that classification does not read: ...']
    """
    if not ready_made(loss) or any(map(is_shard, model.parameters())):
        return []
    named = {name: one for name, one in model.named_parameters() if one.requires_grad}
    beyond: list[str] = []
    with torch.enable_grad(), buffers_kept(model), suppress(Exception):
        found = outputs_of(model, take_rows(batch, torch.arange(min(FEW, rows_in(batch)))))
        if others := _others(found):
            led, reached = (_leads_to(one, list(named.values())) for one in (others, [logits_in(found)]))
            beyond = [name for name, other, one in zip(named, led, reached, strict=True) if other and not one]
    if not beyond:
        return []
    return [
        f"model: {some(beyond)} lead to outputs that {name_of(loss)} does not read: what these tell of the forgotten "
        "rows is not unlearned, and what they are good for is not looked after; pass loss=, a function that adds up "
        "what all outputs cost."
    ]


def _others(found: Any) -> list[Tensor]:
    """Outputs beside the logits that something trainable leads to; those of Transformers are known not to be heads."""
    rest: Any = []
    if type(found).__module__.partition(".")[0] == "transformers":
        return []
    if isinstance(found, Mapping):
        rest = [value for name, value in found.items() if name != "logits"]
    elif isinstance(found, tuple | list):
        rest = list(found[1:])
    return [one for one in leaves(rest) if isinstance(one, Tensor) and one.requires_grad]


def _leads_to(outputs: list[Tensor], parameters: list[nn.Parameter]) -> list[bool]:
    """Of each parameter whether it leads to one of the outputs."""
    total = torch.stack([one.double().sum() for one in outputs]).sum()
    found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return [gradient is not None for gradient in found]


def scale_doubts(model: nn.Module, batches: Mapping[str, Batch], read: Collection[str] = ()) -> list[str]:
    """Whether unseen rows come on another scale than those to keep, as without the normalisation of the others.

    Args:
        model: says which columns of a dict are inputs.
        batches: a batch of each set, by the set's name; fewer than 32 rows tell nothing.
        read: of dict batches, the columns that a loss of the user's own reads.

    Returns:
        One sentence where numbers are ten times as large or small, by their mean and by that of the larger ones.

    Example:
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> scale_doubts(nn.Identity(), {"retain": (x, x), "validation": (2 * x, x)})
        []
        >>> scale_doubts(nn.Identity(), {"retain": (x, x), "validation": (255 * x, x)})
        ['validation: its inputs are 255 times as large as those of the retain set, ...']
    """
    kept, unseen = (batches[name] for name in ("retain", "validation"))
    if min(rows_in(kept), rows_in(unseen)) < FEWEST_ROWS:
        return []
    inputs, others = (_by_name(inputs_of(model, batch, read)) for batch in (kept, unseen))
    for name in [name for name in inputs if name in others]:
        one, other = (_sizes(column) for column in (inputs[name], others[name]))
        if one is not None and other is not None:
            ratios = other / one
            if bool((ratios > OTHER_SCALE).all() or (ratios < 1 / OTHER_SCALE).all()):
                return [
                    f"validation: its inputs are {float(ratios[0]):.3g} times as large as those of the retain set, in "
                    "the first batch of each: unseen rows that were prepared in another way set a wrong target, and "
                    "damage that they would show is not seen; see that both have the same normalisation."
                ]
    return []


def _by_name(inputs: Any) -> dict[Any, Any]:
    """Columns by their keys, or by their places."""
    return dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(leaves(inputs)))


def _sizes(column: Any) -> Tensor | None:
    """Sizes of real numbers that are not 0: their mean, and what nine of ten stay below; of many, the first rows."""
    if not isinstance(column, Tensor) or column.layout is not torch.strided or column.is_nested:
        return None
    if not column.is_floating_point() or not column.numel():
        return None
    rows = max(FEWEST_ROWS, MOST_NUMBERS * len(column) // column.numel())
    sizes = column[:rows].detach().flatten().float().abs()
    sizes = sizes[sizes > 0]
    if len(sizes) < FEWEST_ROWS:
        return None
    return torch.stack([sizes.mean(), sizes.kthvalue(math.ceil(0.9 * len(sizes))).values])  # quantile() has a limit


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
        rows = torch.arange(rows_in(batch))  # copies, as a loss may change what it is given
        beside_all = loss(model, take_rows(batch, rows))[:fewer].double()
        beside_few = loss(model, take_rows(batch, rows[:fewer])).double()
        moved, usual = float((beside_all - beside_few).abs().mean()), float(beside_all.abs().mean())
        if moved > RELATIVE * usual + ABSOLUTE:
            return [
                f"loss: a row costs something else where fewer rows stand beside it ({moved:.3g} apart in the mean, at "
                f"{usual:.3g}): loss or model lets the rows of a batch see each other, or draws at random. What "
                "forgetting a row means then depends on its batch: let what a row costs depend on that row alone."
            ]
    return []
