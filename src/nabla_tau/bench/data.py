"""The data sets of the benchmark as tensors: from checked files below a folder, or bundled with scikit-learn."""

import io
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
from nabla_tau.bench.files import checksum_of, files_of, verified
from nabla_tau.bench.layouts import comments, places, recordings

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
    (path,) = _checked("location30", folder)
    labels, features = zip(*places(path), strict=True)
    rows = torch.tensor(np.array(features, dtype=np.float32)), torch.tensor(labels)
    return classified(rows, checksum_of("location30", folder))


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
    return classified(rows, checksum_of("cifar10", folder), trainable)


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
    pool = classified((images, coarse), checksum_of("cifar100", folder), trainable)
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
    found = [recording for path in _checked("free_spoken_digits", folder) for recording in recordings(path)]
    waves = torch.zeros(len(found), 1, WAVE_SAMPLES)
    for row, (_, wave) in enumerate(found):
        samples = torch.tensor(np.asarray(wave[:WAVE_SAMPLES], dtype=np.float32)) / 2**15
        waves[row, 0, : len(samples)] = samples
    digits, speakers, _ = zip(*(name.split("_") for name, _ in found), strict=True)
    pool = classified(
        (waves, torch.tensor([int(digit) for digit in digits])), checksum_of("free_spoken_digits", folder)
    )
    return Pool(pool.rows, None, {**pool.groups, "group": np.unique(speakers, return_inverse=True)[1]}, pool.checksum)


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
    parts = [comments(path) for path in _checked("go_emotions", folder)]
    texts, labels, _ = zip(*(comment for part in parts for comment in part), strict=True)
    targets = torch.zeros(len(texts), LABELS)
    for row, present in enumerate(labels):
        targets[row, present] = 1
    first = _large(np.array([present[0] for present in labels]), least=1000)
    rows = tokens(list(texts)), targets
    return Pool(rows, len(parts[0]), {"class": first}, checksum_of("go_emotions", folder))


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


def _checked(name: str, folder: Path | None) -> list[Path]:
    """The files of a data set, those for training first and the test's last."""
    files = sorted(files_of(name, folder), key=lambda file: (Path(file).stem != "train", Path(file).stem == "test"))
    return [verified(file, folder) for file in files]


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
