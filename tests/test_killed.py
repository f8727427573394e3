"""Killed at any moment, on one process and on two, a run ends at the same bits as one that nothing disturbed."""

import contextlib
import itertools
import os
import random
import time

import pytest
import torch

from killing import LIMIT, Run, killed, names, result_of, start


@pytest.mark.parametrize(
    "run",
    [Run(rows=200), Run(rows=200, processes=2), Run(rows=200, method="finetune", in_place=True, streamed=True)],
    ids=["one process", "two processes", "in place with a stream"],
)
def test_killed_at_random_moments(run, tmp_path):
    expected = result_of(run, None, tmp_path / "expected.safetensors")
    folder, result = tmp_path / "kept", tmp_path / "result.safetensors"
    kills, chance = [], random.Random(run.processes)
    while not result.exists() and (len(kills) < 5 or not any(one.half_written for one in kills)):
        kills += killed(run, folder, result, chance, 1)
    found = result_of(run, folder, result)
    assert len(kills) >= 3
    assert any(one.half_written for one in kills)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [path.name for path in folder.iterdir()] == ["finished"]


def test_where_one_process_cannot_write_none_hangs(tmp_path):
    run, folder, result = Run(processes=2), tmp_path / "kept", tmp_path / "result.safetensors"
    running = start(run, folder, result)
    while not any(name.startswith("step-") for name in names(folder)):
        time.sleep(0.001)
    for number in itertools.count():  # until a file stands in the folder's place
        with contextlib.suppress(OSError):
            folder.rename(tmp_path / f"away-{number}")
            os.close(os.open(folder, os.O_CREAT | os.O_EXCL))
        if folder.is_file():
            break
    for process in running:
        process.join(LIMIT)
    assert [process.exitcode for process in running] == [1, 1]
    assert not result.exists()
