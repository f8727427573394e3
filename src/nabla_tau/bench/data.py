"""The data sets of the benchmark, as tensors: read from `NABLA_TAU_DATA` and checked, or bundled with scikit-learn."""

import hashlib
import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nabla_tau.bench.encoder import tokens

FOLDER = "NABLA_TAU_DATA"

CHECKSUMS = {
    "cifar10/test.parquet": "5936a85da70156893f116b079a62682965d0fd81b3bf9f73de16012f6777b167",
    "cifar10/train.parquet": "541ffe91da2712cdbe639afc038fbf53009444c4b5552a69400fc294c61802b7",
    "cifar100/test.parquet": "71466a2489496993a3fe64760765ef339527eb2c504f6f58bfdb8d210e48cd42",
    "cifar100/train.parquet": "ab7155dda13883679a5e6f004ef39e6d54ddade86f075436e5baad901e31f212",
    "free_spoken_digits/test.parquet": "6c48b09d3b76e94987b9d9e820e37aff2afaaa9265676c25e71ba47904134c79",
    "free_spoken_digits/train.parquet": "593e51219f470954132600a68839378a923fc6415d444e75753fec86ded01d74",
    "go_emotions/test.parquet": "4e17c5c55ca07f809002e11da22fb6c1d74329d235994d8feb44ca813bc74a78",
    "go_emotions/train.parquet": "4486b32d9c8acb8af2151c83ae50964335e4ec3ddfc7b2483610e3c7f1cc3ccf",
    "go_emotions/validation.parquet": "abf601d89252faa53750f84005c48d32b9a4388efc405785621dfbed928369c5",
    "location30/data.parquet": "f125e28845a1c7924bc51c16b21c975df1624858761152a7449d805e250846e9",
}
"""SHA-256 of each file below the data folder."""

