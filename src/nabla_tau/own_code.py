"""What the package's own code does, as a digest: a run is continued by the code that began it, or by none."""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable
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
        run_by = code_digest(imported(file_of(RUNS)) | (imported(file_of(module)) if own else frozenset()))
    except (OSError, SyntaxError, ValueError):
        return None
    return run_by if own else hashlib.sha256((run_by + _source(method)).encode()).hexdigest()


def imported(path: Path, besides: frozenset[Path] = frozenset()) -> frozenset[Path]:
    """A module and all modules of the package that it imports, directly or not.

    Args:
        path: of the module.
        besides: modules that lead no further.

    Example:
        >>> sorted(path.name for path in imported(file_of("nabla_tau.digests")))
        ['digests.py']
    """
    found, waiting = {path}, [path]
    while waiting:
        for one in _imports(_tree(waiting.pop())) - found:
            found.add(one)
            if one not in besides:
                waiting.append(one)
    return frozenset(found)


def file_of(module: str) -> Path:
    """Where a module of the package lies; a package is its own `__init__`.

    Example:
        >>> file_of("nabla_tau.methods").name
        '__init__.py'
    """
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def code_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over what source files do: neither comments nor docstrings nor layout count.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one, other = Path(folder) / "one.py", Path(folder) / "other.py"
        ...     _ = one.write_text("x = 1  # so"), other.write_text("x   = 1")
        ...     code_digest([one]) == code_digest([other])
        True
    """
    return hashlib.sha256("\n".join(_does(path) for path in sorted(paths)).encode()).hexdigest()


def _imports(tree: ast.Module) -> set[Path]:
    """Modules of the package that are named in an import, wherever in the file but for types alone."""
    names: set[str] = set()
    for node in (node for part in tree.body if not _for_types(part) for node in ast.walk(part)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = (name for name in names if name.partition(".")[0] == PACKAGE.name)
    return {file for name in own if (file := file_of(name)).is_file()}


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


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
