"""Which code a figure comes from."""

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nabla_tau.bench.storing import code_digest

PACKAGE = Path(__file__).parent.parent

SHOW_ONLY = ("cli", "__main__", "demo", "terminal", "planning", "project", "auditing/page", "auditing/plots",
             "auditing/svg", "auditing/formats", "bench/cli", "bench/tables", "bench/figures", "bench/comparing",
             "bench/gap", "bench/reading", "bench/running", "bench/on_ray", "bench/suites")  # fmt: skip
"""Modules that compute nothing that a cell holds."""


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
    """Digest of all modules that a cell's numbers can depend on.

    Example:
        >>> len(measuring_code())
        12
    """
    shown = {PACKAGE / f"{name}.py" for name in SHOW_ONLY}
    return code_digest(path for path in PACKAGE.rglob("*.py") if path not in shown)


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
