"""Selective synaptic dampening: shrink the parameters that the forget set depends on more than all the data does."""

import time
from collections.abc import Iterator

import torch

from nabla_tau.facts import RETAIN, Facts, Range, described
from nabla_tau.fisher import fisher
from nabla_tau.problem import Epoch, Problem


@described(
    Facts(
        reference="Foster et al., SSD, arXiv:2308.07707 (2023), algorithm 1",
        needs=(RETAIN,),
        passes="1 × D_f, 1 × D_r, sample by sample",
        mode="eval",
        forgets="what parameters of its own carry: whole classes, clusters",
        keeps="random rows, at the published settings mostly",
        settings={
            "selection": Range(0, search=(1, 100)),
            "dampening": Range(0, search=(0.01, 10)),
        },
        not_continued="it changes the model once, at its end",
        not_sharded="it reads gradients of single samples",
    )
)
def ssd(problem: Problem, *, selection: float = 10.0, dampening: float = 1.0) -> Iterator[Epoch]:
    """Selective synaptic dampening: no training, one multiplication.

        θ_i ← β_i θ_i  where F_f,i > α F_D,i,        β_i = min(λ F_D,i / F_f,i, 1)

    F_f and F_D are diagonals of the Fisher information over D_f and D = D_f ∪ D_r, of each sample's own gradient.

    Args:
        problem: the request; its model is changed.
        selection: α ≥ 0: how much more a parameter must matter to the forget set than to all of it.
        dampening: λ ≥ 0: how much of a selected parameter is left.

    Yields:
        One `Epoch`, without losses.

    Raises:
        NonFiniteLoss: if a gradient is not finite.

    Reference:
        Foster, Schoepf, Brintrup, Fast Machine Unlearning without Retraining through Selective Synaptic Dampening,
        arXiv:2308.07707 (2023), algorithm 1. Settings: those of the comparison in Trippa et al., ∇τ, arXiv:2403.14339
        (2024).

    Note:
        Where a model's course depends on values, as with the masks of many Transformers models, gradients are computed
        one sample after the other, and settings say so (`per_sample_gradients`).

    Deviations:
        The log-likelihood is minus the per-sample loss, whichever that is. The Fisher information of D is computed with
        the request; the paper keeps it from the training. It is the mean of squared gradients of single samples, as in
        the paper's algorithm; the published code, which the settings were chosen with, squares gradients of batches.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2, bias=False)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(ssd(problem, selection=1.0))
        ...     problem.settings["dampened_share"]  # the two columns of the rows to be forgotten
        0.3333333333333333
    """
    batches = problem.forget.batches + problem.retain.batches
    problem.settings.update(
        epochs=1, steps=batches, selection=selection, dampening=dampening, forget_passes=1, retain_passes=1
    )
    problem.announce(batches)
    started = time.perf_counter()
    forget, retain = (fisher(problem, source) for source in (problem.forget, problem.retain))
    sizes = problem.forget.size, problem.retain.size
    dampened = total = 0
    with torch.no_grad():
        for parameter, own, other in zip(problem.trainable(), forget, retain, strict=True):
            everywhere = (sizes[0] * own + sizes[1] * other) / sum(sizes)
            chosen = own > selection * everywhere
            factor = (dampening * everywhere / own.clamp(min=torch.finfo(own.dtype).tiny)).clamp(max=1)
            parameter.copy_(torch.where(chosen, factor.to(parameter.dtype) * parameter, parameter))
            dampened, total = dampened + int(chosen.sum()), total + chosen.numel()
    problem.settings["dampened_share"] = dampened / total
    yield Epoch(seconds=time.perf_counter() - started)
