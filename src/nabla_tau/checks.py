"""What must hold before a model is changed: all problems in one error, doubts as warnings."""

import hashlib
import hmac
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau.adapters import is_adapted
from nabla_tau.batches import Batch, cut, rows_in, take_rows, to_device
from nabla_tau.errors import InvalidRequest as InvalidRequest
from nabla_tau.errors import Problems, some
from nabla_tau.errors import UnlearningWarning as UnlearningWarning
from nabla_tau.losses import (
    IGNORED,
    LOSSES,
    PerSampleLoss,
    TokenLoss,
    name_of,
    not_one_each,
    ready_made,
)
from nabla_tau.sets import RowNumbers, Source, base_rows, chosen_rows, is_stream, open_set
from nabla_tau.shards import is_shard
from nabla_tau.splitting import read_column
from nabla_tau.survey import Digest, Survey, survey
from nabla_tau.tasks import first_logits, misfit, unfit, vocabulary

Sets = dict[str, Any]
"""Name of a set -> the set."""

BaseRows = tuple[Any, RowNumbers | None]
"""The dataset that a set was cut from, and its rows in it, where they are known."""


READING = "see that the dataset reads every row, and that its samples are numbers a collate_fn can put together."
FEW = 8  # samples that show whether a loss has a gradient


@dataclass(frozen=True)
class Findings:
    """What reading the sets found.

    Attributes:
        problems: one sentence each; any of them forbids the request.
        warnings: one sentence each.
        equal: two set names -> positions in the first and in the second of the rows whose content is in both.
        repeats: set name, but for the retain set -> positions of the rows whose content stands before them in the set.
        surveys: set name -> what its pass counted and met.
        contents: set name -> sum of the SHA-256 of its rows modulo 2^256. Forget rows could be guessed from that of any
            set that they are in or missing in: it leaves the program under a salt only.
        sequences: set name -> SHA-256 of its rows, inputs and targets, in their order. It never leaves the program.
    """

    problems: list[str]
    warnings: list[str]
    equal: dict[tuple[str, str], tuple[list[int], list[int]]]
    repeats: dict[str, list[int]]
    contents: dict[str, Digest]
    surveys: dict[str, Survey]
    sequences: dict[str, Digest]

    def fingerprints(self) -> dict[str, str]:
        """What tells each set from any other, for as long as a run lasts.

        No row can be guessed from that of the forget set: its key is the content of the other two, in their order, of
        which only other hashes are told.
        """
        others = b"".join(self.sequences[name] for name in sorted(self.sequences) if name != "forget")
        key = hashlib.sha256(b"key" + others).digest()
        return {
            name: hmac.new(key if name == "forget" else b"told", content, "sha256").hexdigest()
            for name, content in self.sequences.items()
        }


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
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        problems.append("model: expected a module in Python, got a torch.jit.ScriptModule: pass what it was made from.")
    if sparse := [name for name, module in model.named_modules() if getattr(module, "sparse", False) is True]:
        problems.append(
            f"model: expected dense gradients, got sparse=True in {some(sparse)}: make it with sparse=False."
        )
    if parts := [name for name, parameter in model.named_parameters() if is_shard(parameter)]:
        return [
            f"model: expected whole weights, got parts of them, sharded over processes, in {some(parts)}: pass the "
            "model as it was before, with shard=True; of a result, load() what save() wrote."
        ]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        adapted = "load the adapter with is_trainable=True" if is_adapted(model) else ""
        problems.append(
            "model: expected trainable parameters, got none: "
            f"{adapted or 'set requires_grad_(True) on the layers to be changed'}."
        )
    named = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    for what, advice, is_bad in _BAD_WEIGHTS:
        if bad := [name for name, tensor in named.items() if is_bad(tensor)]:
            problems.append(f"model: expected {what} in {some(bad)}: {advice}.")
            named = {name: tensor for name, tensor in named.items() if name not in bad}
    return problems


