"""Killed at any moment, on one process and on two, a run ends at the same bits as one that nothing disturbed."""

import random

import pytest
import torch

from killing import Run, killed, result_of


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments(processes, tmp_path):
    run = Run(processes=processes)
    expected = result_of(run, None, tmp_path / "expected.safetensors")
    folder, result = tmp_path / "kept", tmp_path / "result.safetensors"
    kills = killed(run, folder, result, random.Random(processes), 7)
    found = result_of(run, folder, result)
    assert len(kills) >= 3
    assert any(one.half_written for one in kills)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [path.name for path in folder.iterdir()] == ["finished"]
