"""Random labels: descend on wrong labels of the forget set, then on the retain set, pass after pass."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from nabla_tau.batches import Batch
from nabla_tau.descent import descend_over, own_loss
from nabla_tau.facts import EPOCHS, LABELS, LEARNING_RATE, MOMENTUM, RETAIN, WEIGHT_DECAY, Facts, Range, described
from nabla_tau.problem import Epoch, Problem
from nabla_tau.relabelling import RELABELLED, Relabelling

SETTINGS = {
    "epochs": EPOCHS,
    "learning_rate": LEARNING_RATE,
    "retain_weight": Range(0, search=(0.1, 10)),
    "momentum": MOMENTUM,
    "weight_decay": WEIGHT_DECAY,
}


@described(
    Facts(
        reference="Golatkar et al., arXiv:1911.04933 (2020), “random labels”; as “RL” in Fan et al., arXiv:2310.12508",
        needs=(LABELS, RETAIN),
        passes="10 × D_f, 10 × D_r",
        mode="train",
        forgets="labels of any rows",
        keeps="no trace of certainty on the forget set, which a retrained model may well have: it stands out",
        tasks=RELABELLED,
        settings=SETTINGS,
    )
)
def random_label(
    problem: Problem,
    *,
    epochs: int = 10,
    learning_rate: float = 0.1,
    retain_weight: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[Epoch]:
    """Random labels: SGD in train mode on wrong labels for D_f and right ones for D_r.

        L(θ) = E_{(x, y) ∈ D_f, y' ≠ y} ℓ(θ; x, y') + α · E_{(x, y) ∈ D_r} ℓ(θ; x, y)

    y' is drawn anew in each epoch, uniformly over the wrong labels. An epoch is a pass over D_f on the first term, then
    one over D_r on the second.

    Args:
        problem: the request; its model is changed.
        epochs: passes over both sets.
        learning_rate: of SGD, above 0.
        retain_weight: α ≥ 0.
        momentum: of SGD, in [0, 1].
        weight_decay: of SGD.

    Yields:
        An `Epoch` per pass over both; its forget loss is that of the wrong labels.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.
        ValueError: if the model tells fewer than two classes apart.

    Reference:
        Golatkar, Achille, Soatto, arXiv:1911.04933 (2020); the objective is the unmasked one of Fan et al., SalUn,
        arXiv:2310.12508 (2023), and settings and order of the passes those published with it for CIFAR-10.

    Deviations:
        The true label is never drawn, as in the paper's objective (the published code may draw it). Of L labels, all
        are drawn anew, uniformly over the other 2^L − 1 rows of zeros and ones. The batch size is the request's.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     before = problem.mean_loss(problem.forget)
        ...     epochs = list(random_label(problem))
        ...     problem.mean_loss(problem.forget) > before
        True
    """
    problem.settings.update(
        optimizer="SGD",
        learning_rate=learning_rate,
        retain_weight=retain_weight,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    optimizer = torch.optim.SGD(problem.trainable(), learning_rate, momentum, weight_decay=weight_decay)
    yield from relabelled_passes(problem, optimizer, epochs, retain_weight)


def relabelled_passes(
    problem: Problem, optimizer: torch.optim.Optimizer, epochs: int, retain_weight: float
) -> Iterator[Epoch]:
    """The passes of `random_label`, with an optimiser of the caller's.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(torch.nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     sgd = torch.optim.SGD(problem.trainable(), lr=1.0)
        ...     wrong = [epoch.forget_loss for epoch in relabelled_passes(problem, sgd, epochs=5, retain_weight=1.0)]
        >>> wrong[-1] < wrong[0]
        True
    """
    steps = epochs * (problem.forget.batches + problem.retain.batches)
    problem.settings.update(epochs=epochs, steps=steps, forget_passes=epochs, retain_passes=epochs)
    problem.announce(steps)
    relabelled = Relabelling(problem)
    own, right = own_loss(problem), own_loss(problem, retain_weight)

    def wrong(batch: Batch | None) -> Any:
        return own(relabelled(batch))

    forget_order, retain_order = problem.generator(0), problem.generator(1)
    for epoch in range(epochs):
        started = time.perf_counter()
        relabelled.round = epoch
        with problem.training():
            forget_loss = descend_over(problem, problem.forget, forget_order, optimizer, wrong)
            retain_loss = descend_over(problem, problem.retain, retain_order, optimizer, right)
        yield Epoch(forget_loss=forget_loss, retain_loss=retain_loss, seconds=time.perf_counter() - started)
