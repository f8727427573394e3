"""SCRUB as its authors set it for small sets: Adam, more epochs, strong weight decay."""

from collections.abc import Iterator

import torch

from nabla_tau.distillation import DISTRIBUTIONS
from nabla_tau.facts import LEARNING_RATE, RETAIN, SECOND_MODEL, WEIGHT_DECAY, Facts, Range, described
from nabla_tau.methods.scrub import alternating_passes
from nabla_tau.problem import Epoch, Problem

# After these epochs the rate is a tenth of what it was.
MILESTONES = (5, 8, 9)


@described(
    Facts(
        reference="Kurmanji et al., SCRUB, arXiv:2302.09880 (2023), eq. 3, settings of its small sets",
        needs=(RETAIN, SECOND_MODEL),
        passes="3 × D_f, 10 × D_r; the teacher reads them too",
        mode="train",
        forgets="any rows; best whole classes",
        keeps="it can go past “unseen”, and its weight decay moves every weight",
        tasks=DISTRIBUTIONS,
        settings={
            "epochs": Range(1, whole=True, search=(5, 20)),
            "max_epochs": Range(0, whole=True, search=(1, 5)),
            "learning_rate": LEARNING_RATE,
            "temperature": Range(0, above=True, search=(1, 8)),
            "distillation_weight": Range(0, search=(0.01, 1)),
            "weight_decay": WEIGHT_DECAY,
        },
        not_sharded="its teacher is whole",
    )
)
def scrub_small(
    problem: Problem,
    *,
    epochs: int = 10,
    max_epochs: int = 3,
    learning_rate: float = 5e-4,
    temperature: float = 2.0,
    distillation_weight: float = 0.5,
    weight_decay: float = 0.1,
) -> Iterator[Epoch]:
    """SCRUB at the settings that its authors use for sets of some hundred to some thousand rows.

        min_θ  L_r(θ) + α/N_r Σ_r d(x; θ) − 1/N_f Σ_f d(x; θ),    d = T² · KL(p_teacher ‖ p_θ) at temperature T

    As `scrub`, by Adam, whose weight decay is a part of the gradient; the learning rate is a tenth after epochs 5, 8
    and 9. `scrub` takes hundreds of steps on such sets, too few for its SGD to get anywhere.

    Args:
        problem: the request; its model is changed.
        epochs: passes over the retain set.
        max_epochs: how many of them a pass over the forget set precedes.
        learning_rate: of Adam, above 0.
        temperature: T > 0.
        distillation_weight: α ≥ 0.
        weight_decay: λ of the penalty λ/2 · ‖θ‖².

    Yields:
        An `Epoch` per pass over the retain set.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Kurmanji, Triantafillou, Hayes, Triantafillou, Towards Unbounded Machine Unlearning, arXiv:2302.09880 (2023),
        equation 3 and its alternation of steps. Settings: those that its authors publish for small sets of CIFAR-10.

    Deviations:
        With labels that are no single class, KL is averaged over labels or tokens. The batch size is the request's (32
        and 64 there).

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(scrub_small(problem))
        >>> len(epochs), problem.settings["optimizer"]
        (10, 'Adam')
    """
    problem.settings.update(optimizer="Adam", learning_rate=learning_rate, weight_decay=weight_decay)
    optimizer = torch.optim.Adam(problem.trainable(), learning_rate, weight_decay=weight_decay)
    yield from alternating_passes(
        problem, optimizer, MILESTONES, epochs, max_epochs, temperature=temperature, weight=distillation_weight
    )
