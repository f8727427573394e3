"""Ways to unlearn. Each is a function `Problem -> Iterator[Epoch]`, reached as `nabla_tau.methods.NAME`."""

from collections.abc import Callable, Iterator

from nabla_tau.errors import InvalidRequest
from nabla_tau.facts import suggestion
from nabla_tau.methods.amnesiac import amnesiac
from nabla_tau.methods.bad_teacher import bad_teacher
from nabla_tau.methods.finetune import finetune
from nabla_tau.methods.l1_sparse import l1_sparse
from nabla_tau.methods.nabla_tau import nabla_tau
from nabla_tau.methods.nabla_tau_published import nabla_tau_published
from nabla_tau.methods.neggrad import neggrad
from nabla_tau.methods.neggrad_plus import neggrad_plus
from nabla_tau.methods.random_label import random_label
from nabla_tau.methods.retrain import retrain
from nabla_tau.methods.salun import salun
from nabla_tau.methods.scrub import scrub
from nabla_tau.methods.scrub_rewind import scrub_rewind
from nabla_tau.methods.scrub_small import scrub_small
from nabla_tau.methods.ssd import ssd
from nabla_tau.problem import Epoch, Method

METHODS: dict[str, Callable[..., Iterator[Epoch]]] = {
    "nabla_tau": nabla_tau,
    "nabla_tau_published": nabla_tau_published,
    "retrain": retrain,
    "finetune": finetune,
    "neggrad": neggrad,
    "neggrad_plus": neggrad_plus,
    "scrub": scrub,
    "scrub_rewind": scrub_rewind,
    "scrub_small": scrub_small,
    "ssd": ssd,
    "amnesiac": amnesiac,
    "bad_teacher": bad_teacher,
    "random_label": random_label,
    "salun": salun,
    "l1_sparse": l1_sparse,
}
"""Every method by its name, for the command line."""


def find_method(name: str, argument: str = "method") -> Method:
    """A method by its name, which was given as that argument.

    Raises:
        InvalidRequest: if there is none of that name.

    Example:
        >>> find_method("nabla_tau_published").__name__
        'nabla_tau_published'
    """
    if name not in METHODS:
        raise InvalidRequest([f"{argument}: expected a method, got {name!r}: {suggestion(name, list(METHODS))}"])
    return METHODS[name]


__all__ = [
    "METHODS",
    "amnesiac",
    "bad_teacher",
    "find_method",
    "finetune",
    "l1_sparse",
    "nabla_tau",
    "nabla_tau_published",
    "neggrad",
    "neggrad_plus",
    "random_label",
    "retrain",
    "salun",
    "scrub",
    "scrub_rewind",
    "scrub_small",
    "ssd",
]
