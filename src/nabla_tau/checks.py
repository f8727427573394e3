"""What must hold before a model is changed: all problems in one error, doubts as warnings."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nabla_tau.batches import Batch, rows_in, to_device
from nabla_tau.losses import LOSSES, PerSampleLoss, TokenLoss, logits_of, name_of
from nabla_tau.sets import Rows, Source, as_dataset, base_rows, open_set
from nabla_tau.splitting import read_column
from nabla_tau.survey import Digest, Survey, survey

Sets = dict[str, Any]
"""Name of a set -> the set."""


class InvalidRequest(ValueError):  # noqa: N818  (it says what is the case)
    """A request that cannot be carried out. Nothing was changed; every problem found is in the message.

    Attributes:
        problems: one sentence per problem.

    Example:
        >>> print(InvalidRequest(["forget: expected samples, got an empty set."]))
        1 problem found, nothing was changed:
        1. forget: expected samples, got an empty set.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        lines = [f"{number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        super().__init__(
            "\n".join([f"{len(lines)} problem{'s' * (len(lines) > 1)} found, nothing was changed:", *lines])
        )


class UnlearningWarning(UserWarning):
    """Something the reader of the result must know.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", UnlearningWarning)  # in a script that is to stop at any doubt
        ...     warnings.warn("the target was not reached", UnlearningWarning)
        Traceback (most recent call last):
        nabla_tau.checks.UnlearningWarning: the target was not reached
    """


@dataclass(frozen=True)
class Findings:
    """What reading the sets found.

    Attributes:
        problems: one sentence each; any of them forbids the request.
        warnings: one sentence each.
        equal: two set names -> positions in the first and the second of rows with equal content.
    """

    problems: list[str]
    warnings: list[str]
    equal: dict[tuple[str, str], list[tuple[int, int]]]


