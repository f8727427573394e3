"""NegGrad: gradient ascent on the forget set, and nothing else. The floor of the field."""

import time
from collections.abc import Iterator

import torch

from nabla_tau.descent import descend_over, own_loss
from nabla_tau.facts import EPOCHS, MOMENTUM, WEIGHT_DECAY, Facts, Range, described
from nabla_tau.problem import Epoch, Problem


@described(
    Facts(
        reference="Golatkar et al., arXiv:1911.04933 (2020), “negative gradient”; as “GA” in Thudi et al., "
        "arXiv:2109.13398 (2022)",
        needs=(),
        passes="5 × D_f",
        mode="train",
        forgets="any rows",
        keeps="nothing stops it: what is kept is damaged sooner or later",
        settings={
            "epochs": EPOCHS,
            "learning_rate": Range(0, above=True, search=(1e-6, 1e-2)),
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
        },
    )
)
def neggrad(
    problem: Problem,
    *,
    epochs: int = 5,
    learning_rate: float = 1e-4,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[Epoch]:
    """NegGrad: SGD on −L_f over the forget set, in train mode.

        θ ← θ + η ∇L_f(θ)

    Args:
        problem: the request; its model is changed.
        epochs: passes over the forget set.
        learning_rate: η > 0.
        momentum: of SGD, in [0, 1].
        weight_decay: of SGD.

    Yields:
        An `Epoch` per pass over the forget set.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net, arXiv:1911.04933 (2020); Thudi et al.,
        arXiv:2109.13398 (2022). Settings: the command published with Fan et al., SalUn, arXiv:2310.12508 (2023).

    Deviations:
        The batch size is the request's.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     before = problem.mean_loss(problem.forget)
        ...     epochs = list(neggrad(problem, learning_rate=0.1))
        ...     problem.mean_loss(problem.forget) > before
        True
    """
    problem.settings.update(
        epochs=epochs,
        steps=epochs * problem.forget.batches,
        optimizer="SGD",
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        forget_passes=epochs,
        retain_passes=0,
    )
    problem.announce(epochs * problem.forget.batches)
    optimizer = torch.optim.SGD(problem.trainable(), learning_rate, momentum, weight_decay=weight_decay)
    order = problem.generator(0)
    for _ in range(epochs):
        started = time.perf_counter()
        with problem.training():
            loss = descend_over(problem, problem.forget, order, optimizer, own_loss(problem, -1.0))
        yield Epoch(forget_loss=loss, seconds=time.perf_counter() - started)
