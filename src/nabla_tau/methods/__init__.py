"""Ways to unlearn. Each is a function `Problem -> Iterator[Epoch]`, reached as `nabla_tau.methods.NAME`."""

from nabla_tau.methods.nabla_tau import nabla_tau
from nabla_tau.methods.nabla_tau_published import nabla_tau_published
from nabla_tau.problem import Method

METHODS: dict[str, Method] = {
    "nabla_tau": nabla_tau,
    "nabla_tau_published": nabla_tau_published,
}
"""Every method by its name, for the command line."""

__all__ = ["METHODS", "nabla_tau", "nabla_tau_published"]