def model_problems(model: Any) -> list[str]:
    """What is wrong with a model, before any data is read.

    Returns:
        One sentence per problem; none for a model that can be changed.

    Example:
        >>> model_problems(nn.Linear(2, 2))
        []
        >>> model_problems(nn.Linear(2, 2).requires_grad_(False))
        ['model: expected trainable parameters, got none: ...']
    """
    if not isinstance(model, nn.Module):
        return [f"model: expected a torch.nn.Module, got {type(model).__name__}: pass the model itself."]
    problems = []
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        problems.append(f"model: expected a plain module, got {type(model).__name__}: pass model.module.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        problems.append(
            "model: expected trainable parameters, got none: set requires_grad_(True) on the layers to be changed."
        )
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    bad = [name for name, tensor in named if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        problems.append(
            f"model: expected finite weights, got NaN or infinity in {_some(bad)}: load a checkpoint from before the "
            "training diverged."
        )
    return problems


def open_sets(sets: Sets, batch_size: int) -> tuple[dict[str, Source], list[str]]:
    """Make every set readable; what is wrong with them, as far as it shows without reading them.

    Args:
        sets: forget, retain and validation set by name.
        batch_size: samples per batch, where a set is no `DataLoader`.

    Returns:
        The sets that can be read, by name, and one sentence per problem.

    Example:
        >>> x = torch.eye(6)
        >>> sources, problems = open_sets({"forget": (x[:2],), "retain": (x[:0],)}, batch_size=4)
        >>> sources["forget"].size, problems
        (2, ['retain: expected samples, got an empty set.'])
    """
    sources, problems = {}, []
    for name, data in sets.items():
        try:
            sources[name] = open_set(data, batch_size)
            if sources[name].size == 0:
                problems.append(f"{name}: expected samples, got an empty set.")
        except (TypeError, ValueError) as error:
            problems.append(f"{name}: {error}")
    forget = sets["forget"]
    if isinstance(forget, DataLoader) and forget.drop_last:
        problems.append(
            "forget: expected a loader that reads every sample, got drop_last=True, which leaves some out of every "
            "pass: use drop_last=False."
        )
    if not problems:
        problems = [*_shared_rows(sets), *_shared_ids(sets)]
    return sources, problems


def batch_problems(model: nn.Module, loss: PerSampleLoss, batches: dict[str, Batch]) -> list[str]:
    """Whether the loss gives one finite number per sample, on the first batch of each set.

    Args:
        model: on the device of the batches.
        loss: per-sample loss; it should give shape (N,) for N samples.
        batches: a batch of each set, by the set's name.

    Returns:
        One sentence per problem; none for a loss that fits.

    Example:
        >>> batch = torch.zeros(2, 4), torch.tensor([0, 3])
        >>> batch_problems(nn.Identity(), LOSSES["classification"], {"forget": batch})
        []
        >>> batch_problems(nn.Identity(), lambda model, batch: model(batch[0]).mean(), {"forget": batch})
        ["loss: expected one number per sample, shape (2,), got () from <lambda> on the first forget batch: ..."]
    """
    problems = []
    for name, batch in batches.items():
        size = rows_in(batch)
        with torch.no_grad():
            losses = loss(model, batch)
        if not isinstance(losses, Tensor) or tuple(losses.shape) != (size,):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            problems.append(
                f"loss: expected one number per sample, shape ({size},), got {got} from {name_of(loss)} on the first "
                f"{name} batch: compute it with reduction='none' and average over everything but the samples."
            )
            break
        if not losses.isfinite().all() and not isinstance(loss, TokenLoss):
            rows = (~losses.isfinite()).nonzero().flatten().tolist()
            problems.append(
                f"loss: expected finite numbers, got NaN or infinity from {name_of(loss)} for {len(rows)} samples of "
                f"the first {name} batch (places {_some(rows)}): check the inputs and the loss."
            )
    return problems


def first_batches(sources: dict[str, Source], device: torch.device) -> dict[str, Batch]:
    """The first batch of each set, on the device.

    Example:
        >>> first_batches({"forget": open_set((torch.arange(5),), batch_size=2)}, torch.device("cpu"))
        {'forget': (tensor([0, 1]),)}
    """
    return {name: to_device(next(iter(source.ordered())), device) for name, source in sources.items()}


def output_size(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> int:
    """Last dimension of the model's outputs; 0 for a loss of the user's own, which may not read logits.

    Example:
        >>> output_size(nn.Linear(3, 7), LOSSES["classification"], (torch.zeros(2, 3), torch.zeros(2)))
        7
    """
    if not isinstance(loss, TokenLoss) and loss not in LOSSES.values():
        return 0
    with torch.no_grad():
        return int(logits_of(model, batch).shape[-1])


def survey_sets(
    sets: Sets, sources: dict[str, Source], model: nn.Module, loss: PerSampleLoss, outputs: int
) -> Findings:
    """Read every set once: problems, and warnings with count and row numbers.

    The smaller sets are hashed, the largest is streamed past the hashes: memory does not grow with it.

    Args:
        sets: the sets as the user gave them, by name.
        sources: the same, opened.
        model: says which columns of a dict batch are inputs.
        loss: says which targets are allowed.
        outputs: size of the last dimension of the model's outputs.

    Returns:
        `Findings`: one sentence per problem, one per warning, and the rows of equal content.

    Example:
        >>> x, y = torch.eye(5), torch.zeros(5, dtype=torch.long)
        >>> sets = {"forget": (x[:1], y[:1]), "retain": (x[:3], y[:3]), "validation": (x[3:], y[3:])}
        >>> sources, _ = open_sets(sets, batch_size=4)
        >>> findings = survey_sets(sets, sources, nn.Linear(5, 2), LOSSES["classification"], outputs=2)
        >>> findings.warnings
        ['forget and retain: 1 rows of retain have the same content as rows of forget ...']
        >>> findings.equal
        {('forget', 'retain'): [(0, 0)]}
    """
    order = sorted(sources, key=lambda name: sources[name].size)
    hashes: dict[str, dict[Digest, int]] = {}
    surveys: dict[str, Survey] = {}
    equal: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for name in order:
        mine: dict[Digest, int] | None = None if name == order[-1] else {}

        def on_row(row: int, digest: Digest, name: str = name, mine: dict[Digest, int] | None = mine) -> None:
            for other, known in hashes.items():
                if digest in known:
                    equal.setdefault((other, name), []).append((known[digest], row))
            if mine is not None:
                mine.setdefault(digest, row)

        surveys[name] = survey(sources[name], model, loss, outputs, on_row)
        if mine is not None:
            hashes[name] = mine
    numbers = {name: _row_numbers(data) for name, data in sets.items()}
    problems = [*_structure_problems(surveys), *_target_problems(surveys, numbers, outputs)]
    return Findings(problems, [*_unlabelled(surveys, numbers), *_equal_content(equal, numbers)], equal)


def _shared_rows(sets: Sets) -> list[str]:
    problems = []
    for first, second in itertools.combinations(sets, 2):
        (base, rows), (other, other_rows) = base_rows(sets[first]), base_rows(sets[second])
        if not _same_data(base, other):
            continue
        if rows is None or other_rows is None:
            continue  # a sampler of the user's own decides; equal content is still looked for
        shared = np.intersect1d(rows, other_rows)
        if len(shared) == len(rows) == len(other_rows):
            problems.append(f"{first} and {second}: expected different samples, got the same dataset twice.")
        elif len(shared):
            problems.append(
                f"{first} and {second}: expected disjoint sets, got {len(shared)} rows in both (rows "
                f"{_some(shared.tolist())}): a row belongs to one set; nabla_tau.split makes disjoint ones."
            )
    return problems


def _same_data(first: Any, second: Any) -> bool:
    if first is second:
        return True
    tensors = [getattr(data, "tensors", None) for data in (first, second)]
    if None in tensors:
        return False
    one, other = tensors[0][0], tensors[1][0]  # type: ignore[index]
    return bool(one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.numel())


def _shared_ids(sets: Sets) -> list[str]:
    forget = sets["forget"]
    if not isinstance(forget, Rows) or forget.ids is None or forget.id_column is None:
        return []
    problems = []
    wanted = {str(value) for value in forget.ids}
    for name in (name for name in sets if name != "forget"):
        data = sets[name]
        try:
            column = (
                data.ids if isinstance(data, Rows) and data.ids else read_column(as_dataset(data), forget.id_column)
            )
        except (ValueError, TypeError, KeyError):
            continue  # this set does not know ids
        rows = [row for row, value in enumerate(column) if str(value) in wanted]
        if rows:
            problems.append(
                f"forget and {name}: expected different ids, got {len(rows)} rows of {name} with an id that is to be "
                f"forgotten (places {_some(rows)}): leave them out of {name}."
            )
    return problems


def _structure_problems(surveys: dict[str, Survey]) -> list[str]:
    seen: dict[str, str] = {}
    for name in surveys:
        for structure, row in surveys[name].structures.items():
            seen.setdefault(structure, f"{name} from sample {row} on")
    if len(seen) == 1:
        return []
    listed = "; ".join(f"{structure} ({where})" for structure, where in seen.items())
    return [f"sets: expected batches of one structure, got {listed}: use the same transforms and collate for all."]


def _target_problems(surveys: dict[str, Survey], numbers: dict[str, Any], outputs: int) -> list[str]:
    return [
        f"{name}: expected targets that fit the model's {outputs} outputs, got {len(found.bad_targets)} that do not "
        f"(rows {_some(_numbered(found.bad_targets, numbers[name]))}): correct them, or give the model the outputs."
        for name, found in surveys.items()
        if found.bad_targets
    ]


def _unlabelled(surveys: dict[str, Survey], numbers: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {len(found.unlabelled)} of {found.size} samples have no labelled token and take no part (rows "
        f"{_some(_numbered(found.unlabelled, numbers[name]))})."
        for name, found in surveys.items()
        if found.unlabelled
    ]


def _equal_content(equal: dict[tuple[str, str], list[tuple[int, int]]], numbers: dict[str, Any]) -> list[str]:
    warnings = []
    order = list(numbers)
    for (first, second), pairs in equal.items():
        if order.index(first) > order.index(second):
            first, second, pairs = second, first, [(b, a) for a, b in pairs]
        one = _numbered([row for row, _ in pairs], numbers[first])
        other = _numbered([row for _, row in pairs], numbers[second])
        warnings.append(
            f"{first} and {second}: {len(pairs)} rows of {second} have the same content as rows of {first} ({second} "
            f"rows {_some(other)}; {first} rows {_some(one)}): {_consequence(first, second)}."
        )
    return warnings


def _consequence(first: str, second: str) -> str:
    if {first, second} == {"forget", "retain"}:
        return "what is kept teaches again what is to be forgotten; remove the copies"
    if "validation" in (first, second):
        return "the target loss was measured on rows that the model was trained on"
    return f"these rows of {second} are left out"


def _row_numbers(data: Any) -> np.ndarray[Any, Any] | None:
    return base_rows(data)[1]


def _numbered(positions: Sequence[int], numbers: np.ndarray[Any, Any] | None) -> list[int]:
    return [int(position) if numbers is None else int(numbers[position]) for position in positions]


def _some(values: Sequence[Any], limit: int = 10) -> str:
    listed = ", ".join(str(value) for value in values[:limit])
    return listed + (f", … {len(values) - limit} more" if len(values) > limit else "")
