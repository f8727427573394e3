"""Cells on disk: measured once, shared models, killed runs that go on, workers and Ray, failures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from nabla_tau.bench import cells as cells_module
from nabla_tau.bench import on_ray, provenance
from nabla_tau.bench.cells import Bench, Cell
from nabla_tau.bench.measuring import measure_slice, modules_of
from nabla_tau.bench.reading import read_groups
from nabla_tau.bench.running import run_cells
from nabla_tau.bench.suites import ALL, cells_of
from nabla_tau.bench.tables import tables
from nabla_tau.bench.versions import SAME
from nabla_tau.cli import app
from nabla_tau.errors import InvalidRequest, NotApplicable
from nabla_tau.own_code import file_of, imported
from tests.conftest import require

CPU = torch.device("cpu")
METHODS = ("finetune", "neggrad")
SEEDS = "0,1,2,3,4,5"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(cells, folder of results, where): the smoke suite, one seed, two methods."""
    folder = tmp_path_factory.mktemp("bench")
    bench, cells = Bench(folder / "models", CPU), cells_of("smoke", methods=METHODS, seeds=(0,))
    outcome = run_cells(cells, folder / "results", bench)
    assert outcome.statuses == {"done": 5}
    return cells, folder / "results", bench


def files(folder, pattern="*.json"):
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern)}


def read(folder, cell):
    return json.loads((folder / cell.path).read_text(encoding="utf-8"))


def test_a_cell_holds_what_its_figures_depend_on(measured):
    cells, results, _ = measured
    for cell in cells:
        record = read(results, cell)
        assert {"versions", "commit", "dirty", "code", "device", "recipe", "seconds", "steps"} <= set(record)
        assert record["cell"] == vars(cell)
    settings = read(results, cells[-2])["unlearning"][0]["settings"]
    assert (settings["method"], settings["seed"]) == ("finetune", 0)


def test_models_are_trained_once_and_shared(measured):
    _, _, bench = measured
    assert len(files(bench.models, "*.safetensors")) == 3  # the original and two retrained


def test_finished_cells_are_not_measured_again(measured):
    cells, results, bench = measured
    before = files(results), files(bench.models, "*")
    said = []
    outcome = run_cells(cells, results, bench, say=said.append)
    assert (outcome.found, said) == (5, [])
    assert (files(results), files(bench.models, "*")) == before


def test_finished_cells_of_other_code_are_counted_unless_it_gives_the_same_numbers(measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path / "results")
    path = tmp_path / "results" / next(cell.path for cell in cells if cell.method == "finetune")
    now = json.loads(path.read_text())
    path.write_text(json.dumps({**now, "method_code": "0a"}))
    outcome = run_cells(cells, tmp_path / "results", bench)
    assert (outcome.found, outcome.other_code, outcome.other_method) == (len(cells), 0, 1)
    older, newer = ({"code": now["code"], "method_code": code, "commit": "c"} for code in ("0a", now["method_code"]))
    entry = {"task": now["cell"]["task"], "method": "finetune", "older": older, "newer": newer, "cells": []}
    (tmp_path / "results" / SAME).write_text(json.dumps({"same": [entry]}))
    assert run_cells(cells, tmp_path / "results", bench).other_method == 0
    path.write_text(json.dumps({**now, "code": "0a"}))
    assert run_cells(cells, tmp_path / "results", bench).other_code == 1


def test_no_cell_is_measured_beside_references_of_other_code(measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path / "results")
    path = tmp_path / "results" / next(cell.path for cell in cells if cell.method == "retrained-1")
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "0a"}))
    next((tmp_path / "results").rglob("neggrad.json")).unlink()
    before = files(tmp_path / "results")
    with pytest.raises(InvalidRequest, match=r"^1 problem(?s:.*)got 1 cells by other code(?s:.*)bench same"):
        run_cells(cells, tmp_path / "results", bench)
    assert files(tmp_path / "results") == before


