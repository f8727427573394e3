"""∇τ: machine unlearning without hyperparameters.

from nabla_tau import split, unlearn, load
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nabla_tau import losses, methods
    from nabla_tau.auditing.audit import audit
    from nabla_tau.auditing.report import Report
    from nabla_tau.errors import InvalidRequest, UnlearningWarning
    from nabla_tau.splitting import split
    from nabla_tau.storage import Unlearned, load
    from nabla_tau.unlearning import unlearn

__version__ = "0.1.0"

# Loaded when first used: `nabla-tau --help` needs no torch.
_HOMES = {
    "audit": "auditing.audit",
    "Report": "auditing.report",
    "split": "splitting",
    "unlearn": "unlearning",
    "load": "storage",
    "Unlearned": "storage",
    "InvalidRequest": "errors",
    "UnlearningWarning": "errors",
}
_MODULES = ("losses", "methods")

__all__ = [
    "InvalidRequest",
    "Report",
    "Unlearned",
    "UnlearningWarning",
    "audit",
    "load",
    "losses",
    "methods",
    "split",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"nabla_tau.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"nabla_tau.{name}")
    raise AttributeError(f"module 'nabla_tau' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
