"""Files that are there whole or not at all: cells as JSON, trained models under the hash of all that decides them."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from nabla_tau.digests import weights_digest
from nabla_tau.errors import InvalidRequest

Json = dict[str, Any]


def write_json(path: Path, value: Json, *, indent: int | None = 1) -> None:
    """Write beside and rename: a process killed at any moment leaves the whole file or none.

    Args:
        path: its folder is made.
        value: what JSON takes.
        indent: None writes one line.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "cells" / "one.json", {"seed": 3})
        ...     json.loads((Path(folder) / "cells" / "one.json").read_text())
        {'seed': 3}
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    _written(path, lambda staged: staged.write_text(text, encoding="utf-8"))


def digest(value: Any) -> str:
    """SHA-256 of anything that JSON takes.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Trained:
    """A trained model and what its training took."""

    model: nn.Module
    seconds: float


@dataclass(frozen=True)
class Models:
    """Trained models in a folder, each under the hash of what decides its weights.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     models = Models(Path(folder))
        ...     first = models.get({"seed": 0}, lambda: nn.Linear(2, 2), nn.Linear(2, 2))
        ...     again = models.get({"seed": 0}, lambda: nn.Linear(2, 2), nn.Linear(2, 2))  # read, not trained
        >>> bool((first.model.weight == again.model.weight).all()), first.seconds == again.seconds
        (True, True)
    """

    folder: Path

    def get(
        self,
        decided_by: Json,
        train: Callable[[], nn.Module],
        empty: nn.Module,
        seconds: Callable[[], float] = time.perf_counter,
    ) -> Trained:
        """The model that was stored, or a new one, trained and stored.

        Args:
            decided_by: everything that the weights follow from, as JSON takes it.
            train: called if there is none.
            empty: a module of the same architecture, filled if there is one.
            seconds: the clock.

        Raises:
            InvalidRequest: if a stored model has other weights than it was stored with.
        """
        path = self.folder / f"{digest(decided_by)}.safetensors"
        if path.is_file():
            load_model(empty, path)
            with safetensors.safe_open(path, "pt") as file:
                about = file.metadata()
            if about.get("weights") not in (None, weights_digest(empty.state_dict().items())):
                raise InvalidRequest(
                    [f"models: expected the weights that were stored in {path}, got others: remove it."]
                )
            return Trained(empty.eval(), float(about["seconds"]))
        started = seconds()
        model = train()
        took = seconds() - started
        about = {
            "seconds": repr(took),
            "decided_by": json.dumps(decided_by, sort_keys=True),
            "weights": weights_digest(model.state_dict().items()),
        }
        _written(path, lambda staged: save_model(model, str(staged), metadata=about))
        return Trained(model.eval(), took)


def rows_digest(rows: Any) -> str:
    """SHA-256 of row numbers.

    Example:
        >>> rows_digest([1, 2]) == rows_digest([1, 2]), rows_digest([1, 2]) == rows_digest([2, 1])
        (True, False)
    """
    return hashlib.sha256(torch.as_tensor(rows, dtype=torch.int64).numpy().tobytes()).hexdigest()


def _written(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    staged = Path(name)
    try:
        write(staged)
        staged.chmod(0o644)
        with staged.open("rb+") as file:
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
