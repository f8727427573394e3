"""The files of the data sets below `NABLA_TAU_DATA`, and that they hold what they should."""

import hashlib
import os
from pathlib import Path

from nabla_tau.bench.layouts import CONTENTS, contents, parts_of

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
        name: one of `CHECKSUMS`, of `BATCHES` or of `CONTENTS`.
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
    for file in parts_of(name):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"Expected the file {file} below {folder}, got none: docs/benchmark.md says where it comes from."
            )
    expected, found = _expected(name), contents(path) if name in CONTENTS else _digest(name, path)
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
    folder = Path(os.environ.get(FOLDER, "")) if folder is None else folder
    names, rows = (tuple(name for name in known if name.startswith(f"{data_set}/")) for known in (CHECKSUMS, CONTENTS))
    others = tuple(BATCHES.get(data_set, rows))
    own = any((folder / name).exists() for name in others) and not (folder / names[0]).is_file()
    return others if own else names


def _digest(name: str, path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256" if name in CHECKSUMS else "md5").hexdigest()


def _expected(name: str) -> str:
    batches = {name: md5 for files in BATCHES.values() for name, md5 in files.items()}
    return {**CHECKSUMS, **batches, **CONTENTS}[name]


def checksum_of(data_set: str, folder: Path | None = None) -> str:
    """One for all files of a data set.

    Example:
        >>> checksum_of("location30", Path("nowhere"))[:8]
        'a256b886'
    """
    return hashlib.sha256("".join(map(_expected, files_of(data_set, folder))).encode()).hexdigest()
