"""Amnesiac unlearning: train on with wrong labels where the forget set had right ones."""

import time
from collections.abc import Iterator

import torch

from nabla_tau.descent import Mean
from nabla_tau.facts import EPOCHS, LABELS, LEARNING_RATE, RETAIN, Facts, described
from nabla_tau.mixing import Mixture, joined
from nabla_tau.problem import Epoch, Problem
from nabla_tau.relabelling import RELABELLED, Relabelling


@described(
    Facts(
        reference="Graves et al., Amnesiac Machine Learning, arXiv:2010.10981 (2021), section “unlearning”",
        needs=(LABELS, RETAIN),
        passes="3 × D_f, 3 × D_r",
        mode="train",
        forgets="labels of any rows",
        keeps="the inputs, whose new labels are learned by heart: they cost more than unseen ones",
        tasks=RELABELLED,
        settings={"epochs": EPOCHS, "learning_rate": LEARNING_RATE},
    )
)
def amnesiac(problem: Problem, *, epochs: int = 3, learning_rate: float = 1e-4) -> Iterator[Epoch]:
    """Amnesiac unlearning: Adam in train mode on D_r ∪ {(x, y') : (x, y) ∈ D_f}, with y' a random wrong label.

    A sample's wrong label is drawn once, uniformly over the others, and kept for all passes.

    Args:
        problem: the request; its model is changed.
        epochs: passes over both sets.
        learning_rate: of Adam, above 0.

    Yields:
        An `Epoch` per pass over both sets; its forget loss is that of the wrong labels.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.
        ValueError: if the model tells fewer than two classes apart.

    Reference:
        Graves, Nagisetty, Ganesh, Amnesiac Machine Learning, arXiv:2010.10981 (2021), unlearning by relabelling; the
        name is theirs for another method, which takes back logged updates, and that of the comparison in Trippa et
        al., ∇τ, arXiv:2403.14339 (2024), for this one. Settings: those of that comparison.

    Deviations:
        Of L labels, all are drawn anew, uniformly over the other 2^L − 1 rows of zeros and ones. Under augmentation a
        sample's label is drawn per view. The batch size is the request's (128 there).

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     before = problem.mean_loss(problem.forget)
        ...     epochs = list(amnesiac(problem, learning_rate=0.1))
        ...     problem.mean_loss(problem.forget) > before
        True
    """
    mixture, relabelled = Mixture(problem), Relabelling(problem)
    problem.settings.update(
        epochs=epochs,
        steps=epochs * mixture.batches,
        optimizer="Adam",
        learning_rate=learning_rate,
        mixed=mixture.of,
        forget_passes=epochs,
        retain_passes=epochs,
    )
    problem.announce(epochs * mixture.batches)
    optimizer = torch.optim.Adam(problem.trainable(), lr=learning_rate)
    order = problem.generator(3)
    for _ in range(epochs):
        started = time.perf_counter()
        forget, retain = Mean(), Mean()
        with problem.training():
            for mixed in mixture.one_pass(order):
                losses = problem.losses(joined(mixed.retain, relabelled(mixed.forget)))
                problem.backward(problem.mean(losses).local)
                forget.add(problem.mean(losses.detach()[mixed.kept :]))
                retain.add(problem.mean(losses.detach()[: mixed.kept]))
                problem.update(optimizer)
        yield Epoch(
            forget_loss=forget.value("the forget samples of a pass"),
            retain_loss=retain.value("the retain samples of a pass"),
            seconds=time.perf_counter() - started,
        )
