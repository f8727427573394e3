"""NegGrad+: ascent on the forget set and descent on the retain set, in one step."""

import time
from collections.abc import Iterator

import torch

from nabla_tau.descent import Pairs, descend_in_pairs, own_loss
from nabla_tau.facts import EPOCHS, LEARNING_RATE, MOMENTUM, RETAIN, WEIGHT_DECAY, Facts, Range, described
from nabla_tau.problem import Epoch, Problem


@described(
    Facts(
        reference="Kurmanji et al., SCRUB, arXiv:2302.09880 (2023), “NegGrad+”",
        needs=(RETAIN,),
        passes="5 × the larger of D_f and D_r, of both",
        mode="train",
        forgets="any rows",
        keeps="the ascent has no end: too long or too strong a run goes past “unseen”",
        settings={
            "epochs": EPOCHS,
            "learning_rate": LEARNING_RATE,
            "beta": Range(0, 1, search=(0.5, 0.9999), scale="linear"),
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
        },
    )
)
def neggrad_plus(
    problem: Problem,
    *,
    epochs: int = 5,
    learning_rate: float = 1e-2,
    beta: float = 0.95,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[Epoch]:
    """NegGrad+: SGD on a weighted difference of the two losses, in train mode.

        L(θ) = β · L_r(θ) − (1 − β) · L_f(θ)

    Each step takes a retain and a forget batch; the shorter set goes round.

    Args:
        problem: the request; its model is changed.
        epochs: passes over the longer of the two sets.
        learning_rate: of SGD, above 0.
        beta: β in [0, 1].
        momentum: of SGD, in [0, 1].
        weight_decay: of SGD.

    Yields:
        An `Epoch` per pass.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Kurmanji, Triantafillou, Hayes, Triantafillou, Towards Unbounded Machine Unlearning, arXiv:2302.09880 (2023),
        the baseline NegGrad+.

    Deviations:
        The paper searches its settings task by task. Of the defaults, β and the learning rate are those that its
        authors publish for small sets; epochs (theirs are 10) and momentum (theirs is none) are ours. The batch size
        is the request's.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     before = problem.mean_loss(problem.forget)
        ...     epochs = list(neggrad_plus(problem, learning_rate=0.1, beta=0.5))
        ...     problem.mean_loss(problem.forget) > before
        True
    """
    pairs = Pairs(problem)
    problem.settings.update(
        epochs=epochs,
        steps=epochs * pairs.steps,
        optimizer="SGD",
        learning_rate=learning_rate,
        beta=beta,
        momentum=momentum,
        weight_decay=weight_decay,
        forget_passes=epochs * pairs.steps / problem.forget.batches,
        retain_passes=epochs * pairs.steps / problem.retain.batches,
    )
    problem.announce(epochs * pairs.steps)
    optimizer = torch.optim.SGD(problem.trainable(), learning_rate, momentum, weight_decay=weight_decay)
    for _ in range(epochs):
        started = time.perf_counter()
        with problem.training():
            forget_loss, retain_loss = descend_in_pairs(
                problem, pairs, optimizer, own_loss(problem, beta - 1), own_loss(problem, beta)
            )
        yield Epoch(forget_loss=forget_loss, retain_loss=retain_loss, seconds=time.perf_counter() - started)
