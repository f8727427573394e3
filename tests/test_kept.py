"""`plan` says what a folder of checkpoints holds, and leaves it as it is."""

import os

import pytest

from nabla_tau import methods, unlearn
from nabla_tau.engine import start_engine
from nabla_tau.locking import alone_in
from nabla_tau.planning import plan
from nabla_tau.unlearning import Request
from tests.methods.cases import case

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")


class Killed(Exception):  # noqa: N818
    pass


def make(folder, **changes):
    found = case("mlp")
    return {
        "model": found.model,
        **found.sets(),
        "method": methods.nabla_tau_published,
        "checkpoint": folder,
        **changes,
    }


def on_step(done, total):
    if done == 9:
        raise Killed


def content(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def looked(folder, **changes):
    """What a plan says, once it is made sure that it changed nothing."""
    before = content(folder)
    planned = plan(Request(**make(folder, **changes)))
    assert content(folder) == before
    assert planned.as_dict()["checkpoint"]["state"] == planned.checkpoint.state
    assert f"checkpoint {planned.checkpoint}" in str(planned)
    return planned.checkpoint


@pytest.fixture
def folder(tmp_path):
    with pytest.raises(Killed):
        Request(**make(tmp_path, checkpoint_every=0), on_step=on_step).run()
    return tmp_path


def test_nothing(tmp_path):
    assert plan(Request(**make(None))).checkpoint is None
    assert looked(tmp_path).state == "nothing"
    assert "a run would begin anew" in str(looked(tmp_path / "not there"))
    assert not (tmp_path / "not there").exists()


def test_a_run_that_was_cut_off(folder):
    found = looked(folder)
    steps = unlearn(**make(None)).settings["steps"]
    assert (found.state, found.step, found.steps) == ("run", 8, steps)
    assert f"a run of this request at step 8 of {steps} planned in {folder}: the same call continues it" in str(found)


def test_a_finished_one(folder):
    unlearn(**make(folder))
    found = looked(folder)
    assert found.state == "finished"
    assert "the finished result of this request" in str(found)
    os.remove(folder / "finished" / "model.safetensors")
    assert looked(folder).state == "damaged"


def test_one_of_another_request_and_what_differs(folder):
    found = looked(folder, seed=1)
    assert found.state == "another request"
    assert len(found.remarks) == 1
    assert "expected seed 0, as of the run kept in" in str(found)
    assert looked(folder, batch_size=9).state == "another request"


def test_damaged_ones(folder):
    os.remove(folder / "step-0000000008" / "model.safetensors")
    found = looked(folder)
    assert (found.state, found.step) == ("run", 7)
    assert "step-0000000008/model.safetensors is missing: the one before it" in found.remarks[0]
    os.remove(folder / "step-0000000007" / "manifest.json")
    found = looked(folder)
    assert found.state == "damaged"
    assert "step-0000000007/manifest.json is missing" in str(found)


def test_one_that_works_now(folder):
    with alone_in(folder, start_engine("cpu")):
        found = looked(folder)
        assert f"process {os.getpid()} on" in found.held_by
        assert f"{found.held_by} works in it now, and the call would be refused" in str(found)
    assert looked(folder).held_by == ""