BATCHES = {
    "cifar10": {
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    },
    "cifar100": {
        "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
        "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
}
"""MD5 of the files in which CIFAR's authors give it out; read where the Parquet files are missing."""

WAVE_SAMPLES = 4000  # half a second at 8 kHz
WRONG_LABELS = 0.3
LABELS = 28
SMALLEST_CLASS = 100  # rows; what is held out of a smaller one is too little to audit

Rows = tuple[Tensor, Tensor]
Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Pool:
    """All rows of a data set, those it ships for training first.

    Attributes:
        rows: inputs and targets.
        trainable: how many of the first rows may be trained on; None where the set has no such split, and all may.
        groups: kind of forget set -> the group that each row belongs to, shape (N,); negative for none.
        checksum: of the files that were read.
    """

    rows: Rows
    trainable: int | None = None
    groups: Mapping[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    checksum: str = "bundled"


def data_folder() -> Path:
    """The folder named by `NABLA_TAU_DATA`.

    Raises:
        FileNotFoundError: if the variable names no folder.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {FOLDER: "."}):
        ...     data_folder()
        PosixPath('.')
    """
    named = os.environ.get(FOLDER)
    if not named or not Path(named).is_dir():
        raise FileNotFoundError(
            f"Expected the folder with the data sets in the environment variable {FOLDER}, got {named!r}: set it to "
            "where cifar10/, location30/ and the others lie; docs/benchmark.md says where each comes from."
        )
    return Path(named)


def verified(name: str, folder: Path | None = None) -> Path:
    """A file of the data folder, once its content is what it should be.

    Args:
        name: one of `CHECKSUMS` or of `BATCHES`.
        folder: None is `data_folder()`.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if its content is another.

    Example:
        >>> verified("location30/data.parquet", Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: Expected the file location30/data.parquet below nowhere, got none: ...
    """
    folder = data_folder() if folder is None else folder
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the file {name} below {folder}, got none: docs/benchmark.md says where it comes from."
        )
    expected = _expected(name)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256" if name in CHECKSUMS else "md5").hexdigest()
    if found != expected:
        raise ValueError(
            f"Expected {path} to have the checksum {expected}, got {found}: it is damaged or of another version; get "
            "it again as docs/benchmark.md says."
        )
    return path


def files_of(data_set: str, folder: Path | None = None) -> tuple[str, ...]:
    """The files of a data set: Parquet, or the authors' own where the folder has these alone.

    Args:
        data_set: name of its folder.
        folder: of all data sets; None is `data_folder()`.

    Example:
        >>> files_of("location30", Path("nowhere"))
        ('location30/data.parquet',)
    """
    names = tuple(name for name in CHECKSUMS if name.startswith(f"{data_set}/"))
    if data_set not in BATCHES:
        return names
    folder, batches = Path(os.environ.get(FOLDER, "")) if folder is None else folder, tuple(BATCHES[data_set])
    return batches if (folder / batches[0]).is_file() and not (folder / names[0]).is_file() else names


def location30(folder: Path | None = None) -> Pool:
    """Location-30: 5,010 rows of 446 binary features, 30 classes (Shokri et al., arXiv:1610.05820).

    Args:
        folder: of all data sets; None is `data_folder()`.

    Raises:
        FileNotFoundError: if the data is missing.
        ValueError: if it is damaged.

    Example:
        >>> location30(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: Expected the file location30/data.parquet below nowhere, got none: ...
    """
    from pyarrow import parquet

    table = parquet.read_table(verified("location30/data.parquet", folder))
    features = torch.tensor(np.array(table["features"].to_pylist(), dtype=np.float32))
    return classified((features, torch.tensor(table["label"].to_pylist())), _checksum("location30", folder))


def cifar10(folder: Path | None = None) -> Pool:
    """CIFAR-10: 50,000 + 10,000 images, uint8 (N, 3, 32, 32).

    Args:
        folder: of all data sets; None is `data_folder()`.

    Raises:
        FileNotFoundError: if the data is missing.
        ValueError: if it is damaged.

    Example:
        >>> cifar10(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: Expected the file cifar10/test.parquet below nowhere, got none: ...
    """
    rows, trainable, _ = _images(folder, "cifar10", "label")
    return classified(rows, _checksum("cifar10", folder), trainable)


def cifar100(folder: Path | None = None) -> Pool:
    """CIFAR-100: 50,000 + 10,000 images, uint8 (N, 3, 32, 32); targets are the 20 superclasses, subclasses the 100.

    Args:
        folder: of all data sets; None is `data_folder()`.

    Raises:
        FileNotFoundError: if the data is missing.
        ValueError: if it is damaged.

    Example:
        >>> cifar100(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: Expected the file cifar100/test.parquet below nowhere, got none: ...
    """
    (images, coarse), trainable, fine = _images(folder, "cifar100", "coarse_label", "fine_label")
    pool = classified((images, coarse), _checksum("cifar100", folder), trainable)
    return Pool(pool.rows, trainable, {**pool.groups, "subclass": fine}, pool.checksum)


def spoken_digits(folder: Path | None = None) -> Pool:
    """Free Spoken Digits: 3,000 recordings by 6 speakers, the first half second at 8 kHz, (N, 1, 4000) in [−1, 1].

    Args:
        folder: of all data sets; None is `data_folder()`.

    Raises:
        FileNotFoundError: if the data is missing.
        ValueError: if it is damaged.

    Example:
        >>> spoken_digits(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: Expected the file free_spoken_digits/train.parquet below nowhere, got none: ...
    """
    from pyarrow import concat_tables, parquet

    parts = [parquet.read_table(verified(f"free_spoken_digits/{part}.parquet", folder)) for part in ("train", "test")]
    table = concat_tables(parts)
    waves = torch.zeros(len(table), 1, WAVE_SAMPLES)
    for row, wave in enumerate(table["waveform"].to_numpy()):
        samples = torch.tensor(np.asarray(wave[:WAVE_SAMPLES], dtype=np.float32)) / 2**15
        waves[row, 0, : len(samples)] = samples
    pool = classified((waves, torch.tensor(table["label"].to_pylist())), _checksum("free_spoken_digits", folder))
    speakers = np.unique(table["speaker"].to_pylist(), return_inverse=True)[1]
    return Pool(pool.rows, None, {**pool.groups, "group": speakers}, pool.checksum)


def go_emotions(folder: Path | None = None) -> Pool:
    """GoEmotions: 54,263 comments as the ids of 40 tokens, 0 for none; 28 labels, several at once, (N, 28).

    A comment belongs to the group of its first label.

    Args:
        folder: of all data sets; None is `data_folder()`.

    Raises:
        FileNotFoundError: if the data is missing.
        ValueError: if it is damaged.

    Example:
        >>> go_emotions(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: Expected the file go_emotions/train.parquet below nowhere, got none: ...
    """
    from pyarrow import concat_tables, parquet

    parts = ("train", "validation", "test")
    tables = [parquet.read_table(verified(f"go_emotions/{part}.parquet", folder)) for part in parts]
    table = concat_tables(tables)
    labels = table["labels"].to_pylist()
    targets = torch.zeros(len(table), LABELS)
    for row, present in enumerate(labels):
        targets[row, present] = 1
    first = _large(np.array([present[0] for present in labels]), least=1000)
    rows = tokens(table["text"].to_pylist()), targets
    return Pool(rows, len(tables[0]), {"class": first}, _checksum("go_emotions", folder))


def noisy_digits() -> Pool:
    """scikit-learn's 1,797 handwritten digits, (N, 1, 8, 8) in [0, 1], 30 % of the labels wrong, to be memorised.

    Example:
        >>> images, targets = noisy_digits().rows
        >>> images.shape, int(targets.max())
        (torch.Size([1797, 1, 8, 8]), 9)
    """
    from sklearn.datasets import load_digits

    digits, generator = load_digits(), np.random.default_rng(0)
    wrong = generator.random(len(digits.target)) < WRONG_LABELS
    labels = digits.target.copy()
    labels[wrong] = (labels[wrong] + generator.integers(1, 10, int(wrong.sum()))) % 10
    return classified((torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(labels)), "bundled")


def diabetes() -> Pool:
    """scikit-learn's diabetes: 442 rows of 10 standardised features; the target too; groups are decades of age.

    Example:
        >>> features, target = diabetes().rows
        >>> features.shape, target.shape, round(float(target.std()), 1)
        (torch.Size([442, 10]), torch.Size([442, 1]), 1.0)
    """
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    features = (table.data - table.data.mean(0)) / table.data.std(0)
    target = (table.target - table.target.mean()) / table.target.std()
    decades = _large((table.data[:, 0] // 10).astype(np.int64), least=80)
    rows = torch.tensor(features, dtype=torch.float32), torch.tensor(target, dtype=torch.float32)[:, None]
    return Pool(rows, groups={"group": decades})


def classified(rows: Rows, checksum: str, trainable: int | None = None) -> Pool:
    """A pool whose classes can be forgotten, those with too few rows to audit left out.

    Example:
        >>> pool = classified((torch.zeros(250, 1), torch.arange(250) // 240), "bundled")
        >>> sorted(set(pool.groups["class"].tolist()))  # ten rows of class 1 are too few
        [-1, 0]
    """
    return Pool(rows, trainable, {"class": _large(rows[1].numpy())}, checksum)


def _large(groups: NDArray[np.integer[Any]], least: int = SMALLEST_CLASS) -> NDArray[np.integer[Any]]:
    names, counts = np.unique(groups, return_counts=True)
    return np.where(np.isin(groups, names[counts >= least]), groups, -1)


def _images(
    folder: Path | None, name: str, target: str, other: str | None = None
) -> tuple[Rows, int, NDArray[np.integer[Any]]]:
    """Images of all files, targets, how many come before the test file, and another column of labels."""
    paths = [verified(file, folder) for file in files_of(name, folder)]
    if paths[0].suffix == ".parquet":
        columns = [_parquet(path) for path in sorted(paths, key=lambda path: path.stem != "train")]
    else:
        columns = [_batch(path) for path in paths]
    pixels = torch.tensor(np.concatenate([one["image"] for one in columns]))
    labels, others = (np.concatenate([one[key] for one in columns]) for key in (target, other or target))
    return (pixels, torch.tensor(labels)), len(pixels) - len(columns[-1]["image"]), others


def _parquet(path: Path) -> dict[str, NDArray[Any]]:
    from PIL import Image
    from pyarrow import parquet

    table = parquet.read_table(path)
    images = [
        np.asarray(Image.open(io.BytesIO(value["bytes"])).convert("RGB")).transpose(2, 0, 1)
        for value in table["image"].to_pylist()
    ]
    labels = {name: table[name].to_numpy() for name in table.column_names if name != "image"}
    return {"image": np.stack(images), **labels}


def _batch(path: Path) -> dict[str, NDArray[Any]]:
    """A pickled file of CIFAR's authors, whose checksum is known: no other is opened."""
    with path.open("rb") as file:
        found = pickle.load(file, encoding="latin1")
    names = {"labels": "label", "fine_labels": "fine_label", "coarse_labels": "coarse_label"}
    labels = {ours: np.array(found[theirs]) for theirs, ours in names.items() if theirs in found}
    return {"image": np.asarray(found["data"], np.uint8).reshape(-1, 3, 32, 32), **labels}


def _expected(name: str) -> str:
    return {**CHECKSUMS, **{name: md5 for files in BATCHES.values() for name, md5 in files.items()}}[name]


def _checksum(data_set: str, folder: Path | None) -> str:
    return hashlib.sha256("".join(map(_expected, files_of(data_set, folder))).encode()).hexdigest()
