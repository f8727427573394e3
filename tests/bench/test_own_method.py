"""A method of one's own beside those of the package, as a script."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

METHODS = """
from nabla_tau.problem import Epoch

def original(problem):
    yield Epoch()

def fails(problem):
    raise ArithmeticError("no such number")
    yield
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("own")
    (found / "mine.py").write_text(METHODS)
    return found


def ran(folder, name, *arguments, task="diabetes", forget="random-0.15"):
    command = [sys.executable, "benchmarks/own_method.py", f"{folder / 'mine.py'}:{name}", task, forget, *arguments]
    return subprocess.run(
        [*command, "--models", str(folder / "models")], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return {cells[1].strip(): cells[-2].strip() for cells in (line.split("|") for line in lines)}


def test_a_name_that_is_a_row_already_is_another_row(folder):
    done = ran(folder, "original", "--beside", "finetune")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert list(found) == ["original", "retrained", "finetune", "original (own)"]
    assert found["original (own)"] == found["original"]  # it changes nothing, and says so
    assert "original (own), seed 0: the target was not reached" in done.stdout


def test_a_method_that_fails_takes_no_other_row_with_it(folder):
    done = ran(folder, "fails", "--beside", "scrub", "finetune")
    assert list(rows(done.stdout)) == ["original", "retrained", "finetune"]
    assert "fails (own), seed 0: " in done.stdout
    assert "ArithmeticError: no such number" in done.stdout
    assert "scrub, seed 0: method: expected one of losses.classification" in done.stdout  # for labels, not numbers


@pytest.mark.parametrize(
    ("name", "places", "said"),
    [
        ("fails", {"task": "Diabetes"}, "invalid choice: 'Diabetes'"),
        ("fails", {"forget": "random-x"}, "Expected one of random-FRACTION"),
        ("fails", {"forget": "random-0.001"}, "got 0 of 240 rows to forget"),
        ("other", {}, "expected a function 'other'"),
    ],
)
def test_wrong_names_are_told_in_words(folder, name, places, said):
    done = ran(folder, name, **places)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
