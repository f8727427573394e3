"""ℓ1-sparse: go on with the retain set under a penalty on all weights, which prunes while it fine-tunes."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from nabla_tau.descent import descend_over, own_loss
from nabla_tau.facts import EPOCHS, LEARNING_RATE, MOMENTUM, RETAIN, WEIGHT_DECAY, Facts, Range, described
from nabla_tau.problem import Epoch, Problem


@described(
    Facts(
        reference="Jia et al., arXiv:2304.04934 (2023), “ℓ1-sparse MU”",
        needs=(RETAIN,),
        passes="10 × D_r",
        mode="train",
        forgets="what small weights carry: the forget set is never read",
        keeps="what large weights carry",
        settings={
            "epochs": EPOCHS,
            "learning_rate": LEARNING_RATE,
            "penalty": Range(0, search=(1e-6, 1e-2)),
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
        },
    )
)
def l1_sparse(
    problem: Problem,
    *,
    epochs: int = 10,
    learning_rate: float = 1e-2,
    penalty: float = 5e-4,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[Epoch]:
    """ℓ1-sparse unlearning: SGD on the retain loss and the weights' absolute values, in train mode.

        L(θ) = L_r(θ) + γ_e ‖θ‖₁,        γ_e = γ · (1 − e / E) in epoch e of E

    Args:
        problem: the request; its model is changed.
        epochs: E passes over the retain set.
        learning_rate: of SGD, above 0.
        penalty: γ ≥ 0.
        momentum: of SGD, in [0, 1].
        weight_decay: of SGD.

    Yields:
        An `Epoch` per pass over the retain set.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Jia et al., Model Sparsity Can Simplify Machine Unlearning, arXiv:2304.04934 (2023): the ℓ1-regularised
        objective, with the linearly falling γ that the paper finds best. Epochs and learning rate: the command
        published with Fan et al., SalUn, arXiv:2310.12508 (2023).

    Deviations:
        The paper searches γ task by task; the default is ours. The penalty is on every trainable parameter. The batch
        size is the request's.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(l1_sparse(problem, penalty=1.0))
        ...     bool(problem.model.weight.abs().sum() < model.weight.abs().sum())
        True
    """
    problem.settings.update(
        epochs=epochs,
        steps=epochs * problem.retain.batches,
        optimizer="SGD",
        learning_rate=learning_rate,
        penalty=penalty,
        momentum=momentum,
        weight_decay=weight_decay,
        forget_passes=0,
        retain_passes=epochs,
    )
    problem.announce(epochs * problem.retain.batches)
    parameters = problem.trainable()
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum, weight_decay=weight_decay)
    order, gamma = problem.generator(1), penalty

    def add_penalty(*_: Any) -> None:  # once, after the gradients of all processes were put together
        for parameter in parameters:
            slope = gamma * parameter.detach().sign()
            parameter.grad = slope if parameter.grad is None else parameter.grad + slope

    optimizer.register_step_pre_hook(add_penalty)
    for epoch in range(epochs):
        started = time.perf_counter()
        gamma = penalty * (1 - epoch / epochs)
        with problem.training():
            loss = descend_over(problem, problem.retain, order, optimizer, own_loss(problem))
        yield Epoch(retain_loss=loss, seconds=time.perf_counter() - started)
