"""The result of unlearning, on disk: `model.safetensors` and `unlearning.json`, written whole or not at all."""

import copy
import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from nabla_tau.adapters import (
    ADAPTER,
    CONFIGURATION,
    adapter_weights,
    base_record,
    read_adapter,
    require_base,
    write_adapter,
    write_configuration,
)
from nabla_tau.digests import weights_digest
from nabla_tau.gathering import gathered, write_gathered
from nabla_tau.problem import Epoch
from nabla_tau.shards import is_sharded

WEIGHTS, RECORD = "model.safetensors", "unlearning.json"
FORMAT = 1
NEW_LABEL = "a label that is new to the model"
"""What the target is the loss of, where a request removes a label."""

# What the record holds that is read back.
_KINDS: dict[str, Any] = {
    "format": int,
    "weights_sha256": str,
    "epochs": list,
    "settings": dict,
    "reached_target": bool,
    "warnings": list,
    "seconds": int | float,
}


@dataclass
class Unlearned:
    """What `unlearn` gives back.

    Attributes:
        model: the unlearned model θ_u; the original is as it was. After `shard=True` each process holds its part of it:
            all of them call it together, and `save`; `load` gives a whole one.
        epochs: what each pass over the forget set did.
        settings: every value that was derived or measured.
        reached_target: whether the forget set ended at the price of unseen data.
        warnings: what was warned about.
        seconds: duration of the whole call.

    Example:
        >>> before = {"forget_loss_before": 0.1, "retain_loss_before": 0.1, "target_loss_before": 2.2}
        >>> after = {"forget_loss_after": 2.0, "retain_loss_after": 0.1, "target_loss_after": 2.1}
        >>> settings = {"method": "nabla_tau", "steps_done": 160, "damaged": False, **before, **after}
        >>> print(Unlearned(nn.Linear(2, 2), [], settings, reached_target=True, seconds=4.0))
        nabla_tau: 0 epochs, 160 steps, 4.0 s
        mean loss: forget 0.1 -> 2, retain 0.1 -> 0.1, unseen 2.2 -> 2.1
        target reached
    """

    model: nn.Module
    epochs: list[Epoch]
    settings: dict[str, Any]
    reached_target: bool
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        """One paragraph for a reader."""
        settings = self.settings
        lines = [
            f"{settings['method']}: {len(self.epochs)} epochs, {settings['steps_done']} steps, {self.seconds:.1f} s",
            "mean loss: "
            + ", ".join(
                f"{name} {settings[f'{key}_loss_before']:.4g} -> {settings[f'{key}_loss_after']:.4g}"
                for name, key in self._losses
            ),
            self.outcome,
        ]
        if "counted_forget_loss_before" in settings:
            counted = (
                settings[f"counted_{name}"] for name in ("forget_loss_before", "forget_loss_after", "target_loss_after")
            )
            of = "counting none above {:.4g}: forget {:.4g} -> {:.4g}, {} {:.4g}"
            largest, (*forget, target) = settings["largest_loss"], counted
            lines.insert(2, of.format(largest, *forget, self._losses[-1][0], target))
        if self.continued_after_steps:
            steps = ", ".join(f"{step:,}" for step in self.continued_after_steps)
            lines.append(f"continued after it was cut off, from its checkpoint after step {steps}")
        if "batch_size_reason" in settings:
            lines.append(f"batch size {settings['batch_size']['forget']}: {settings['batch_size_reason']}")
        if "micro_batch_size_reason" in settings:
            lines.append(f"micro-batches of {settings['micro_batch_size']}: {settings['micro_batch_size_reason']}")
        lines.extend(f"warning: {text}" for text in self.warnings)
        return "\n".join(lines)

    @property
    def _losses(self) -> list[tuple[str, str]]:
        """Name and key of each loss that is told; the last is what the forget set is measured against."""
        told = [("forget", "forget"), ("retain", "retain")]
        if self.settings.get("target_loss_of") == NEW_LABEL:
            return [*told, ("unseen", "unseen"), ("a new label", "target")]
        return [*told, ("unseen", "target")]

    @property
    def continued_after_steps(self) -> list[int]:
        """After which steps the run was taken up again, having been cut off; none where nothing disturbed it."""
        return list(self.settings.get("checkpoints", {}).get("continued_after_steps", []))

    @property
    def outcome(self) -> str:
        """How it ended, in a few words."""
        words = ["target reached" if self.reached_target else "target NOT reached"]
        words += ["forget set past its target"] if self.settings.get("overshot") else []
        words += ["model DAMAGED"] if self.settings.get("damaged") else []
        return ", ".join(words)

    def record(self) -> dict[str, Any]:
        """Everything but the weights, as JSON takes it."""
        return {
            "reached_target": self.reached_target,
            "seconds": self.seconds,
            "continued_after_steps": self.continued_after_steps,
            "warnings": self.warnings,
            "settings": self.settings,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    def writers(self) -> dict[str, Callable[[Path], None]]:
        """What writes each of the files, the weights first and the record, which names their checksum, last."""
        adapter = adapter_weights(self.model)
        first = WEIGHTS if adapter is None else ADAPTER

        def record(path: Path) -> None:
            saved = datetime.now(UTC).isoformat(timespec="seconds")
            weights = sha256(path.parent / first)
            base = {} if adapter is None else base_record(self.model, path.parent)
            content = {"format": FORMAT, "saved": saved, "weights_sha256": weights, **base, **self.record()}
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

        if is_sharded(self.model):
            return {WEIGHTS: lambda path: write_gathered(self.model, path), RECORD: record}
        if adapter is None:
            return {WEIGHTS: lambda path: save_model(uncompiled(self.model), str(path)), RECORD: record}
        return {
            ADAPTER: lambda path: write_adapter(adapter, path.parent),
            CONFIGURATION: lambda path: write_configuration(self.model, path.parent),
            RECORD: record,
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `model.safetensors` and `unlearning.json` into a folder, atomically.

        Where an adapter of PEFT is all that was trainable, it is saved alone, as `adapter_model.safetensors` and
        `adapter_config.json`, which `PeftModel.from_pretrained(base, folder)` reads. Of several processes the first
        writes; a sharded model it writes whole, putting together one tensor after the other, and all have to call this.

        Args:
            folder: made if it does not exist; may hold other files.

        Returns:
            The folder.

        Raises:
            FileExistsError: if it already holds a file of either name. Nothing is overwritten.
            OSError: if it cannot be written; of several processes, on every one.

        Example:
            >>> result = Unlearned(nn.Linear(2, 2), [], {}, True)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     where = result.save(Path(folder) / "request-17")
            ...     sorted(path.name for path in where.iterdir())
            ['model.safetensors', 'unlearning.json']
        """
        target = Path(folder)
        with ExitStack() as entered:
            place = None
            with _agreed(target):
                if _writes():
                    require_free(target)
                    place = entered.enter_context(staging(target))
            with _agreed(target):
                if place is not None:
                    self._write(place, target)
                elif is_sharded(self.model):  # it takes all processes to put a tensor together
                    for _ in gathered(self.model):
                        pass
        return target

    def _write(self, place: Path, target: Path) -> None:
        writers = self.writers()
        (place / "usual").touch()
        mode = stat.S_IMODE((place / "usual").stat().st_mode)
        for name, fill in writers.items():
            fill(place / name)
            (place / name).chmod(mode)  # safetensors writes for the owner alone, and somebody else may serve the model
            flush(place / name)
        require_free(target)
        move_whole(place, target, list(writers))  # the record last: a folder with a record is complete


def load(folder: str | os.PathLike[str], model: nn.Module) -> Unlearned:
    """Read back what `Unlearned.save` wrote. No pickle is involved.

    Args:
        folder: where it was saved.
        model: a module of the same architecture, for example the original; it is not touched.

    Returns:
        The `Unlearned`, with a copy of `model` that carries the saved weights, in eval mode: ready to be served.

    Raises:
        FileNotFoundError: if a file is missing.
        TypeError: if `model` is no module.
        ValueError: if weights or record are damaged, the weights belong to another architecture, or the model cannot
            be copied.

    Example:
        >>> result = Unlearned(nn.Linear(2, 2), [], {"seed": 3}, True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     back = load(result.save(folder), nn.Linear(2, 2))
        >>> back.settings["seed"], bool((back.model.weight == result.model.weight).all())
        (3, True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected a torch.nn.Module of the saved architecture, got {type(model).__name__}.")
    record = _require_result(Path(folder))
    try:
        copied = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"Expected a model that can be copied, got {error}: pass one that was called under torch.no_grad() before, "
            "or that holds no tensors that were computed."
        ) from error
    loaded = _loaded(Path(folder), record, copied)
    loaded.model.eval()
    return loaded


def load_into(folder: Path, model: nn.Module) -> Unlearned:
    """Read back what `Unlearned.save` wrote into the model itself, where memory is short of a copy.

    Raises:
        FileNotFoundError: as `load`.
        ValueError: as `load`; the model may then hold some of the weights.

    Example:
        >>> result, model = Unlearned(nn.Linear(2, 2), [], {}, True), nn.Linear(2, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_into(result.save(folder), model).model is model
        True
        >>> bool((model.weight == result.model.weight).all())
        True
    """
    return _loaded(folder, _require_result(folder), model)


def _require_result(source: Path) -> dict[str, Any]:
    """The record of a result that is whole."""
    weights = ADAPTER if (source / ADAPTER).is_file() else WEIGHTS
    for name in (RECORD, weights):
        if not (source / name).is_file():
            raise FileNotFoundError(
                f"Expected {name} in {source}, got none: name the folder that save() wrote to; without {RECORD} the "
                "writing did not finish."
            )
    record = _read_record(source / RECORD)
    if sha256(source / weights) != record["weights_sha256"]:
        raise ValueError(
            f"Expected the weights that {RECORD} names, got others in {source / weights}: restore the file."
        )
    return record


def _loaded(source: Path, record: dict[str, Any], model: nn.Module) -> Unlearned:
    """A result, its weights read into the model."""
    try:
        if (source / ADAPTER).is_file():
            read_adapter(model, source)
            require_base(model, source, record)
        else:
            load_model(uncompiled(model), source / WEIGHTS, device=_device_of(model))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"Expected a model of the architecture that was saved, got one that its weights do not fit: {error}"
        ) from error
    return Unlearned(
        model=model,
        epochs=[Epoch(**epoch) for epoch in record["epochs"]],
        settings=record["settings"],
        reached_target=record["reached_target"],
        warnings=record["warnings"],
        seconds=record["seconds"],
    )


def move_whole(staging: Path, target: Path, names: Sequence[str]) -> None:
    """Move files of which each says nothing without the others; if one cannot be, none stays.

    Args:
        staging: where they are, on the same disk as the target.
        target: a folder without files of these names.
        names: in the order in which they appear.

    Raises:
        OSError: if one cannot be moved.

    Example:
        >>> with tempfile.TemporaryDirectory() as staging, tempfile.TemporaryDirectory() as target:
        ...     _ = (Path(staging) / "a").write_text("one")
        ...     move_whole(Path(staging), Path(target), ["a"])
        ...     os.listdir(target)
        ['a']
    """
    moved: list[Path] = []
    try:
        for name in names:
            os.replace(staging / name, target / name)
            moved.append(target / name)
    except BaseException:
        for path in moved:
            path.unlink()
        raise


def require_free(folder: Path) -> None:
    """Make sure, before hours are spent, that `save` could write here and would overwrite nothing.

    Raises:
        FileExistsError: if the folder holds a file that `save` writes, or is itself a file.
        NotADirectoryError: if it would lie below a file.
        PermissionError: if it, or the folder it would be made in, cannot be written to.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     require_free(Path(folder) / "request-17")  # nothing is there yet
        ...     (Path(folder) / "unlearning.json").touch()
        ...     require_free(Path(folder))
        Traceback (most recent call last):
        FileExistsError: Expected a folder without unlearning.json, got ...
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"Expected a folder, got the file {folder}: choose another name.")
    taken = [name for name in (WEIGHTS, ADAPTER, CONFIGURATION, RECORD) if (folder / name).exists()]
    if taken:
        raise FileExistsError(
            f"Expected a folder without {' and '.join(taken)}, got {folder}: choose another folder or move the file."
        )
    require_writable(folder)


def require_writable(*folders: Path) -> None:
    """Make sure that files could be written into folders, or that these could be made.

    Raises:
        NotADirectoryError: if one would lie below a file.
        PermissionError: if one, or the folder it would be made in, cannot be written to.

    Example:
        >>> require_writable(Path(os.devnull) / "request-17")
        Traceback (most recent call last):
        NotADirectoryError: Expected a folder, got /dev/null/request-17 below the file /dev/null: choose another name.
    """
    for folder in folders:
        place = _nearest(folder)
        if not place.is_dir():
            got = f"the file {folder}" if place == Path(folder).absolute() else f"{folder} below the file {place}"
            raise NotADirectoryError(f"Expected a folder, got {got}: choose another name.")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(f"Expected a folder to write to, got {place}, which is not: choose another.")


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of a model's weights.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> same = fingerprint(layer)
        >>> _ = layer.bias.data.add_(1)
        >>> fingerprint(layer) == same
        False
    """
    return weights_digest(uncompiled(model).state_dict().items())


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given, whose weights have the names of the user's code; any other as it is.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> uncompiled(torch.compile(layer, backend="eager")) is layer, uncompiled(layer) is layer
        (True, True)
    """
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A folder inside the target, so on its disk, to put files together in; gone afterwards whatever happens.

    The target is made if it does not exist, and is gone too if nothing came into it.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder) / "request-17"
        ...     with staging(target) as place:
        ...         place.parent == target
        ...     target.exists()
        True
        False
    """
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".saving-", dir=target))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if made and not any(target.iterdir()):
            target.rmdir()


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected JSON in {path}, got something else: {error}") from error
    wanted = f"Expected a record of unlearning in {path}, got"
    if not isinstance(record, dict):
        raise ValueError(f"{wanted} a {type(record).__name__}.")
    if missing := sorted(set(_KINDS) - set(record)):
        raise ValueError(f"{wanted} one without {', '.join(missing)}.")
    wrong = [name for name, kind in _KINDS.items() if not isinstance(record[name], kind)]
    wrong += [] if wrong or all(isinstance(text, str) for text in record["warnings"]) else ["warnings"]
    wrong += [] if wrong or all(_is_epoch(epoch) for epoch in record["epochs"]) else ["epochs"]
    if wrong:
        raise ValueError(f"{wanted} other than it writes under {', '.join(wrong)}: restore the file.")
    if record["format"] != FORMAT:
        raise ValueError(f"{wanted} format {record['format']}, of which {FORMAT} is known: install a newer nabla-tau.")
    return record


