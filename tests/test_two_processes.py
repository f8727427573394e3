"""Two processes compute what one computes, with nothing padded or repeated."""

import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY
from tests.two_processes import worker


def test_two_processes_compute_what_one_computes(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "unlearning.json").touch()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.run(
        [*command, "--module", worker.__name__, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    refused = [(tmp_path / f"refused-{rank}").read_text() for rank in range(2)]  # neither waits for the other
    assert "Expected a folder without unlearning.json" in refused[0]
    assert "Expected process 0 to write" in refused[1]
    apart, frozen = {}, []
    for number, (name, (allowed, arguments)) in enumerate(worker.cases().items()):
        alone = worker.run(arguments)
        first, second = (load_file(tmp_path / f"{number}-of-process-{rank}.safetensors") for rank in range(2))
        assert len(alone["epochs"])
        assert all(torch.equal(first[key], second[key]) for key in first), name
        difference = max(float((first[key] - alone[key]).abs().max()) for key in alone)
        if not difference <= allowed:
            apart[name] = difference
        if name.endswith("batch norm"):
            assert (first["per process"], alone["per process"]) == (1, 0), name  # settings say so
        if "unused.weight" in alone and not name.startswith("l1_sparse"):  # whose penalty is on every weight
            frozen += [alone["unused.weight"], first["unused.weight"]]
    assert apart == {}
    assert frozen
    assert all((weight == 1).all() for weight in frozen)  # a gradient of zero would have let them decay
