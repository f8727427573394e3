"""Every public function has an example that runs, and names what it raises."""

import ast
import re
from functools import partial
from pathlib import Path

import pytest
import torch

import nabla_tau
from tests.conftest import require

SOURCE = Path(nabla_tau.__file__).parent
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "cli.py")  # commands have theirs in --help
METHODS_PAGE = SOURCE.parent.parent / "docs" / "methods.md"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def public(nodes, kind):
    return [node for node in nodes if isinstance(node, kind) and not node.name.startswith("_")]


def without(section, functions):
    return [f"{function.name}:{function.lineno}" for function in functions if section not in lines_of(function)]


def lines_of(function):
    return (ast.get_docstring(function) or "").splitlines()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_public_functions_have_an_example_and_say_what_they_raise(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    functions = public(body, FUNCTIONS)
    methods = [method for owner in public(body, ast.ClassDef) for method in public(owner.body, FUNCTIONS)]
    raising = [f for f in functions + methods if any(isinstance(node, ast.Raise) for node in ast.walk(f))]
    assert without("Example:", functions) == []
    assert [function.name for function in functions if ">>>" not in ast.get_docstring(function)] == []
    assert without("Raises:", raising) == []


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")  # there is nothing to forget
def test_the_method_of_ones_own_on_the_page_runs():
    require("optuna")
    section = METHODS_PAGE.read_text(encoding="utf-8").partition("## A method of your own")[2]
    defined, used, searched = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    sets = {"forget": (x[:10], y[:10]), "retain": (x[10:40], y[10:40]), "validation": (x[40:], y[40:])}
    names = {"model": torch.nn.Linear(4, 2), **sets}
    exec(defined, names)
    names["up_and_down"] = partial(names["up_and_down"], rate=0.01)
    exec(used, names)
    assert names["unlearned"].settings["steps_done"] == 1
    exec(searched.replace("trials=20", "trials=2"), names)
