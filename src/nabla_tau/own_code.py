"""What the code that a run depends on does: a run is continued by the code that began it, or by none."""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
RUNS = "nabla_tau.continuing"
"""What carries every method, and what it imports: problem, sets, losses, modes, randomness, …"""


def code_of(method: Callable[..., Any]) -> str | None:
    """SHA-256 over what a method's source does, and all of the package that it is run by, directly or not.

    Neither comments nor docstrings nor layout count. Of a method that is not the package's, its own function counts.

    Args:
        method: a function.

    Returns:
        Hexadecimal digits; None where the package's source is not there to be read.

    Example:
        >>> from nabla_tau import methods
        >>> code_of(methods.nabla_tau) == code_of(methods.finetune)
        False
    """
    module = getattr(method, "__module__", None) or ""
    own = module.partition(".")[0] == PACKAGE.name
    try:
        parts = [_does(path) for path in sorted(_closure(RUNS) | (_closure(module) if own else set()))]
    except (OSError, SyntaxError, ValueError):
        return None
    return hashlib.sha256("\n".join([*parts, "" if own else _source(method)]).encode()).hexdigest()


def _closure(module: str) -> set[Path]:
    """The files of a module and of all modules of the package that it imports, wherever in a file."""
    found: set[Path] = set()
    waiting = {_file(module)}
    while waiting:
        path = waiting.pop()
        found.add(path)
        names = {name for name in _imported(_tree(path)) if name.partition(".")[0] == PACKAGE.name}
        waiting |= {file for name in names if (file := _file(name)).is_file()} - found
    return found


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _file(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _does(path: Path) -> str:
    return _plain(_tree(path))


def _plain(tree: ast.Module) -> str:
    """A module without its docstrings and other bare texts."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _source(method: Callable[..., Any]) -> str:
    try:
        return _plain(ast.parse(textwrap.dedent(inspect.getsource(method))))
    except (OSError, TypeError, SyntaxError):  # of a notebook that is gone, or an object that is called
        return ""