def precision_problems(model: nn.Module) -> list[str]:
    """Weights that cannot be trained as they are: in float16, AdamW's small numbers become 0.

    Example:
        >>> precision_problems(nn.Linear(2, 2)), precision_problems(nn.Linear(2, 2).half())
        ([], ['model: expected weights to be changed in float32 or bfloat16, got float16 in weight, bias: ...'])
    """
    half = [name for name, tensor in model.named_parameters() if tensor.requires_grad and tensor.dtype == torch.float16]
    if not half:
        return []
    return [
        f"model: expected weights to be changed in float32 or bfloat16, got float16 in {some(half)}: call "
        "model.float(); to compute in float16 all the same, launch with accelerate and --mixed_precision fp16."
    ]


def _not_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(tensor.isfinite().all())


# What weights should be, what to do about others, and which are others; a tensor is asked only what it can answer.
_BAD_WEIGHTS: list[tuple[str, str, Callable[[Tensor], bool]]] = [
    ("initialised weights, got lazy ones", "run a batch through it first", nn.parameter.is_lazy),
    ("weights with values, got the meta device", "load the weights", lambda tensor: tensor.is_meta),
    ("weights made outside torch.inference_mode(), got some made in it", "make it outside", Tensor.is_inference),
    (
        "real weights, got complex numbers",
        "hold real and imaginary part apart",
        lambda tensor: tensor.is_complex() and tensor.requires_grad,
    ),
    (
        "finite weights, got NaN or infinity",
        "load a checkpoint from before the training diverged",
        _not_finite,
    ),
]


def loss_problems(loss: Any) -> list[str]:
    """What is wrong with a per-sample loss, before it is called.

    Example:
        >>> loss_problems(nn.functional.mse_loss)
        ["loss: expected a function (model, batch) -> (N,), got torch's mse_loss, which is given outputs and ...]
    """
    if not callable(loss):
        return [f"loss: expected a function (model, batch) -> (N,), got {loss!r}."]
    inner = getattr(loss, "func", loss)
    if str(getattr(inner, "__module__", "")).partition(".")[0] != "torch":
        return []
    return [
        f"loss: expected a function (model, batch) -> (N,), got torch's {name_of(inner)}, which is given outputs and "
        f"targets: pass one of losses.{', losses.'.join(LOSSES)}, or a function that calls the model itself."
    ]


def open_sets(
    sets: Sets, batch_size: int, sharing_ids: Collection[str] = (), streams: Collection[str] = ()
) -> tuple[dict[str, Source], Problems]:
    """Make every set readable; what is wrong with them, as far as it shows without reading them.

    Args:
        sets: forget, retain and validation set by name.
        batch_size: samples per batch, where a set is no `DataLoader`.
        sharing_ids: sets that are to hold rows of the ids that are forgotten, and of no others.
        streams: sets that may be streams.

    Returns:
        The sets that can be read, by name, and one sentence per problem.

    Example:
        >>> x = torch.eye(6)
        >>> sources, problems = open_sets({"forget": (x[:2],), "retain": (x[:0],)}, batch_size=4)
        >>> sources["forget"].size, problems
        (2, ['retain: expected samples, got an empty set.'])
    """
    sources: dict[str, Source] = {}
    based: dict[str, BaseRows] = {}
    problems = Problems()
    for name, data in sets.items():
        with problems.gathered(name, "a set that can be opened", "see its __len__, or the loader's sampler."):
            source = sources[name] = open_set(data, batch_size)
            based[name] = base_rows(data)
            if is_stream(data) and name not in streams:
                problems.append(
                    f"{name}: expected a set whose rows can be read by position, got a stream, which "
                    f"{f'only {some(list(streams))} may be' if streams else 'cannot be'}: store it in a map-style "
                    "dataset."
                )
            elif source.counted and source.size == 0:
                problems.append(f"{name}: expected samples, got an empty set.")
            elif name == "forget" and _drops_samples(data):
                problems.append(
                    "forget: expected a loader that reads every sample, got drop_last=True, which leaves some out of "
                    "every pass: use drop_last=False."
                )
            elif source.counted and source.batches == 0:
                problems.append(
                    f"{name}: expected at least one batch, got none of {source.size} samples, because drop_last=True "
                    "leaves out what does not fill one: use drop_last=False."
                )
    if not problems:
        problems.extend([*_shared_rows(based), *_shared_ids(sets, based, sharing_ids)])
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
    problems = Problems()
    for name, batch in batches.items():
        losses = _losses(problems, model, loss, batch, name)
        if losses is None:
            break  # the other sets would only repeat it
        if not losses.isfinite().all() and not isinstance(loss, TokenLoss):
            rows = (~losses.isfinite()).nonzero().flatten().tolist()
            problems.append(
                f"loss: expected finite numbers, got NaN or infinity from {name_of(loss)} for {len(rows)} samples of "
                f"the first {name} batch (places {some(rows)}): check the inputs and the loss."
            )
    return problems


