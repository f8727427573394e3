"""Of two runs in one folder the second is refused at once; a kill leaves the folder free."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from killing import LIMIT, Run, end, names, network, result_of, rows, start
from nabla_tau import InvalidRequest, locking, unlearn
from nabla_tau.engine import start_engine
from nabla_tau.locking import LOCK, alone_in

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")


def wait_for(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def sets():
    model = network(rows(20, 0))
    return {"model": model, "forget": rows(5, 1), "retain": rows(15, 2), "validation": rows(9, 3), "device": "cpu"}


@pytest.mark.parametrize("processes", [1, 2])
def test_the_second_of_two_runs_is_refused_at_once_and_a_killed_one_leaves_no_lock(processes, tmp_path):
    run, folder, result = Run(rows=160, processes=processes), tmp_path / "kept", tmp_path / "result.safetensors"
    expected = result_of(run, None, tmp_path / "expected.safetensors")
    running = start(run, folder, result)
    wait_for(lambda: any(name.startswith("step-") for name in names(folder)))
    before = time.monotonic()
    with pytest.raises(
        InvalidRequest, match=rf"no other run works in, got {folder}, where process {running[0].pid} on"
    ):
        unlearn(**sets(), checkpoint=folder)
    assert time.monotonic() - before < 5
    second = start(run, folder, tmp_path / "second.safetensors")
    for process in second:
        process.join(LIMIT)
    assert [process.exitcode for process in second] == [1] * processes
    end(running)
    assert LOCK in names(folder)
    found = result_of(run, folder, result)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert names(folder) == {"finished"}


def test_workers_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from nabla_tau.engine import start_engine
from nabla_tau.locking import alone_in
with alone_in(Path(sys.argv[1]), start_engine("cpu")):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as running:
        worker = int(running.stdout.readline())
        with pytest.raises(InvalidRequest, match=f"process {running.pid} on"), alone_in(tmp_path, start_engine("cpu")):
            pass
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        try:
            with alone_in(tmp_path, start_engine("cpu")):
                os.kill(worker, 0)  # it is still there
        finally:
            os.kill(worker, signal.SIGKILL)


def test_where_there_are_no_locks_nothing_is_refused(tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    engine = start_engine("cpu")
    with monkeypatch.context() as patched:
        patched.setattr(locking.fcntl, "flock", unsupported)
        with alone_in(tmp_path, engine), alone_in(tmp_path, engine):
            assert names(tmp_path) == set()
    monkeypatch.setattr(locking, "fcntl", None)
    with alone_in(tmp_path, engine), alone_in(tmp_path, engine):
        assert names(tmp_path) == set()


def test_a_folder_made_for_nothing_goes_and_one_that_was_there_stays(tmp_path):
    engine = start_engine("cpu")
    with alone_in(tmp_path / "a" / "b", engine):
        assert names(tmp_path / "a" / "b") == {LOCK}
    assert names(tmp_path) == set()
    with alone_in(tmp_path, engine):
        (tmp_path / "mine").touch()
    assert names(tmp_path) == {"mine"}
    with alone_in(tmp_path / "c", engine):
        (tmp_path / "c" / "mine").touch()
    assert names(tmp_path / "c") == {"mine"}
