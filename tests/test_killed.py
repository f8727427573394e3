"""Killed at any moment, on one process and on two, a run ends at the same bits as one that nothing disturbed."""

import random

import pytest
import torch

from tests import killing


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments(processes, tmp_path):
    expected = killing.result_of(tmp_path / "undisturbed", tmp_path / "expected.safetensors", processes)
    folder, result, chance = tmp_path / "kept", tmp_path / "result.safetensors", random.Random(processes)
    kills = killing.killed(folder, result, chance, 6, processes)
    found = killing.result_of(folder, result, processes)
    assert kills.done >= 3
    assert kills.in_writing
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [path.name for path in folder.iterdir()] == ["finished"]
