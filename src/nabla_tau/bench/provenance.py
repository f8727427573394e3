"""Which code a figure comes from."""

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nabla_tau.own_code import PACKAGE, code_digest, file_of, imported

METHODS = PACKAGE / "methods"

# What carries a method out. Where it changes, every method is in a new version; what measures them is the same.
UNLEARNING = tuple(PACKAGE / f"{name}.py" for name in ("unlearning", "tuning", "checks", "problem", "storage"))


@functools.cache
def provenance() -> dict[str, Any]:
    """Versions, commit, whether the tree had other changes, and the digest of the code that measures.

    An installed package has no commit: that of a repository that happens to lie around it is another project's.

    Example:
        >>> sorted(provenance())
        ['code', 'commit', 'dirty', 'versions']
    """
    is_checkout = _git("ls-files", "--error-unmatch", "__init__.py") is not None
    status = _git("status", "--porcelain", "--", ".") if is_checkout else None
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("nabla-tau", "torch", "numpy", "scikit-learn", "scipy")},
        },
        "commit": _git("rev-parse", "HEAD") if is_checkout else None,
        "dirty": None if status is None else bool(status),
        "code": measuring_code(),
    }


@functools.cache
def measuring_code() -> str:
    """Digest of all modules that measure: data, training, losses, audit; not of methods and what carries them out.

    Example:
        >>> len(measuring_code())
        12
    """
    return code_digest(_measuring())[:12]


@functools.cache
def method_code(*modules: str) -> str | None:
    """Digest of a method and of what carries it out: of all modules that these import, but for those that measure.

    So one method may change and be measured again, while the cells of all others stay as they are.

    Args:
        *modules: where the method, and one that it is measured by, are defined; outside the package there is no digest.

    Example:
        >>> method_code("nabla_tau.methods.ssd") == method_code("nabla_tau.methods.scrub")
        False
    """
    paths = [file_of(module) for module in modules]
    if not all(path.is_file() for path in paths):
        return None
    carried_out = frozenset[Path]().union(*(imported(one, besides=_measuring() | _methods()) for one in UNLEARNING))
    own = frozenset[Path]().union(*(imported(path, besides=_measuring()) for path in paths))
    return code_digest((carried_out - _methods() | own) - _measuring())[:12]


@functools.cache
def training_code() -> str:
    """Digest of the modules that a trained model depends on.

    Example:
        >>> len(training_code())
        12
    """
    parts = [f"bench/{name}" for name in ("data", "encoder", "layouts", "networks", "training")]
    return code_digest(PACKAGE / f"{name}.py" for name in (*parts, "losses", "randomness"))[:12]


def _git(*arguments: str) -> str | None:
    try:
        found = subprocess.run(["git", *arguments], cwd=PACKAGE, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


@functools.cache
def _measuring() -> frozenset[Path]:
    """What the measurement of a cell imports, directly or not, without the methods and what carries them out."""
    others = _methods() | frozenset(UNLEARNING)
    return imported(file_of("nabla_tau.bench.measuring"), besides=others) - others


def _methods() -> frozenset[Path]:
    return frozenset([*METHODS.glob("*.py"), PACKAGE / "bench" / "alpha.py"])
