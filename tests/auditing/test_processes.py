"""Two processes score and report what one does."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.auditing import in_processes
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.run(
        [*command, "-m", "tests.auditing.in_processes", folder],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def arrays(scores):
    return {**scores.bank, "predictions": scores.predictions, "targets": scores.targets, "positions": scores.positions}


def test_scores(of_two):
    """Rounding moves with the size of a batch; rows, their order and their number do not."""
    for name, alone in in_processes.scored().items():
        for found in of_two:
            two, one = arrays(found["scored"][name]), arrays(alone)
            assert two.keys() == one.keys(), name
            assert (two["positions"] == one["positions"]).all(), name
            for key, values in one.items():
                assert np.allclose(two[key], values, rtol=1e-5, atol=1e-7), (name, key)


def entries(data):
    """Every number and word of a report, by its path."""
    if isinstance(data, dict):
        return {f"{key}.{rest}": value for key, part in data.items() for rest, value in entries(part).items()}
    return entries(dict(enumerate(data))) if isinstance(data, list) else {"": data}


def same(one, two):
    return one == pytest.approx(two, rel=1e-4, abs=1e-6) if isinstance(one, float) else one == two


def test_the_report(of_two):
    alone = entries(in_processes.audited())
    for found in of_two:
        two = entries(found["audited"])
        assert two.keys() == alone.keys()
        apart = {path for path, value in alone.items() if not same(value, two[path])}
        assert apart <= {"created.", "settings.audit_device.", "settings.audit_seconds."}