def _is_epoch(epoch: Any) -> bool:
    """Whether it is one that `Epoch` takes: its names, each with a number or nothing."""
    names = {field.name for field in fields(Epoch)}
    return (
        isinstance(epoch, dict)
        and set(epoch) <= names
        and all(value is None or type(value) in (int, float) for value in epoch.values())
    )


def _device_of(model: nn.Module) -> str:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return "cpu" if tensor is None else str(tensor.device)


@contextmanager
def _agreed(target: Path) -> Iterator[None]:
    """What fails on the process that writes fails on all, so that none waits for another."""
    if not torch.distributed.is_initialized():
        yield
        return
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"  # nccl has no word for the others
    failed = torch.ones((), dtype=torch.int32, device=device)
    try:
        yield
        failed.zero_()
    finally:
        torch.distributed.all_reduce(failed, torch.distributed.ReduceOp.MAX)
    if failed:
        raise OSError(f"Expected process 0 to write {target}, got a failure there: see its own message.")


def _writes() -> bool:
    """Whether this is the process that writes; the others wait for it."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def flush(path: Path) -> None:
    """Have a file on the disk itself, not only on its way there.

    Example:
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     flush(Path(file.name))
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Example:
        >>> sha256(Path(os.devnull))[:8]
        'e3b0c442'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
