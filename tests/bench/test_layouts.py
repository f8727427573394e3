"""Data sets as their authors lay them out: the same rows as in Parquet, or a refusal."""

import wave

import numpy as np
import pytest
import torch

from nabla_tau.bench import data, layouts
from nabla_tau.bench.cells import Bench, Cell, key_of
from nabla_tau.bench.files import CHECKSUMS, checksum_of, files_of, verified
from nabla_tau.bench.running import run_cells
from nabla_tau.errors import InvalidRequest


def write_go_emotions(source, folder):
    for ours, theirs in {"train": "train", "validation": "dev", "test": "test"}.items():
        rows = layouts.comments(source / f"{ours}.parquet")
        lines = [f"{text}\t{','.join(map(str, labels))}\t{name}\n" for text, labels, name in rows]
        (folder / f"{theirs}.tsv").write_text("".join(lines), encoding="utf-8")


def write_recording(path, samples, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2").tobytes())


def write_spoken_digits(source, folder):
    (folder / "recordings").mkdir()
    for part in ("test", "train"):
        for name, samples in layouts.recordings(source / f"{part}.parquet"):
            write_recording(folder / "recordings" / name, samples)


def write_location30(source, folder):
    rows = layouts.places(source / "data.parquet")
    lines = [f'"{label + 1}",{",".join(map(str, features))}\n' for label, features in rows]
    (folder / "bangkok").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "read", "write"),
    [
        ("go_emotions", data.go_emotions, write_go_emotions),
        ("free_spoken_digits", data.spoken_digits, write_spoken_digits),
        ("location30", data.location30, write_location30),
    ],
)
def test_the_authors_layout_gives_the_pool_of_the_parquet(data_folder, tmp_path, monkeypatch, name, read, write):
    monkeypatch.setattr(data, "tokens", np.array)  # the texts themselves: what they are cut into takes long
    (tmp_path / name).mkdir()
    write(data_folder / name, tmp_path / name)
    expected, found = read(data_folder), read(tmp_path)
    assert np.array_equal(found.rows[0], expected.rows[0])
    assert torch.equal(found.rows[1], expected.rows[1])
    assert found.rows[1].dtype == expected.rows[1].dtype
    assert found.trainable == expected.trainable
    assert found.groups.keys() == expected.groups.keys()
    assert all(np.array_equal(found.groups[kind], expected.groups[kind]) for kind in expected.groups)
    assert found.checksum != expected.checksum == checksum_of(name, data_folder)


def test_the_parquet_is_in_the_order_of_the_recordings(data_folder):
    parts = [data_folder / "free_spoken_digits" / f"{part}.parquet" for part in ("train", "test")]
    assert tuple(name for part in parts for name, _ in layouts.recordings(part)) == layouts.RECORDINGS


def test_cells_of_one_layout_are_not_those_of_the_other(tmp_path):
    cell, bench = Cell("quick", "location30", 0, "class", "scrub"), Bench(tmp_path, torch.device("cpu"), tmp_path)
    parquet = key_of(cell, bench)
    (tmp_path / "location30").mkdir()
    (tmp_path / "location30" / "bangkok").touch()
    assert files_of("location30", tmp_path) == ("location30/bangkok",)
    assert key_of(cell, bench) != parquet
    (tmp_path / "location30" / "data.parquet").touch()
    assert files_of("location30", tmp_path) == ("location30/data.parquet",)
    assert key_of(cell, bench) == parquet


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "free_spoken_digits", "go_emotions", "location30"])
def test_a_folder_with_neither_is_asked_for_the_parquet(tmp_path, name):
    assert files_of(name, tmp_path) == tuple(file for file in CHECKSUMS if file.startswith(f"{name}/"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('"1",0,1\n', "bangkok to have the checksum 1117.*docs/benchmark.md"),
        ("", "bangkok to hold rows of location30, got something else .*docs/benchmark.md"),
    ],
)
def test_other_content_is_refused_before_anything_is_trained(tmp_path, rows, message):
    (tmp_path / "location30").mkdir()
    (tmp_path / "location30" / "bangkok").write_text(rows, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        data.location30(tmp_path)
    cell, bench = Cell("quick", "location30", 0, "class", "scrub"), Bench(tmp_path / "m", torch.device("cpu"), tmp_path)
    with pytest.raises(InvalidRequest, match=message):
        run_cells([cell], tmp_path / "results", bench)
    assert not (tmp_path / "m").exists()


def test_the_file_that_is_missing_is_named(tmp_path):
    for folder in ("go_emotions", "free_spoken_digits/recordings"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "go_emotions" / "dev.tsv").write_text("Well said.\t4\teebbqej\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"the file go_emotions/train.tsv below .*docs/benchmark.md"):
        data.go_emotions(tmp_path)
    with pytest.raises(ValueError, match=r"dev.tsv to have the checksum 797e"):
        verified("go_emotions/dev.tsv", tmp_path)
    for name in layouts.RECORDINGS[:-1]:
        (tmp_path / "free_spoken_digits" / "recordings" / name).touch()
    with pytest.raises(FileNotFoundError, match=r"free_spoken_digits/recordings/9_yweweler_4.wav below .*benchmark.md"):
        data.spoken_digits(tmp_path)


def test_recordings_of_another_kind_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "RECORDINGS", ("0_theo_0.wav",))
    path = tmp_path / "free_spoken_digits" / "recordings" / "0_theo_0.wav"
    path.parent.mkdir(parents=True)
    for content in (b"", b"no sound at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"recordings to hold rows of free_spoken_digits, got something else"):
            data.spoken_digits(tmp_path)
    write_recording(path, [1, 2], rate=16000)
    with pytest.raises(ValueError, match=r"0_theo_0.wav has 1 channels of 16 bits at 16000 Hz"):
        data.spoken_digits(tmp_path)
    write_recording(path, [1, 2])
    with pytest.raises(ValueError, match=r"recordings to have the checksum 8f38"):
        data.spoken_digits(tmp_path)