def _losses(problems: Problems, model: nn.Module, loss: PerSampleLoss, batch: Batch, name: str) -> Tensor | None:
    wanted = f"a loss for the first {name} batch"
    about = "model" if ready_made(loss) else "loss"

    def advice() -> str:
        if about == "loss":
            return f"{name_of(loss)}(model, batch) is given the model and the whole batch, and gives shape (N,)."
        return misfit(model, batch)

    size = rows_in(batch)
    with problems.gathered(about, wanted, advice), torch.no_grad():
        given = dict(batch) if isinstance(batch, Mapping) else batch
        losses = loss(model, given)
        if isinstance(batch, Mapping) and any(given.get(key) is not column for key, column in batch.items()):
            problems.append(
                f"loss: expected {name_of(loss)} to leave the batch as it is, which is handed on, got columns taken "
                "out or put in their place: begin with batch = dict(batch)."
            )
        elif wrong := not_one_each(losses, size, loss, f"the first {name} batch"):
            problems.append(wrong)
        else:
            return losses
    return None


def gradient_problems(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> list[str]:
    """Whether a loss that fits depends on what is trainable, on a few samples.

    Example:
        >>> batch = torch.zeros(2, 4), torch.tensor([0, 3])
        >>> gradient_problems(nn.Linear(4, 5), LOSSES["classification"], batch)
        []
        >>> gradient_problems(nn.Identity(), LOSSES["classification"], batch)
        ['loss: expected losses that depend on trainable weights, got constants from classification: ...']
    """
    losses = loss(model, take_rows(batch, torch.arange(min(FEW, rows_in(batch)))))
    if losses.requires_grad:
        return []
    return [
        f"loss: expected losses that depend on trainable weights, got constants from {name_of(loss)}: detach nothing, "
        "and set requires_grad_(True) on layers that the outputs come from."
    ]


def first_batches(sources: dict[str, Source], device: torch.device, samples: int | None = None) -> dict[str, Batch]:
    """The first batch of each set, or its first samples, on the device.

    Raises:
        InvalidRequest: if one cannot be read.

    Example:
        >>> first_batches({"forget": open_set((torch.arange(5),), batch_size=2)}, torch.device("cpu"))
        {'forget': (tensor([0, 1]),)}
    """
    problems = Problems()
    batches = {}
    for name, source in sources.items():
        with problems.gathered(name, "a first batch", READING):
            first = next(iter(source.ordered()))
            rows_in(first)
            batches[name] = to_device(next(cut(first, samples)), device)
    problems.refuse()
    return batches


def output_size(model: nn.Module, loss: PerSampleLoss, batch: Batch) -> int:
    """Last dimension of the model's outputs, 1 of (N,); 0 for a loss of the user's own, which may not read logits.

    Raises:
        InvalidRequest: if the model cannot take the batch, or its outputs do not go with the loss.

    Example:
        >>> output_size(nn.Linear(3, 7), LOSSES["classification"], (torch.zeros(2, 3), torch.zeros(2)))
        7
    """
    if not ready_made(loss):
        return 0
    problems = Problems()
    wanted, advice = f"targets for {name_of(loss)}", "see what the loss reads."
    if isinstance(loss, TokenLoss):
        with problems.gathered("loss", wanted, advice):
            loss.labels(batch)
        problems.refuse()
    logits = first_logits(model, batch)
    with problems.gathered("loss", wanted, advice):
        problems.extend(filter(None, [unfit(model, loss, logits, batch)]))
    problems.refuse()
    return int(logits.shape[-1]) if logits.ndim > 1 else 1


def survey_sets(
    sets: Sets,
    sources: dict[str, Source],
    model: nn.Module,
    loss: PerSampleLoss,
    outputs: int,
    read: Collection[str] = (),
) -> Findings:
    """Read every set once: problems, and warnings with count and row numbers.

    The sets are hashed but for a retain set larger than the others, which is streamed past the hashes: memory does not
    grow with it.

    Args:
        sets: the sets as the user gave them, by name.
        sources: the same, opened.
        model: says which columns of a dict batch are inputs.
        loss: says which targets are allowed.
        outputs: size of the last dimension of the model's outputs.
        read: of dict batches, the columns that a loss of the user's own reads (`own_losses.columns_read`).

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
        {('forget', 'retain'): ([0], [0])}
    """
    order = sorted(sources, key=lambda name: (not sources[name].counted, sources[name].size))
    hashes: dict[str, dict[Digest, list[int]]] = {name: {} for name in order}
    surveys: dict[str, Survey] = {}
    copies: dict[tuple[str, str], list[tuple[Digest, int]]] = {}
    contents = dict.fromkeys(order, 0)
    problems = Problems()
    for place, name in enumerate(order):
        streamed = name == "retain" and name == order[-1]

        def on_row(
            row: int,
            digest: Digest,
            name: str = name,
            before: list[str] = order[:place],
            mine: dict[Digest, list[int]] | None = None if streamed else hashes[name],
        ) -> None:
            contents[name] += int.from_bytes(hashlib.sha256(digest).digest())  # a sum: in any order of the rows
            for other in before:
                if digest in hashes[other]:
                    copies.setdefault((other, name), []).append((digest, row))
            if mine is not None:
                mine.setdefault(digest, []).append(row)

        with problems.gathered(name, "samples that can be read", READING):
            surveys[name] = survey(sources[name], model, loss, outputs, on_row, read)
    equal = {
        (first, second): (
            sorted(row for digest in {digest for digest, _ in found} for row in hashes[first][digest]),
            [row for _, row in found],
        )
        for (first, second), found in copies.items()
    }
    repeats = {
        name: repeated
        for name, rows_of in hashes.items()
        if name != "retain" and (repeated := sorted(row for rows in rows_of.values() for row in rows[1:]))
    }
    based = {name: base_rows(data) for name, data in sets.items()}
    numbers = {name: rows for name, (_, rows) in based.items()}
    problems += [
        *_structure_problems(surveys),
        *_target_problems(surveys, numbers, outputs, loss),
        *_token_problems(surveys, numbers, model),
        *_without_labels(surveys),
        *_unread(surveys, sources),
    ]
    warnings = [
        *_remarks(sets),
        *_told(surveys, numbers),
        *_perhaps_shared(based),
        *_equal_content(equal, numbers),
        *_repeated(repeats, surveys, numbers),
    ]
    whole = {name: (total % 2**256).to_bytes(32) for name, total in contents.items()}
    sequences = {name: found.sequence.digest() for name, found in surveys.items()}
    return Findings(problems, warnings, equal, repeats, whole, surveys, sequences)


def skipped_ids(data: Any) -> list[str]:
    """The ids that were asked for and skipped, because they occur in no row.

    Example:
        >>> skipped_ids((torch.zeros(3),))
        []
    """
    rows = chosen_rows(data)
    return [] if rows is None else rows.unknown_ids


def _remarks(sets: Sets) -> list[str]:
    chosen = {name: chosen_rows(data) for name, data in sets.items()}
    return [f"{name}: {rows.remark}" for name, rows in chosen.items() if rows is not None and rows.remark]


def _unread(surveys: dict[str, Survey], sources: dict[str, Source]) -> list[str]:
    size = sources["forget"].size
    read = surveys["forget"].size if "forget" in surveys else size
    if read >= size:
        return []
    return [f"forget: expected {size} samples in a pass, got {read}: see that the collate_fn leaves none out."]


def _shared_rows(based: dict[str, BaseRows]) -> list[str]:
    problems = []
    for (first, (base, rows)), (second, (other, other_rows)) in itertools.combinations(based.items(), 2):
        if not _same_data(base, other) or rows is None or other_rows is None:
            continue
        shared = np.intersect1d(rows, other_rows)
        if len(shared) == len(rows) == len(other_rows):
            problems.append(
                f"{first} and {second}: expected different samples, got the same dataset twice: nabla_tau.split makes "
                "disjoint sets."
            )
        elif len(shared):
            problems.append(
                f"{first} and {second}: expected disjoint sets, got {len(shared)} rows in both (rows "
                f"{some(shared.tolist())}): a row belongs to one set; nabla_tau.split makes disjoint ones."
            )
    return problems


def _perhaps_shared(based: dict[str, BaseRows]) -> list[str]:
    return [
        f"{first} and {second}: both read the same dataset, through a sampler whose rows are not known beforehand: "
        "whether they share rows was not checked."
        for (first, (base, rows)), (second, (other, other_rows)) in itertools.combinations(based.items(), 2)
        if _same_data(base, other) and (rows is None or other_rows is None)
    ]


def _same_data(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if not (isinstance(first, TensorDataset) and isinstance(second, TensorDataset)):
        return False
    one, other = first.tensors[0], second.tensors[0]
    return bool(one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.numel())


def _shared_ids(sets: Sets, based: dict[str, BaseRows], sharing: Collection[str]) -> list[str]:
    forget = chosen_rows(sets["forget"])
    if forget is None or forget.ids is None or forget.id_column is None:
        return []
    problems = []
    wanted = {str(value) for value in forget.ids}
    for name, based_on in based.items():
        if name == "forget" or (ids := ids_of(sets[name], based_on, forget.id_column)) is None:
            continue
        rows = [row for row, value in enumerate(ids) if str(value) in wanted]
        if name in sharing:
            if others := sorted(set(range(len(ids))) - set(rows)):
                problems.append(
                    f"{name}: expected unseen rows of the forgotten ids alone, as matched=True says, got {len(others)} "
                    f"of {len(ids)} rows with other ids (places {some(others)}): leave them out, or leave matched out."
                )
        elif rows:
            unseen = "; unseen rows of the same people are compared with matched=True" if name == "test" else ""
            problems.append(
                f"forget and {name}: expected different ids, got {len(rows)} rows of {name} with an id that is to be "
                f"forgotten (places {some(rows)}): leave them out of {name}{unseen}."
            )
    return problems


def ids_of(data: Any, based: BaseRows, column: str) -> list[Any] | None:
    """The id of each row of a set; None where the set does not know ids.

    Args:
        data: the set.
        based: the dataset that it was cut from, and its rows in it.
        column: that holds the ids.

    Example:
        >>> people = {"x": torch.zeros(3), "user_id": np.array(["user-1", "user-2", "user-2"])}
        >>> ids_of(people, base_rows(people), "user_id"), ids_of(people, base_rows(people), "name")
        (['user-1', 'user-2', 'user-2'], None)
    """
    mine, (base, numbers) = chosen_rows(data), based
    if mine is not None and mine.ids and mine.id_column == column:
        return list(mine.ids)
    if numbers is None:
        return None
    try:
        values = read_column(base, column)
    except (ValueError, TypeError, KeyError):
        return None
    return [values[row] for row in numbers]


def _drops_samples(data: Any) -> bool:
    return isinstance(data, DataLoader) and (data.drop_last or bool(getattr(data.batch_sampler, "drop_last", False)))


def _structure_problems(surveys: dict[str, Survey]) -> list[str]:
    seen: dict[str, str] = {}
    for name in surveys:
        for structure, row in surveys[name].structures.items():
            seen.setdefault(structure, f"{name} from sample {row} on")
    if len(seen) <= 1:
        return []
    listed = "; ".join(f"{structure} ({where})" for structure, where in seen.items())
    return [f"sets: expected batches of one structure, got {listed}: use the same transforms and collate for all."]


def _target_problems(
    surveys: dict[str, Survey], numbers: dict[str, Any], outputs: int, loss: PerSampleLoss
) -> list[str]:
    wanted, unlike = f"targets that fit the model's {outputs} outputs", "do not"
    advice = "give the model the outputs"
    if loss is LOSSES["regression"]:
        wanted, unlike, advice = "finite targets", "are not", "leave these rows out"
    elif loss in (LOSSES["binary"], LOSSES["multi_label"]):
        wanted, unlike = "targets in [0, 1]", "are not"
        advice = "write 0 and 1 for no and yes, or leave rows without a target out"
    elif outputs == 1:
        advice = "pass loss=losses.binary if 1 is yes and 0 is no"
    return [
        f"{name}: expected {wanted}, got {len(found.bad_targets)} that {unlike} "
        f"(rows {some(_numbered(found.bad_targets, numbers[name]))}): correct them, or {advice}."
        for name, found in surveys.items()
        if found.bad_targets
    ]


def _token_problems(surveys: dict[str, Survey], numbers: dict[str, Any], model: nn.Module) -> list[str]:
    return [
        f"{name}: expected token ids in [0, {vocabulary(model)}), which the model's embedding holds, got others in "
        f"{len(found.unknown_tokens)} rows (rows {some(_numbered(found.unknown_tokens, numbers[name]))}): encode them "
        "with the model's own tokenizer, or make the embedding larger with resize_token_embeddings."
        for name, found in surveys.items()
        if found.unknown_tokens
    ]


def _without_labels(surveys: dict[str, Survey]) -> list[str]:
    return [
        f"{name}: expected rows with a token to predict, got {found.size} without any: see that labels are not all "
        f"{IGNORED}, as where max_length cuts the answers off, and that rows hold more than a token."
        for name, found in surveys.items()
        if found.size and len(found.unlabelled) == found.size
    ]


def _told(surveys: dict[str, Survey], numbers: dict[str, Any]) -> list[str]:
    """What is no reason to refuse, but to know."""
    return [
        f"{name}: {len(places)} of {found.size} samples {what} (rows {some(_numbered(places, numbers[name]))})."
        for name, found in surveys.items()
        for places, what in (
            (found.unlabelled, "have no labelled token and take no part"),
            (found.not_finite, "have NaN or infinity among their inputs"),
            (found.padded, "have labels where attention_mask is 0, which count; -100 there leaves padding out"),
            (found.unmasked, "have the padding token among their labels, which counts; -100 there leaves it out"),
        )
        if places
    ]


def _equal_content(equal: dict[tuple[str, str], tuple[list[int], list[int]]], numbers: dict[str, Any]) -> list[str]:
    warnings = []
    order = list(numbers)
    for (first, second), (rows, others) in equal.items():
        if order.index(first) > order.index(second):
            first, second, rows, others = second, first, others, rows
        warnings.append(
            f"{first} and {second}: {len(others)} rows of {second} have the same content as rows of {first} ({second} "
            f"rows {some(_numbered(others, numbers[second]))}; {first} rows {some(_numbered(rows, numbers[first]))}): "
            f"{_consequence(first, second)}."
        )
    return warnings


def _repeated(repeats: dict[str, list[int]], surveys: dict[str, Survey], numbers: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {len(places)} of {surveys[name].size} rows repeat the content of rows before them (rows "
        f"{some(_numbered(places, numbers[name]))}): "
        + ("they are left out." if "test" in numbers and name != "validation" else "they count as often as they stand.")
        for name, places in repeats.items()
        if name in surveys
    ]


def _consequence(first: str, second: str) -> str:
    if {first, second} == {"forget", "retain"}:
        return "what is kept teaches again what is to be forgotten; remove the copies"
    if "validation" in (first, second):
        return "the target loss was measured on rows that the model was trained on"
    return f"these rows of {second} are left out"


def _numbered(positions: Sequence[int], numbers: np.ndarray[Any, Any] | None) -> list[int]:
    return [int(position) if numbers is None else int(numbers[position]) for position in positions]
