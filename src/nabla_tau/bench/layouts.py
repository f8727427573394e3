"""Rows of GoEmotions, Free Spoken Digits and Location-30: from Parquet, or as their authors lay them out."""

import hashlib
import wave
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTENTS = {
    "free_spoken_digits/recordings": "8f387ba4367d1617752d2014e81a287db3bb99cec8ae9000a20db4acde95bd18",
    "go_emotions/train.tsv": "a5445a1c154ce005677e5fe2365e6844ddf05e375ac37d4bd5594dc7e02f2e55",
    "go_emotions/dev.tsv": "797eed27e19c1e05fdb8b3d704f1c742db8df7e17474e0e55bf8bd0c943c92c6",
    "go_emotions/test.tsv": "4de47e904a450fa3de9a75afed35b321f4c359d1b9092bba6336d83a7dfb98e5",
    "location30/bangkok": "1117cb35a885ca23670a31bd4bae9aa4c942a92640922038879a3f2fa5d0c770",
}
"""`contents` of each file (or folder) that is read where a set's Parquet files are missing.

Nobody publishes a checksum of these files; the digests are those of the same rows in the Parquet conversions.
"""

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")

RECORDINGS = tuple(
    f"{digit}_{speaker}_{index}.wav"
    for index in (*range(5, 50), *range(5))
    for digit in range(10)
    for speaker in SPEAKERS
)
"""Files of the folder of recordings in the order of the Parquet: those for training first, the test's 0-4 last."""

Comment = tuple[str, list[int], str]
Recording = tuple[str, NDArray[np.int16]]
Place = tuple[int, list[int]]


def parts_of(name: str) -> tuple[str, ...]:
    """The files that a name stands for: itself, or all of a folder of recordings.

    Example:
        >>> parts_of("location30/bangkok"), len(parts_of("free_spoken_digits/recordings"))
        (('location30/bangkok',), 3000)
    """
    folder = name.endswith("/recordings")
    return tuple(f"{name}/{recording}" for recording in RECORDINGS) if folder else (name,)


def comments(path: Path) -> list[Comment]:
    r"""Text, sorted labels and id of each comment in a file of GoEmotions.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "dev.tsv")
        ...     _ = path.write_text("Well said.\t4,0\teebbqej\n")
        ...     comments(path)
        [('Well said.', [0, 4], 'eebbqej')]
    """
    if path.suffix == ".parquet":
        table = _table(path)
        return list(zip(*(table[name].to_pylist() for name in ("text", "labels", "id")), strict=True))
    rows = [line.split("\t") for line in _lines(path)]
    return [(text, sorted(map(int, labels.split(","))), name) for text, labels, name in rows]


def recordings(path: Path) -> list[Recording]:
    """Name, `{digit}_{speaker}_{index}.wav`, and samples of each recording in a Parquet file or a folder.

    Example:
        >>> recordings(Path("nowhere"))
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'nowhere/0_george_5.wav'
    """
    if path.suffix != ".parquet":
        return [(name, _samples(path / name)) for name in RECORDINGS]
    table = _table(path)
    keys = zip(*(table[name].to_pylist() for name in ("label", "speaker", "index")), strict=True)
    names = [f"{digit}_{SPEAKERS[speaker]}_{index}.wav" for digit, speaker, index in keys]
    return list(zip(names, table["waveform"].to_numpy(), strict=True))


def places(path: Path) -> list[Place]:
    r"""Label from 0 and features of each row of Location-30.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "bangkok")
        ...     _ = path.write_text('"13",0,1\n')
        ...     places(path)
        [(12, [0, 1])]
    """
    if path.suffix == ".parquet":
        table = _table(path)
        return list(zip(table["label"].to_pylist(), table["features"].to_pylist(), strict=True))
    rows = [[int(field.strip('"')) for field in line.split(",")] for line in _lines(path)]
    return [(label - 1, features) for label, *features in rows]


def contents(path: Path) -> str:
    r"""SHA-256 over the sorted SHA-256 of every row: the same for all ways to write the same rows.

    Args:
        path: of a name in `CONTENTS`, or of a Parquet file of one of its sets.

    Raises:
        ValueError: if it holds no such rows.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "location30", "bangkok")
        ...     path.parent.mkdir()
        ...     digests = [path.write_text(rows) and contents(path) for rows in ('"3",1\n4,0\n', "4,0\n3,1\n", "4,1\n")]
        >>> digests[0] == digests[1], digests[0] == digests[2]
        (True, False)
    """
    try:
        rows = sorted(hashlib.sha256(row).hexdigest() for row in _encoded(path))
    except (ValueError, EOFError, wave.Error) as error:
        raise ValueError(
            f"Expected {path} to hold rows of {path.parent.name}, got something else ({error}): it is damaged or of "
            "another version; get it again as docs/benchmark.md says."
        ) from error
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def _encoded(path: Path) -> Iterable[bytes]:
    if path.parent.name == "go_emotions":
        return (f"{text}\t{labels}\t{name}".encode() for text, labels, name in comments(path))
    if path.parent.name == "location30":
        return (f"{label}\t{features}".encode() for label, features in places(path))
    return (name.encode() + samples.astype("<i2").tobytes() for name, samples in recordings(path))


def _samples(path: Path) -> NDArray[np.int16]:
    with wave.open(str(path), "rb") as file:
        found = file.getnchannels(), file.getsampwidth(), file.getframerate()
        if found != (1, 2, 8000):
            raise ValueError(f"{path.name} has {found[0]} channels of {8 * found[1]} bits at {found[2]} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _table(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)