def test_no_method_is_measured_beside_cells_of_another_version(measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path / "results")
    path = tmp_path / "results" / next(cell.path for cell in cells if cell.method == "finetune")
    path.write_text(json.dumps({**json.loads(path.read_text()), "method_code": "0a"}))
    before = files(tmp_path / "results")
    with pytest.raises(InvalidRequest, match=r"1 problem(?s:.*)finetune on noisy_digits(?s:.*)1 by another version"):
        run_cells(cells_of("smoke", methods=METHODS, seeds=(1,)), tmp_path / "results", bench)
    assert files(tmp_path / "results") == before


def test_damaged_versions_are_found_before_anything_runs_and_are_one_problem(measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / SAME).write_text('{"same": [')
    next((tmp_path / "results").rglob("neggrad.json")).unlink()
    before = files(tmp_path / "results")
    for read_them in (lambda folder: run_cells(cells, folder, bench), read_groups):
        with pytest.raises(InvalidRequest, match=f"^1 problem(?s:.*){SAME}"):
            read_them(tmp_path / "results")
    assert files(tmp_path / "results") == before


def test_the_smoke_suite_measures_every_method(measured, tmp_path):
    _, results, bench = measured
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    cells = cells_of("smoke")
    outcome = run_cells(cells, tmp_path, bench)
    assert (outcome.found, outcome.statuses) == (5, {"done": len(cells)})
    text = tables(read_groups(tmp_path))
    assert all(f"| {name} | 1 |" in text for name in ALL)


def test_row_numbers_are_those_of_the_cells(measured):
    cells, results, _ = measured
    split = json.loads((results / cells[0].folder.parent / "rows.json").read_text())
    (forgotten,) = json.loads((results / cells[0].folder / "rows.json").read_text())["forget"]
    samples = read(results, cells[0])["samples"]
    assert {"forget": len(forgotten), **{name: len(rows) for name, rows in split.items()}} == samples
    assert set(forgotten) <= set(split["train"])


