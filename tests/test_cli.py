"""The command line as a user meets it: commands, exit codes, JSON, and errors that say what to do."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nabla_tau import InvalidRequest, Report, checkpoint, checks, console, load, salt, split, storage, unlearn
from nabla_tau.cli import app
from nabla_tau.console import INTERRUPTED, REFUSED, WITH_RESERVATIONS
from nabla_tau.problem import Problem
from nabla_tau.project import read_project
from nabla_tau.splitting import read_column
from nabla_tau.storage import Unlearned
from nabla_tau.unlearning import Request
from tests import my_project
from tests.conftest import REPOSITORY

PROJECT = Path(my_project.__file__)
DONE = (0, WITH_RESERVATIONS)


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_unlearn_saves_what_it_reports(tmp_path):
    result = run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / "r", "--seed", 5, "--json")
    assert result.exit_code in DONE
    reported = json.loads(result.stdout)
    assert reported["settings"]["seed"] == 5
    assert (result.exit_code == 0) is reported["reached_target"]
    back = load(tmp_path / "r", my_project.network())
    assert back.record() == {key: value for key, value in reported.items() if key != "output"}
    original = my_project.network().state_dict()
    assert not torch.equal(back.model.state_dict()["0.weight"], original["0.weight"])


def test_less_memory_for_the_same_result(tmp_path):
    options = ("--micro-batch-size", 5, "--in-place")
    whole, less = (
        run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / name, "--json", *more)
        for name, more in (("whole", ()), ("less", options))
    )
    settings = json.loads(less.stdout)["settings"]
    assert (settings["micro_batch_size"], settings["in_place"]) == (5, True)
    assert json.loads(whole.stdout)["settings"]["micro_batch_size"] is None
    first, second = (load(tmp_path / name, my_project.network()).model[0].weight for name in ("whole", "less"))
    assert torch.allclose(first, second, rtol=0, atol=1e-3)
    assert not torch.equal(first, my_project.network()[0].weight)


def test_options_that_one_process_and_a_plain_network_cannot_serve_are_refused():
    target = f"{PROJECT}:sets"
    options = ("--shard", "--gradient-checkpointing")
    refused = run("unlearn", target, "--plan", "--json", *options)
    assert refused.exit_code == REFUSED
    told = json.loads(refused.stdout)["error"]
    assert [problem.partition(":")[0] for problem in told] == ["shard", "gradient_checkpointing"]


def test_a_list_of_ids(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id,why\n3,asked\n7,asked\n")
    options = ("--forget", tmp_path / "ids.csv", "--id-column", "user_id")
    result = run("unlearn", "tests.my_project:with_train", *options, "--output", tmp_path / "r", "--json")
    assert result.exit_code in DONE
    assert json.loads(result.stdout)["settings"]["samples"] == {"forget": 4, "retain": 116, "validation": 100}
    (tmp_path / "ids.csv").write_text("user_id\n3\n999\n")
    result = run("unlearn", "tests.my_project:with_train", *options, "--output", tmp_path / "s")
    assert result.exit_code == REFUSED
    assert "'999'" in result.stderr
    assert not (tmp_path / "s").exists()


def test_unknown_ids_are_skipped_where_asked(tmp_path):
    (tmp_path / "ids.csv").write_text(" user_id ,why\n3,asked\n999,asked\n")
    options = ("--forget", tmp_path / "ids.csv", "--id-column", "user_id")
    refused = json.loads(run("unlearn", "tests.my_project:with_train", *options, "--plan", "--json").stdout)
    assert refused["unknown_ids"] == ["999"]
    assert "'999'" in refused["error"][0]
    planned = run("unlearn", "tests.my_project:with_train", *options, "--plan", "--json", "--skip-unknown")
    assert planned.exit_code == 0
    assert json.loads(planned.stdout)["settings"]["skipped_ids"] == 1
    assert "'999'" not in planned.stdout


def test_validation_rows_of_a_forgotten_id_are_left_out_and_told_once(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id\n3\n7\n")
    options = ("--forget", tmp_path / "ids.csv", "--id-column", "user_id")
    result = run("unlearn", "tests.my_project:with_users", *options, "--plan")
    assert "validation 98" in result.stdout
    assert (result.stdout + result.stderr).count("2 rows have an id that is to be forgotten") == 1
    without = run("unlearn", "tests.my_project:with_train", *options, "--plan", "--json")
    said = [text for text in json.loads(without.stdout)["warnings"] if "not looked for" in text]
    assert [text.split(":")[0] for text in said] == ["validation"]
    loader = run("unlearn", "tests.my_project:with_a_loader", *options, "--plan")
    assert "validation: rows with an id that is to be forgotten were not looked for" in loader.stderr.replace("\n", " ")
    as_json = run("unlearn", "tests.my_project:with_a_loader", *options, "--plan", "--json")
    assert "not looked for" in as_json.stderr  # of the plan's own list it is no part
    assert json.loads(as_json.stdout)["steps"] > 0


def test_plan_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("unlearn", f"{PROJECT}:sets", "--plan", "--json")
    assert result.exit_code == 0
    planned = json.loads(result.stdout)
    assert planned["samples"]["forget"] == 20
    assert list(tmp_path.iterdir()) == []
    text = run("unlearn", f"{PROJECT}:sets", "--plan").stdout
    assert re.search(r"steps +\d+ in \d+ passes over the forget set, fewer once .*, up to \d+ while", text)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere.py:sets", "nowhere.py"),
        (f"{PROJECT}:set", "sets, with_train"),
        ("no_such_module:sets", "no_such_module"),
        (f"{PROJECT}:no_dict", "expected a dict"),
        (f"{PROJECT}:incomplete", "'forgotten'"),
        (f"{PROJECT}:with_train", "--forget FILE --id-column NAME"),
        (f"{PROJECT}:broken", ", in broken: KeyError: 'data'"),
        (f"{PROJECT}:needs_something", "called without arguments"),
        (f"{PROJECT}:lossy", ", in loss: RuntimeError: twenty is enough"),
    ],
)
def test_a_target_that_does_not_work(target, words, tmp_path):
    result = run("unlearn", target, "--output", tmp_path / "r")
    assert result.exit_code == REFUSED
    assert words in result.stderr.replace("\n", " ")
    assert not (tmp_path / "r").exists()


def test_a_refusal_as_json(tmp_path):
    result = run("unlearn", f"{PROJECT}:incomplete", "--plan", "--json")
    assert result.exit_code == REFUSED
    assert [text.split(":")[0] for text in json.loads(result.stdout)["error"]] == ["target"] * 4
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (", "SyntaxError"),
        ("import no_such_module", "in <module>: ModuleNotFoundError"),
        ("1 / 0", "ZeroDivision"),
    ],
)
def test_a_project_file_that_cannot_be_run(tmp_path, text, words):
    file = tmp_path / "project.py"
    file.write_text(f"\n{text}\n")
    result = run("unlearn", f"{file}:sets", "--plan")
    assert result.exit_code == REFUSED
    assert "project.py:2" in result.stderr
    assert words in result.stderr


@pytest.mark.parametrize("text", ["raise SystemExit", "import sys; sys.exit(0)", "def sets(): raise SystemExit(0)"])
def test_a_script_that_ends_itself_is_no_success(tmp_path, text):
    (tmp_path / "script.py").write_text(text)
    result = run("unlearn", f"{tmp_path / 'script.py'}:sets", "--output", tmp_path / "r")
    assert result.exit_code == REFUSED
    assert "__main__" in result.stderr


def test_the_traceback_is_there_where_asked(monkeypatch):
    monkeypatch.setenv("NABLA_TAU_TRACEBACK", "1")
    result = CliRunner().invoke(app, ["unlearn", f"{PROJECT}:broken", "--plan"])
    assert isinstance(result.exception.__cause__, KeyError)
    assert "NABLA_TAU_TRACEBACK" in run("--help").stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "an empty file"), (b"user_id;a\n1;2\n", "separate columns by commas"), (b"\xff\xfe", "UTF-8"),
     (b"uid\n1\n", "got 'uid': name one of the first line with --id-column"),
     (b"user_id,user_id\n1,2\n", "expected one column"), (b'user_id,why\n1,"asked\n2,mail\n', "unexpected end of data"),
     (b'user_id,why\n1,"asked\n2,mail"\n', "got 1 others (lines 3)"),
     (b"why,user_id\ny\nz,\n", "got 2 others (lines 2, 3)"), (b"user_id\n1,2\n", "got 1 others (lines 2)"),
     (b"user_id\n\n", "got none"), (b"user_id\n" + b"9" * 200_000, "field limit")],
)  # fmt: skip
def test_a_list_of_ids_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "ids.csv").write_bytes(content)
    options = ("--forget", tmp_path / "ids.csv", "--id-column", "user_id")
    result = run("unlearn", "tests.my_project:with_train", *options, "--plan")
    assert result.exit_code == REFUSED
    assert "1. --forget: " in result.stderr
    assert words in result.stderr


def test_all_problems_of_a_dict_are_listed():
    result = run("unlearn", f"{PROJECT}:incomplete", "--plan")
    assert all(name in result.stderr for name in ("'forget'", "'retain'", "'validation'", "'forgotten'"))


def test_problems_of_all_options_come_together(tmp_path):
    (tmp_path / "taken").write_text("")
    options = ("--output", tmp_path / "taken", "--method", "srub", "--forget", "nowhere.csv", "--id-column", "user_id")
    result = run("unlearn", f"{PROJECT}:odd_names", *options, "--json")
    said = json.loads(result.stdout)["error"]
    assert [text.split(":")[0] for text in said] == ["--output", "--method", "target", "target", "--forget"]
    assert "'modle'" in said[3]
    (tmp_path / "ids.csv").write_text("user_id\n3\n")
    options = ("--forget", tmp_path / "ids.csv", "--id-column", "user_id")
    said = json.loads(run("unlearn", f"{PROJECT}:odd_names", *options, "--plan", "--json").stdout)["error"]
    assert [text.split(":")[0] for text in said] == ["target", "target", "ids"]
    tuned = run("tune", "srub", f"{PROJECT}:incomplete")
    assert "METHOD: " in tuned.stderr
    assert "'forgotten'" in tuned.stderr


def test_usage(tmp_path):
    assert run("unlearn", f"{PROJECT}:sets").exit_code == 2
    assert run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / "r", "--forget", "ids.csv").exit_code == 2
    for target in (PROJECT, f"{PROJECT}:", ":sets"):
        assert run("unlearn", target, "--plan").exit_code == 2
    assert run("unlearn", f"{PROJECT}:sets", "--plan", "--skip-unknown").exit_code == 2
    unknown = run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / "r", "--method", "no_such_method")
    assert unknown.exit_code == REFUSED
    assert "nabla_tau_published" in unknown.stderr
    assert re.fullmatch(r"nabla-tau \d+\.\d+\.\d+\n", run("--version").stdout)


def test_a_folder_with_a_result_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "unlearning.json").write_text("{}")
    monkeypatch.setattr(Request, "run", lambda self: pytest.fail("it ran"))
    result = run("unlearn", f"{PROJECT}:sets", "--output", tmp_path)
    assert result.exit_code == REFUSED
    assert "choose another folder" in result.stderr.replace("\n", " ")


def test_ctrl_c(tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Request, "run", interrupted)
    result = run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / "r")
    assert result.exit_code == INTERRUPTED
    assert list(tmp_path.iterdir()) == []


def test_env():
    facts = json.loads(run("env", "--json").stdout)
    assert facts["torch"] == torch.__version__
    assert "accelerate" in run("env").stdout


def test_help_has_examples():
    for command in ("demo", "unlearn", "env"):
        assert f"nabla-tau {command}" in run(command, "--help").stdout


def test_a_result_that_cannot_be_saved_is_kept_elsewhere(tmp_path, monkeypatch):
    saved = Unlearned.save

    def full(self, folder):
        if Path(folder) == tmp_path / "run":
            raise OSError("No space left on device")
        return saved(self, folder)

    command = "unlearn", f"{PROJECT}:sets", "--output", tmp_path / "run", "--checkpoint", tmp_path / "state", "--json"
    with monkeypatch.context() as patched:
        patched.setattr(Unlearned, "save", full)
        result = run(*command)
    reported = json.loads(result.stdout)
    folder = Path(reported["output"])
    assert result.exit_code == WITH_RESERVATIONS
    assert "No space left on device" in reported["warnings"][-1]
    assert f"{tmp_path / 'state'} keeps it: the same command saves it again." in reported["warnings"][-1]
    assert load(folder, my_project.network()).settings["method"] == "nabla_tau"
    shutil.rmtree(folder)
    assert Path(json.loads(run(*command).stdout)["output"]) == tmp_path / "run"
    assert not (tmp_path / "state").exists()


def test_no_hash_of_a_set_is_written_without_a_salt(tmp_path, monkeypatch):
    """Whoever has the training set could try out which rows are missing in what was kept."""
    hashes, survey = set(), checks.survey_sets

    def surveyed(*arguments):
        found = survey(*arguments)
        hashes.update(one.hex() for kind in (found.contents, found.sequences) for one in kind.values())
        return found

    monkeypatch.setattr(checks, "survey_sets", surveyed)
    assert run("unlearn", f"{PROJECT}:audited", "--output", tmp_path / "run").exit_code in DONE
    assert run("audit", tmp_path / "run", f"{PROJECT}:audited").exit_code in DONE
    written = "".join(
        (tmp_path / "run" / name).read_text() for name in ("unlearning.json", "report.json", "report.html")
    )
    assert len(hashes) >= 6
    assert not [one for one in hashes if one in written]


def test_audit_writes_report_and_page_beside_the_run(tmp_path):
    target, folder, salt = f"{PROJECT}:audited", tmp_path / "run", tmp_path / "salt"
    assert run("unlearn", target, "--output", folder).exit_code in DONE  # test and retrained are not for unlearn
    result = run("audit", folder, target, "--seed", 4, "--salt", salt, "--request", "number=17", "--json")
    reported = json.loads(result.stdout)
    assert result.exit_code == (0 if reported["verdict"]["kind"] == "none_detectable" else WITH_RESERVATIONS)
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "unlearning.json", "report.json", "report.html"
    }  # fmt: skip
    assert [model["name"] for model in reported["models"]] == ["original", "unlearned", "retrained 1"]
    assert reported["settings"]["audit_seed"] == 4
    assert reported["command"].endswith(f"--seed 4 --salt {salt} --request number=17")
    assert reported["request"] == {"number": "17"}
    assert sum(reported["sets"]["forget"]["classes"].values()) == 20
    assert reported["command"] in (folder / "report.html").read_text().replace("&#34;", '"')
    again = run("audit", folder, target)
    assert again.exit_code == REFUSED
    assert "report.json" in again.stderr
    fingerprints = [found["fingerprint"] for found in reported["sets"].values()]
    assert len(set(fingerprints)) == 4
    other = ("--output", tmp_path / "again", "--salt", salt)
    repeated = json.loads(run("audit", folder, target, *other, "--json").stdout)
    assert repeated["command"].endswith(f"--output {tmp_path / 'again'} --salt {salt}")
    salted = repeated["sets"]
    assert (tmp_path / "again" / "report.html").exists()
    assert [found["fingerprint"] for found in salted.values()] == fingerprints
    assert salt.stat().st_mode & 0o077 == 0


def test_a_salt_beside_the_report_is_refused(tmp_path):
    result = run("audit", tmp_path / "run", f"{PROJECT}:audited", "--salt", tmp_path / "run" / "salt")
    assert result.exit_code == REFUSED
    assert "kept apart" in result.stderr


@pytest.mark.parametrize(
    ("place", "words"), [(".", "directory"), ("nowhere/salt", "No such file"), ("binary", "decode"), ("short", "32")]
)
def test_a_salt_that_cannot_be_read_is_named(tmp_path, place, words):
    Unlearned(my_project.network(), [], {}, True).save(tmp_path / "run")
    (tmp_path / "binary").write_bytes(b"\xff" * 64)
    (tmp_path / "short").write_text("short")
    result = run("audit", tmp_path / "run", f"{PROJECT}:audited", "--salt", tmp_path / place)
    assert result.exit_code == REFUSED
    assert words in result.stderr


def test_processes_that_make_a_salt_together_have_one(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(salt._new_secret, [tmp_path / "salt"] * 8)).count(True) == 1
    (tmp_path / "late").touch()
    timer = Timer(0.2, (tmp_path / "late").write_text, ["s" * 64])
    timer.start()
    assert salt._secret_in(tmp_path / "late") == "s" * 64


def test_a_refused_audit_leaves_no_salt(tmp_path):
    Unlearned(my_project.network(), [], {"loss": "focal"}, True).save(tmp_path / "run")
    result = run("audit", tmp_path / "run", f"{PROJECT}:audited", "--salt", tmp_path / "salt")
    assert "focal" in result.stderr
    assert not (tmp_path / "salt").exists()


def test_a_report_that_cannot_be_saved_is_kept_elsewhere(tmp_path, monkeypatch):
    folder = Unlearned(my_project.network(), [], {}, True).save(tmp_path / "run")
    assert (
        run("audit", folder, f"{PROJECT}:audited", "--output", folder / "model.safetensors" / "x").exit_code == REFUSED
    )

    def full(source, target, plain=os.replace):
        if Path(target) == folder / "report.json":
            raise OSError("No space left on device")
        plain(source, target)

    monkeypatch.setattr(os, "replace", full)
    reported = json.loads(run("audit", folder, f"{PROJECT}:audited", "--json").stdout)
    assert "No space left on device" in reported["warnings"][-1]
    assert not (folder / "report.html").exists()
    saved = Report.load(reported["output"]).data["warnings"][-1]
    assert saved == reported["warnings"][-1]
    shutil.rmtree(reported["output"])


def test_an_audit_needs_a_test_set(tmp_path):
    result = run("audit", tmp_path, f"{PROJECT}:sets")
    assert result.exit_code == REFUSED
    assert "'test'" in result.stderr


def test_of_a_matched_test_set_the_rows_of_the_list_are_kept(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id\n3\n7\n")
    given = read_project(f"{PROJECT}:matched", ids_file=tmp_path / "ids.csv", id_column="user_id", command="audit")
    assert given["test"].indices == [6, 7, 14, 15]
    assert "96 rows of other ids were left out" in given["test"].remark


def test_people_who_were_forgotten_before_are_left_out_of_every_set(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id\n3\n7\n")
    (tmp_path / "before.csv").write_text("user_id,since\n5,2024\n8,2025\n")
    ids = {"ids_file": tmp_path / "ids.csv", "id_column": "user_id"}
    with pytest.warns(UserWarning, match="train: 4 rows have an id that was forgotten before"):
        given = read_project(f"{PROJECT}:with_train", **ids, forgotten=tmp_path / "before.csv")
    users = read_column(given["retain"], "user_id")
    assert (len(given["forget"]), len(users)) == (4, 112)
    assert {3, 5, 7, 8}.isdisjoint(users)
    again = read_project(f"{PROJECT}:with_train", **ids)
    assert len(again["retain"]) == 116


@pytest.mark.parametrize(
    ("in_train", "in_list", "found"),
    [
        (["trail", "trail ", "other"], ["trail "], [1]),  # two people
        (["u7   ", "u8   ", "other"], ["u7   "], [0]),  # as a database of fixed width writes them
        (["u7", "u8", "other"], [" u7 "], [0]),
        (["u7", "u8", "other"], ["u8", "u7 "], [0, 1]),
    ],
)
def test_blanks_in_ids_are_taken_as_they_are_where_they_are(tmp_path, in_train, in_list, found):
    (tmp_path / "ids.csv").write_text("user_id\n" + "".join(f'"{one}"\n' for one in in_list))
    (tmp_path / "project.py").write_text(
        "import numpy, torch\n"
        "x = torch.zeros(3, 1)\n"
        f"train = {{'input': x, 'labels': torch.zeros(3), 'user_id': numpy.array({in_train})}}\n"
        "rows = lambda: {'model': torch.nn.Linear(1, 2), 'train': train, 'validation': (x, x)}\n"
    )
    given = read_project(f"{tmp_path / 'project.py'}:rows", ids_file=tmp_path / "ids.csv", id_column="user_id")
    assert given["forget"].indices == found


def test_an_id_that_looks_like_one_of_the_set_is_told():
    composed, apart = "zo\u00eb", "zoe\u0308"
    with pytest.raises(
        InvalidRequest, match=r"1 of them do but for blanks, or for how letters with marks are composed"
    ):
        split({"x": torch.zeros(2), "user_id": np.array([composed, "b"])}, ids=[apart], id_column="user_id")


def test_the_training_set_is_no_unseen_data(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id\n3\n")
    target = tmp_path / "twice.py"
    lines = "from tests.my_project import with_train", "def twice():", "    given = with_train()"
    target.write_text("\n".join([*lines, "    return given | {'validation': given['train']}"]))
    with pytest.raises(InvalidRequest, match="got 'train' itself as 'validation'"):
        read_project(f"{target}:twice", ids_file=tmp_path / "ids.csv", id_column="user_id")


def test_an_id_in_both_lists_is_told(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id\n3\n5\n")
    (tmp_path / "before.csv").write_text("user_id\n5\n")
    ids = {"ids_file": tmp_path / "ids.csv", "id_column": "user_id", "forgotten": tmp_path / "before.csv"}
    with pytest.raises(InvalidRequest, match=r"--forgotten: expected other ids .* got 1 in both \('5'\)"):
        read_project(f"{PROJECT}:with_train", **ids)


def test_forgotten_ids_that_no_row_has_are_told(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id\n3\n")
    (tmp_path / "before.csv").write_text("user_id\n5\n8.0\n")
    ids = {"ids_file": tmp_path / "ids.csv", "id_column": "user_id", "forgotten": tmp_path / "before.csv"}
    told = r"^--forgotten: 1 of 2 ids are in no row of train \('8\.0'\):"
    with pytest.warns(UserWarning, match="train: 2 rows have an id"), pytest.warns(UserWarning, match=told):
        read_project(f"{PROJECT}:with_train", **ids)


@pytest.mark.parametrize("command", ["unlearn", "tune"])
def test_options_about_ids_name_what_they_need(tmp_path, command):
    (tmp_path / "ids.csv").write_text("user_id\n3\n")
    first = ("unlearn",) if command == "unlearn" else ("tune", "finetune")
    for given, missing in (
        (("--forgotten", tmp_path / "ids.csv"), "--forget FILE and --id-column NAME"),
        (("--forgotten", tmp_path / "ids.csv", "--id-column", "user_id"), "--forget FILE"),
        (("--skip-unknown",), "--forget FILE and --id-column NAME"),
        (("--forget", tmp_path / "ids.csv"), "--id-column NAME"),
    ):
        output = ("--output", tmp_path / "run") if command == "unlearn" else ()
        result = run(*first, f"{PROJECT}:with_train", *given, *output)
        assert result.exit_code == 2
        assert f"expected {missing} as well, got --" in " ".join(result.stderr.replace("│", " ").split())


def test_what_the_project_prints_is_no_part_of_the_output(tmp_path):
    target = tmp_path / "loud.py"
    lines = "print('read')", "from tests.my_project import sets as quiet", "def loud():", "    print('called')"
    target.write_text("\n".join([*lines, "    return quiet()"]))
    result = run("unlearn", f"{target}:loud", "--output", tmp_path / "run", "--json")
    assert json.loads(result.stdout)["output"] == str(tmp_path / "run")
    assert "read\ncalled\n" in result.stderr


def test_a_terminal_without_the_letters_gets_marks(tmp_path):
    command = [sys.executable, "-m", "nabla_tau", "unlearn", f"{PROJECT}:sets", "--output", str(tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, cwd=REPOSITORY, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False
    )
    assert done.returncode in DONE, done.stderr
    assert b"written to" in done.stdout


def test_a_refused_command_leaves_what_the_run_had_saved(tmp_path):
    """Killed between its saving and the removal of its state, then called again with a slip of the pen."""
    output, state = tmp_path / "run", tmp_path / "state"
    options = ("unlearn", f"{PROJECT}:sets", "--output", output, "--checkpoint", state)
    assert run(*options).exit_code in (0, WITH_RESERVATIONS)
    weights = (output / "model.safetensors").read_bytes()
    finished = {"model.safetensors": lambda path: path.write_bytes(weights)}
    checkpoint.write(state, checkpoint.FINISHED, finished, {})
    slip = run(*options, "--method", "srub")
    assert slip.exit_code == REFUSED
    assert sorted(path.name for path in output.iterdir()) == ["model.safetensors", "unlearning.json"]


def test_a_list_of_forgotten_people_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "ids.csv").write_text("user_id\n3\n")
    options = ("--forget", tmp_path / "ids.csv", "--id-column", "user_id", "--output", tmp_path / "run")
    result = run("unlearn", f"{PROJECT}:with_train", *options, "--forgotten", tmp_path / "none.csv")
    assert result.exit_code == REFUSED
    assert "--forgotten: expected" in result.stderr
    assert run("unlearn", f"{PROJECT}:sets", "--forgotten", tmp_path / "ids.csv").exit_code == 2


def test_all_that_is_wrong_with_an_audit_is_said_at_once(tmp_path):
    (tmp_path / "report.json").touch()
    result = run("audit", tmp_path, f"{PROJECT}:sets", "--request", "17", "--json")
    assert result.exit_code == REFUSED
    problems = json.loads(result.stdout)["error"]
    assert [word for word in ("report.json", "--request", "'test'") if not any(word in one for one in problems)] == []
    assert len(problems) == 3


def test_an_interrupted_run_is_continued_by_the_same_command(tmp_path, monkeypatch):
    expected = json.loads(run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / "e", "--json").stdout)
    state = tmp_path / "state"
    options = ("--output", tmp_path / "r", "--checkpoint", state, "--checkpoint-every", 0, "--json")

    def interrupted(problem, plain=Problem.step_done):
        plain(problem)
        if problem.steps == 30:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Problem, "step_done", interrupted)
        stopped = run("unlearn", f"{PROJECT}:sets", *options)
    assert stopped.exit_code == INTERRUPTED
    assert json.loads(stopped.stdout)["error"] == [f"the same command continues from {state}."]
    assert not (tmp_path / "r").exists()
    with monkeypatch.context() as patched:  # killed between the two files of the result
        patched.setattr(
            storage, "move_whole", lambda staging, target, names: (staging / names[0]).rename(target / names[0])
        )
        patched.setattr(checkpoint, "clear", lambda folder, **options: None)
        assert run("unlearn", f"{PROJECT}:sets", *options).exit_code in DONE
    assert os.listdir(tmp_path / "r") == ["model.safetensors"]
    with monkeypatch.context() as patched:  # killed when both were there, and the state still was
        patched.setattr(checkpoint, "clear", lambda folder, **options: None)
        assert run("unlearn", f"{PROJECT}:sets", *options).exit_code in DONE
    assert sorted(os.listdir(tmp_path / "r")) == ["model.safetensors", "unlearning.json"]
    assert state.exists()
    result = run("unlearn", f"{PROJECT}:sets", *options)
    assert result.exit_code in DONE
    assert json.loads(result.stdout)["continued_after_steps"] == [29]
    assert not state.exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("e", "r")]
    assert weights[0] == weights[1]
    assert expected["settings"]["steps_done"] == json.loads(result.stdout)["settings"]["steps_done"]


def test_a_run_that_was_continued_says_so(tmp_path, monkeypatch):
    options = ("unlearn", f"{PROJECT}:sets", "--checkpoint", tmp_path / "state", "--checkpoint-every", 0)

    def interrupted(problem, plain=Problem.step_done):
        plain(problem)
        if problem.steps == 30:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Problem, "step_done", interrupted)
        run(*options, "--output", tmp_path / "r")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    planned = run(*options, "--output", tmp_path / "r", "--plan")
    assert "checkpoint a run of this request at step 29 of 160 planned in" in planned.stdout
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    result = run(*options, "--output", tmp_path / "r")
    assert "continued after it was cut off, from its checkpoint after step 29\n" in result.stdout


def test_a_plan_takes_back_nothing_of_a_result(tmp_path, monkeypatch):
    options = ("unlearn", f"{PROJECT}:sets", "--checkpoint", tmp_path / "state", "--output", tmp_path / "r")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "clear", lambda folder, **options: None)
        run(*options)
    before = sorted(tmp_path.rglob("*"))
    planned = json.loads(run(*options, "--plan", "--json").stdout)["checkpoint"]
    assert (planned["state"], planned["folder"]) == ("finished", str(tmp_path / "state"))
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "r" / "model.safetensors").write_text("another")
    assert run(*options, "--plan").exit_code == REFUSED


def test_no_folder_is_no_checkpoint_folder(tmp_path):
    result = run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / "r", "--checkpoint", "")
    assert result.exit_code == REFUSED
    assert "expected a folder of its own" in result.stderr


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")  # whether it reaches its target is not the matter
def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    state = tmp_path / "state"
    unlearn(**my_project.sets(), checkpoint=state)
    result = run("unlearn", f"{PROJECT}:sets", "--output", tmp_path / "r", "--checkpoint", state, "--seed", 1)
    assert result.exit_code == REFUSED
    assert "expected seed 0, as of the run kept in" in result.stderr
    assert state.exists()


def test_an_error_that_one_process_has_alone_is_said_by_it(monkeypatch, tmp_path):
    monkeypatch.setattr(console, "GRACE", 0.01)
    monkeypatch.setenv("RANK", "1")
    found = CliRunner().invoke(app, ["unlearn", "nowhere.py:sets", "--output", str(tmp_path / "out")])
    assert found.exit_code == 1
    assert "error (process 1):" in found.output
    assert "nowhere.py" in found.output
