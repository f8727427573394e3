"""Checkpoints on disk: a folder each, whole or not there, with a checksum for every file; the last two are kept."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from nabla_tau.adapters import ADAPTER, CONFIGURATION
from nabla_tau.storage import RECORD, WEIGHTS, flush, sha256

MANIFEST, FINISHED, FORMAT = "manifest.json", "finished", 1
KEPT = 2

# The only names there are: a manifest that names anything else, a path for instance, is no manifest.
_RESULT = "|".join(map(re.escape, (RECORD, ADAPTER, CONFIGURATION)))
_FILES = re.compile(rf"(model|optimizer|journal|process-\d{{1,6}})\.safetensors|{_RESULT}")
_STEP = re.compile(r"step-\d{10}")
_HIDDEN = re.compile(r"\.(new|old)-\w+")
_ORIGINAL = re.compile(r"original-[0-9a-f]{12}-\d+")


class NotSaved(OSError):  # noqa: N818  (it says what is the case)
    """A checkpoint could not be written; those before it are as they were, and so is the model passed in.

    Example:
        >>> raise NotSaved("Expected room for a checkpoint, got a full disk.")
        Traceback (most recent call last):
        nabla_tau.checkpoint.NotSaved: Expected room for a checkpoint, got a full disk.
    """


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Attributes:
        folder: where it is.
        facts: what its manifest says, but for the checksums.
    """

    folder: Path
    facts: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        """Whether it holds the result of a run."""
        return self.folder.name == FINISHED

    @property
    def step(self) -> int:
        """After which step it was saved; 0 where the run is finished."""
        return 0 if self.is_finished else int(self.folder.name.removeprefix("step-"))

    def tensors(self, file: str) -> dict[str, Tensor]:
        """The tensors of one of its files, on the CPU."""
        return load_file(self.folder / file)


