"""Which code a figure comes from."""

import ast
import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nabla_tau.bench.storing import code_digest

PACKAGE = Path(__file__).parent.parent

METHODS = PACKAGE / "methods"


@functools.cache
def provenance() -> dict[str, Any]:
    """Versions, commit, whether the tree had other changes, and the digest of the code that measures.

    Example:
        >>> sorted(provenance())
        ['code', 'commit', 'dirty', 'versions']
    """
    status = _git("status", "--porcelain", "--", ".")
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("nabla-tau", "torch", "numpy", "scikit-learn", "scipy")},
        },
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "code": measuring_code(),
    }


@functools.cache
def measuring_code() -> str:
    """Digest of all modules that the numbers of any cell can depend on: the methods themselves are left out.

    Example:
        >>> len(measuring_code())
        12
    """
    return code_digest(_measuring())


@functools.cache
def method_code(module: str) -> str | None:
    """Digest of a method: its module, and whatever that imports of the package which is not measured by itself.

    So one method may change and be measured again, while the cells of all others stay as they are.

    Args:
        module: where the method is defined; outside the package there is no digest.

    Example:
        >>> method_code("nabla_tau.methods.ssd") == method_code("nabla_tau.methods.scrub")
        False
    """
    path = _file(module)
    return code_digest(_imported(path, besides=_measuring()) - _measuring()) if path.is_file() else None


@functools.cache
def training_code() -> str:
    """Digest of the modules that a trained model depends on.

    Example:
        >>> len(training_code())
        12
    """
    return code_digest(
        PACKAGE / f"{name}.py" for name in ("bench/networks", "bench/encoder", "bench/training", "losses")
    )


def _git(*arguments: str) -> str | None:
    try:
        found = subprocess.run(["git", *arguments], cwd=PACKAGE, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


@functools.cache
def _measuring() -> frozenset[Path]:
    """What the measurement of a cell imports, directly or not, without the methods."""
    own = frozenset(METHODS.glob("*.py"))
    return _imported(_file("nabla_tau.bench.measuring"), besides=own) - own


def _imported(path: Path, besides: frozenset[Path]) -> frozenset[Path]:
    """A module and all modules of the package that it imports, directly or not; those left out lead no further."""
    found, waiting = {path}, [path]
    while waiting:
        for one in _imports(waiting.pop()) - found:
            found.add(one)
            if one not in besides:
                waiting.append(one)
    return frozenset(found)


def _imports(path: Path) -> set[Path]:
    """Modules of the package that a file names in an import, wherever in the file it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for name in names if name.split(".")[0] == PACKAGE.name and (file := _file(name)).is_file()}


def _file(module: str) -> Path:
    """Where a module of the package lies; a package is its own `__init__`."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