def test_a_killed_run_goes_on(measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(bench.models, tmp_path / "models")
    command = [sys.executable, "-m", "nabla_tau", "bench", "run", "smoke", "--methods", ",".join(METHODS)]
    command += ["--seeds", "0"]
    command += ["--output", str(tmp_path / "results"), "--models", str(tmp_path / "models"), "--device", "cpu"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    first = tmp_path / "results" / cells[1].path
    while not first.exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = files(tmp_path / "results")
    assert all(json.loads(path.read_text()) for path in before)
    assert len(before) < 7  # five cells and two files of row numbers
    outcome = run_cells(cells, tmp_path / "results", Bench(tmp_path / "models", CPU))
    assert outcome.statuses == {"done": 5}
    after = files(tmp_path / "results")
    kept = [path for path in before if path.name != "rows.json"]
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert read(tmp_path / "results", cells[-1])["audit"] == read(results, cells[-1])["audit"]


@pytest.mark.parametrize(
    ("how", "ends", "says"),
    [
        (signal.SIGINT, 130, "interrupted: finished cells are kept, the same command goes on.\n"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_workers_end_with_the_run_that_started_them(how, ends, says, measured, tmp_path):
    shutil.copytree(measured[2].models, tmp_path / "models")  # so that the first cell is there at once
    command = [sys.executable, "-m", "nabla_tau", "bench", "run", "smoke", "--methods", "neggrad", "--seeds", SEEDS]
    command += ["--output", str(tmp_path / "results"), "--models", str(tmp_path / "models"), "--workers", "2"]
    run = subprocess.Popen(
        [*command, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a job in the background ignores it
    )
    while not list(tmp_path.rglob("original.json")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(how)  # to this process alone
    _, said = run.communicate(timeout=600)  # workers hold its pipes as long as they live
    assert (run.returncode, says in said) == (ends, True), said
    assert len(list(tmp_path.rglob("neggrad.json"))) < len(SEEDS.split(","))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cell_from_another_original_is_refused(workers, measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    record = read(tmp_path, cells[0])
    record["audit"]["fingerprint"] = "of a model that another processor trained"
    (tmp_path / cells[0].path).write_text(json.dumps(record))
    for cell in cells[1:]:
        (tmp_path / cell.path).unlink()
    others = [Cell("quick", "diabetes", 0, "random-0.15", "random_label")] if workers > 1 else []  # not applicable
    with pytest.raises(InvalidRequest, match=r"1\. results: expected finetune to start from the original model of"):
        run_cells([*cells, *others], tmp_path, bench, workers=workers)
    assert not (tmp_path / cells[-2].path).exists()


def same(folder, other, cells):
    for cell in cells:
        assert read(folder, cell)["audit"] == read(other, cell)["audit"]


def test_workers_measure_what_one_process_measures(measured, tmp_path):
    cells, results, bench = measured
    both = [cells[0], Cell("quick", "diabetes", 0, "random-0.15", "original")]
    shutil.copytree(bench.models, tmp_path / "models")
    outcome = run_cells(both, tmp_path, Bench(tmp_path / "models", CPU), workers=2)
    assert outcome.statuses == {"done": 2}
    same(tmp_path, results, cells[:1])


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_measures_what_one_process_measures(measured, tmp_path):
    ray = require("ray")
    cells, results, bench = measured
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        outcome = run_cells(cells[:1], tmp_path, bench, ray_address=ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()
    assert outcome.statuses == {"done": 1}
    same(tmp_path, results, cells[:1])


@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_of_ray_is_said(measured, tmp_path, monkeypatch):
    ray = require("ray")
    cells, _, bench = measured

    def lost(cells, bench):
        os._exit(1)
        yield

    monkeypatch.setattr(on_ray, "_measure", lost)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(OSError, match="Expected Ray's workers to finish, got WorkerCrashedError"):
            run_cells(cells[:1], tmp_path, bench, ray_address=ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def test_with_ray_the_device_is_named(tmp_path):
    result = CliRunner().invoke(app, ["bench", "run", "smoke", "--ray", "auto", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "expected cpu or cuda" in result.output


def test_a_failed_cell_is_recorded_and_the_others_go_on(measured, tmp_path, monkeypatch):
    _, _, bench = measured

    def broken(problem):
        raise RuntimeError("out of luck")
        yield

    monkeypatch.setitem(cells_module.UNLEARNING, "finetune", broken)
    options = ["smoke", "--seeds", "0", "--methods", "finetune,neggrad", "--device", "cpu"]
    options += ["--output", str(tmp_path), "--models", str(bench.models)]
    result = CliRunner().invoke(app, ["bench", "run", *options])
    assert result.exit_code == 1
    assert result.output.startswith("5 cells to measure, 0 are there;")
    assert "out of luck" in result.output
    cells = cells_of("smoke", methods=METHODS, seeds=(0,))
    assert [read(tmp_path, cell)["status"] for cell in cells[-2:]] == ["failed", "done"]
    monkeypatch.undo()
    assert CliRunner().invoke(app, ["bench", "run", *options]).exit_code == 1  # it stays, until asked for
    again = CliRunner().invoke(app, ["bench", "run", *options, "--retry-failed"])
    assert (again.exit_code, again.output.partition(";")[0]) == (0, "1 cells to measure, 4 are there")


def test_a_method_that_refuses_is_not_applicable(tmp_path):
    cells = [c for c in cells_of("domains", tasks=("diabetes",), seeds=(0,)) if c.forget == "random-0.15"]
    chosen = [cell for cell in cells if cell.method in ("random_label",)]
    found = dict(measure_slice(chosen, Bench(tmp_path, CPU)))
    assert found[chosen[0].path]["status"] == "not applicable"
    assert "got regression" in found[chosen[0].path]["reason"][0]
    assert files(tmp_path, "*") == {}  # it is known before anything is trained


def test_what_is_too_little_to_be_audited_is_left_out():
    quick, full = ({cell.forget for cell in cells_of("beyond", scale=scale)} for scale in ("quick", "full"))
    assert full - quick == {"random-0.001"}


def test_a_fraction_is_one_however_often_and_however_it_is_written():
    assert cells_of("beyond", fractions=("0.3", "0.30")) == cells_of("beyond", fractions=("0.30",))


def test_seeds_and_tasks_are_one_however_often_they_are_named():
    assert cells_of("domains", tasks=("diabetes",) * 2, seeds=(1, 1)) == cells_of(
        "domains", tasks=("diabetes",), seeds=(1,)
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_cells_of_another_recipe_or_data_are_refused(seed, measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    other = replace(cells[0], seed=seed)  # of any seed: they would stand in one mean
    (tmp_path / other.path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / other.path).write_text(json.dumps({**read(results, cells[0]), "cell": vars(other), "key": "another"}))
    with pytest.raises(InvalidRequest, match=r"got 1 others .*choose another --output"):
        run_cells(cells, tmp_path, bench)


def test_damaged_cells_are_named_before_anything_runs(measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    (tmp_path / cells[0].folder / "ssd.json").write_text('{"cell": {"task"')
    (tmp_path / cells[0].folder / "scrub.json").write_text('{"cell": {}, "key": "k", "status": "done", "code": "0a"}')
    (tmp_path / cells[-1].path).unlink()
    with pytest.raises(InvalidRequest, match="2 problems found"):
        run_cells(cells, tmp_path, bench)
    assert not (tmp_path / cells[-1].path).exists()


@pytest.mark.parametrize("damage", ["{", '{"forget": [[0, 1]]}'])
def test_a_run_about_other_rows_than_the_folder_says_stops_before_a_cell(damage, measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    (tmp_path / cells[-1].path).unlink()
    rows = tmp_path / cells[-1].folder / "rows.json"
    rows.write_text(damage)
    with pytest.raises(InvalidRequest, match=r"expected in .*rows\.json the numbers of the rows"):
        run_cells(cells, tmp_path, bench)
    assert (rows.read_text(), (tmp_path / cells[-1].path).exists()) == (damage, False)
    rows.unlink()
    run_cells(cells, tmp_path, bench)
    assert json.loads(rows.read_text()) == json.loads((results / cells[-1].folder / "rows.json").read_text())


def test_a_cell_is_measured_on_one_thread(measured, tmp_path):
    cells, _, bench = measured
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_cells(cells[:1], tmp_path, bench)
        assert (read(tmp_path, cells[0])["threads"], torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["paper-cifar"], "did you mean 'paper-cifar10'?"),
        (["smoke", "--methods", "srub", "--scale", "quik", "--fractions", "2"], "3 problems found"),
        (["domains", "--tasks", "location31"], "did you mean 'location30'?"),
        (["smoke", "--methods", "mine.py:mine"], "benchmarks/own_method.py sets your own beside them"),
        (
            ["beyond", "--fractions", "0.01,0.004"],
            "expected at least 20 rows to forget and to keep, which the audit needs, got 16 of 4000 rows to forget",
        ),
        (["beyond", "--fractions", "0.999"], "got 4 of 4000 rows to keep"),
        (["domains", "--seeds", "0"], "location30/data.parquet below"),
    ],
)
def test_bad_input_is_named_before_anything_runs(options, said, tmp_path, monkeypatch):
    monkeypatch.setenv("NABLA_TAU_DATA", str(tmp_path))
    result = CliRunner().invoke(app, ["bench", "run", *options, "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert said in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--methods", "--fractions", "--tasks", "--seeds"])
def test_an_empty_list_is_not_everything(option):
    result = CliRunner().invoke(app, ["bench", "run", "smoke", option, ","])
    assert result.exit_code == 2
    assert f"Invalid value for {option}" in result.output


@pytest.mark.parametrize("option", ["--output", "--models"])
def test_a_folder_that_cannot_be_written_to_is_named_before_anything_runs(option, tmp_path):
    (tmp_path / "file").write_text("")
    folders = {"--output": tmp_path / "out", "--models": tmp_path / "models", option: tmp_path / "file" / "below"}
    named = [str(part) for pair in folders.items() for part in pair]
    result = CliRunner().invoke(app, ["bench", "run", "smoke", *named])
    assert result.exit_code == 1
    assert f"{option[2:]}: expected a folder that can be made and written to, got {tmp_path / 'file'}" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_models_are_named_before_anything_runs(measured, tmp_path):
    _, _, bench = measured
    whole = sorted(bench.models.glob("*.safetensors"))
    for path in whole:
        shutil.copy(path, tmp_path)
    for path in whole[:2]:
        os.truncate(tmp_path / path.name, path.stat().st_size - 1)
    result = CliRunner().invoke(app, ["bench", "run", "smoke", "--models", str(tmp_path), "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "2 problems found" in result.output
    assert all(f"models: expected weights in {tmp_path / path.name}" in result.output for path in whole[:2])


def test_a_stored_model_with_other_weights_is_not_used(measured, tmp_path):
    cells, _, bench = measured
    shutil.copytree(bench.models, tmp_path / "models")
    for path in (tmp_path / "models").glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # of the last number
        path.write_bytes(content)
    assert run_cells(cells, tmp_path / "out", Bench(tmp_path / "models", CPU)).statuses == {"failed": len(cells)}
    (reason,) = read(tmp_path / "out", cells[0])["reason"]
    assert reason.startswith("models: expected the weights that were stored in ")


def test_what_breaks_on_the_way_is_a_failure_and_no_refusal(measured, tmp_path, monkeypatch):
    cells, _, bench = measured

    def broken(problem):
        raise ValueError("Input contains NaN.")
        yield

    def unwilling(problem):
        raise NotApplicable("Expected more.")
        yield

    found = {}
    for method in (broken, unwilling):
        monkeypatch.setitem(cells_module.UNLEARNING, "finetune", method)
        (cell,) = [cell for cell in cells if cell.method == "finetune"]
        found[method.__name__] = dict(measure_slice([cell], bench))[cell.path]["status"]
    assert found == {"broken": "failed", "unwilling": "not applicable"}


def test_a_search_is_in_another_version_where_the_default_that_it_begins_with_is(monkeypatch):
    plain, searched = (modules_of(Cell("quick", "cifar10", 0, "class", name)) for name in ("ssd", "ssd+tuned"))
    assert provenance.method_code(*plain) != provenance.method_code(*searched)
    assert {"trials.py", "course.py"} <= {path.name for module in searched for path in imported(file_of(module))}


def test_a_cell_of_a_method_that_is_gone_stays(measured, tmp_path):
    cells, results, bench = measured
    shutil.copytree(results, tmp_path / "results")
    gone = replace(cells[-1], method="gone")
    record = {**read(results, cells[-1]), "cell": vars(gone)}
    (tmp_path / "results" / gone.path).write_text(json.dumps(record))
    assert run_cells(cells, tmp_path / "results", bench).found == len(cells)


def test_an_installed_package_has_no_commit_of_the_repository_around_it(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "__init__.py").touch()
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    found = provenance.provenance.__wrapped__()
    assert (found["commit"], found["dirty"]) == (None, None)


def test_a_method_may_change_without_the_others():
    measuring, ssd = provenance.measuring_code(), provenance.method_code("nabla_tau.methods.ssd")
    salun = {path.name for path in imported(file_of("nabla_tau.methods.salun"))}
    assert {"salun.py", "random_label.py", "relabelling.py", "problem.py"} <= salun
    assert provenance.METHODS not in {path.parent for path in provenance._measuring()}
    judging = {path.name for path in provenance._measuring()}
    assert {"audit.py", "training.py", "losses.py", "slices.py"} <= judging
    assert not {"unlearning.py", "problem.py", "alpha.py"} & judging
    assert len({measuring, ssd, provenance.method_code("nabla_tau.methods.salun")}) == 3


def test_a_change_of_what_carries_methods_out_changes_all_of_them(monkeypatch):
    measuring, ssd = provenance.measuring_code(), provenance.method_code("nabla_tau.methods.ssd")
    provenance.measuring_code.cache_clear()
    provenance.method_code.cache_clear()
    digested = provenance.code_digest
    monkeypatch.setattr(
        provenance, "code_digest", lambda paths: digested(path for path in paths if path.name != "problem.py")
    )
    assert provenance.measuring_code() == measuring
    assert provenance.method_code("nabla_tau.methods.ssd") != ssd
    provenance.method_code.cache_clear()
