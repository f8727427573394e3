"""Every public function has an example that runs, and names what it raises."""

import ast
from pathlib import Path

import pytest

import nabla_tau

SOURCE = Path(nabla_tau.__file__).parent
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "cli.py")  # commands have theirs in --help
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