def write(folder: Path, name: str, files: Mapping[str, Callable[[Path], None]], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint beside the others and give it its name when it is complete and on the disk.

    Args:
        folder: of all checkpoints of a run.
        name: of this one.
        files: name of a file -> what writes it.
        facts: for the manifest, as JSON takes them.

    Returns:
        The checkpoint's folder.

    Raises:
        NotSaved: if it could not be written, with the file; nothing of it is left.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write(Path(folder), "step-0000000007", {RECORD: Path.touch}, {"steps": 7})
        ...     found, damaged = newest(Path(folder))
        ...     found.folder.name, found.facts["steps"], damaged
        ('step-0000000007', 7, [])
    """
    path, staging = folder, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        for file, fill in files.items():
            path = staging / file
            fill(path)
            flush(path)
        sums = {file: sha256(staging / file) for file in files}
        content = {"format": FORMAT, "files": sums, "facts": dict(facts)}
        path = staging / MANIFEST
        path.write_text(json.dumps({**content, "sha256": _digest(content)}, indent=1) + "\n", encoding="utf-8")
        flush(path)
        _flush_folder(staging)
        path = folder / name
        if path.exists():
            _discard(path)
        os.replace(staging, path)
        _flush_folder(folder)
    except (OSError, SafetensorError) as error:
        raise NotSaved(f"Expected to write {path}, got {error}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return path


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The finished checkpoint, or else the latest, that is whole.

    Returns:
        The checkpoint, None where the folder holds none, and a sentence about each later one that is damaged.

    Raises:
        ValueError: if all that it holds are damaged.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step in (7, 9):
        ...         last = write(Path(folder), f"step-{step:010}", {RECORD: Path.touch}, {})
        ...     _ = (last / RECORD).write_text("{}")
        ...     found, damaged = newest(Path(folder))
        >>> found.folder.name, damaged
        ('step-0000000007', ['.../step-0000000009/unlearning.json is not as it was written'])
    """
    damaged: list[str] = []
    for path in _all(folder):
        try:
            return _opened(path), damaged
        except (ValueError, OSError) as error:
            damaged.append(str(error))
    if damaged:
        raise ValueError("; ".join(damaged))
    return None, []


def place_of_original(folder: Path, fingerprint: str, rank: int) -> Path:
    """Where a process keeps the weights of a model that is changed in place, for as long as its run lasts.

    Args:
        folder: of all checkpoints of the run.
        fingerprint: of the model.
        rank: of the process.

    Example:
        >>> str(place_of_original(Path("runs/17"), 64 * "a", 0))
        'runs/17/original-aaaaaaaaaaaa-0'
    """
    return folder / f"original-{fingerprint[:12]}-{rank}"


def forget_older(folder: Path) -> None:
    """Keep the last two; where a finished one is, nothing but that.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step in (7, 8, 9):
        ...         _ = write(Path(folder), f"step-{step:010}", {}, {})
        ...     forget_older(Path(folder))
        ...     sorted(os.listdir(folder))
        ['step-0000000008', 'step-0000000009']
    """
    found = _all(folder)
    for path in found[1 if found and found[0].name == FINISHED else KEPT :]:
        _discard(path)


def forget_later(folder: Path, found: Checkpoint) -> None:
    """Remove what is newer than the one that is continued, because it is damaged.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first, last = (write(Path(folder), f"step-{step:010}", {}, {}) for step in (7, 9))
        ...     (last / MANIFEST).unlink()
        ...     forget_later(Path(folder), newest(Path(folder))[0])
        ...     os.listdir(folder)
        ['step-0000000007']
    """
    for path in _all(folder):
        if path.name == found.folder.name:
            return
        _discard(path)


def clear(folder: Path, *, leftovers_only: bool = False) -> None:
    """Remove what a run keeps in a folder, and the folder if nothing else is in it.

    Args:
        folder: of all checkpoints of a run.
        leftovers_only: whether only what a killed process left half written, or half removed, is to go.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "request-17"
        ...     _ = write(place, "step-0000000007", {}, {})
        ...     clear(place)
        ...     place.exists()
        False
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _HIDDEN.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    if leftovers_only:
        return
    for path in folder.iterdir():
        if _ORIGINAL.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    for path in _all(folder):
        _discard(path)
    if not any(folder.iterdir()):
        folder.rmdir()


def remove_saved_before(output: Path, folder: Path) -> None:
    """Remove a result, whole or half written, whose process was killed before it had removed the run's checkpoints.

    It is saved again, from the checkpoint that is still there.

    Args:
        output: where the result is to be saved.
        folder: of the checkpoints of that run; nothing is removed unless it holds the same weights.

    Example:
        >>> with tempfile.TemporaryDirectory() as place:
        ...     output, folder = Path(place) / "request-17", Path(place) / "state"
        ...     _ = write(folder, FINISHED, {WEIGHTS: Path.touch}, {})
        ...     output.mkdir()
        ...     (output / WEIGHTS).touch()
        ...     remove_saved_before(output, folder)
        ...     os.listdir(output)
        []
    """
    for weights in saved_before(output, folder):
        for name in (RECORD, CONFIGURATION, weights):  # the record first: without it nothing counts as saved
            (output / name).unlink(missing_ok=True)


def saved_before(output: Path, folder: Path) -> list[str]:
    """Which weights of a result, if any, are those of the finished run that a folder of checkpoints holds.

    Example:
        >>> saved_before(Path("runs/request-17"), Path("runs/request-17.state"))
        []
    """
    places = ((name, folder / FINISHED / name, output / name) for name in (WEIGHTS, ADAPTER))
    return [
        name for name, kept, saved in places if kept.is_file() and saved.is_file() and sha256(kept) == sha256(saved)
    ]


def _all(folder: Path) -> list[Path]:
    """The newest first; one that is finished before all."""
    names = os.listdir(folder) if folder.is_dir() else []
    steps = sorted((name for name in names if _STEP.fullmatch(name)), reverse=True)
    return [folder / name for name in ([FINISHED] if FINISHED in names else []) + steps]


def _opened(path: Path) -> Checkpoint:
    manifest = _read_manifest(path / MANIFEST)
    if path.is_symlink():
        raise ValueError(f"{path} is a link, which is not followed")
    for file, expected in manifest["files"].items():
        place = path / file
        if not place.is_file() or place.is_symlink():
            raise ValueError(f"{place} is missing")
        if sha256(place) != expected:
            raise ValueError(f"{place} is not as it was written")
        if place.suffix == ".safetensors" and not _is_safetensors(place):
            raise ValueError(f"{place} is no file of safetensors")
    return Checkpoint(path, manifest["facts"])


def _is_safetensors(path: Path) -> bool:
    """Whether it is what it should be, and not, for instance, a pickle."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError:
        return False


def _read_manifest(path: Path) -> dict[str, Any]:
    """A manifest as `write` makes it.

    Raises:
        ValueError: if it is missing or anything else.
    """
    if not path.is_file() or path.is_symlink():
        raise ValueError(f"{path} is missing")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON") from error
    if not isinstance(manifest, dict) or set(manifest) != {"format", "files", "facts", "sha256"}:
        raise ValueError(f"{path} is no manifest of a checkpoint")
    if manifest.pop("sha256") != _digest(manifest):
        raise ValueError(f"{path} is not as it was written")
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}, of which {FORMAT} is known")
    files = manifest["files"]
    if not isinstance(files, dict) or not all(_FILES.fullmatch(name) for name in files):
        raise ValueError(f"{path} names files that no checkpoint has")
    if not isinstance(manifest["facts"], dict):
        raise ValueError(f"{path} is no manifest of a checkpoint")
    return manifest


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _discard(path: Path) -> None:
    """Remove a checkpoint, under another name first: what is half removed is no checkpoint."""
    old = Path(tempfile.mkdtemp(prefix=".old-", dir=path.parent))
    os.replace(path, old / path.name)
    shutil.rmtree(old, ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
