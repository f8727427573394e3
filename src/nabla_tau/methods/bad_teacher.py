"""Bad teacher: one that knows nothing for what is to be forgotten, a competent one for the rest."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nabla_tau.batches import take_rows
from nabla_tau.descent import Mean
from nabla_tau.distillation import DISTRIBUTIONS, answers, divergence, frozen_copy, studied, untrained_copy
from nabla_tau.facts import EPOCHS, LEARNING_RATE, RETAIN, SECOND_MODEL, Facts, Range, described
from nabla_tau.mixing import Mixed, Mixture
from nabla_tau.problem import Epoch, Problem


@described(
    Facts(
        reference="Chundawat et al., Bad Teaching, arXiv:2205.08096 (2023), the unlearning objective",
        needs=(RETAIN, SECOND_MODEL),
        passes="1 × D_f, 0.3 × D_r; two teachers read them too",
        mode="train",
        forgets="any rows, towards the outputs of an untrained model",
        keeps="an untrained model's outputs are not those of a retrained one: what was forgotten stands out",
        tasks=DISTRIBUTIONS,
        settings={
            "epochs": EPOCHS,
            "learning_rate": LEARNING_RATE,
            "temperature": Range(0, above=True, search=(0.5, 8)),
            "retain_share": Range(0, 1, above=True),
        },
        not_sharded="its teacher is whole",
    )
)
def bad_teacher(
    problem: Problem,
    *,
    epochs: int = 1,
    learning_rate: float = 1e-4,
    temperature: float = 1.0,
    retain_share: float = 0.3,
) -> Iterator[Epoch]:
    """Bad teaching: the student learns from an incompetent teacher on D_f, from a competent one on D_r.

        L(x, u) = (1 − u) · KL(p_good(x) ‖ p_θ(x)) + u · KL(p_bad(x) ‖ p_θ(x)),        u = 1 on D_f, 0 on D_r

    The good teacher is the original, the bad one the same model with random weights; both in eval mode, at temperature
    T, with the factor T². Adam in train mode on D_f and a random share of D_r, mixed.

    Args:
        problem: the request; its model is changed.
        epochs: passes over D_f and the share of D_r.
        learning_rate: of Adam, above 0.
        temperature: T > 0.
        retain_share: share of D_r, in (0, 1].

    Yields:
        An `Epoch` per pass.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Chundawat, Tarun, Mandal, Kankanhalli, Can Bad Teaching Induce Forgetting?, arXiv:2205.08096 (2023), the
        unlearning objective; T² as in Hinton et al., arXiv:1503.02531 (2015), 1 at the default. Settings: those of the
        comparison in Foster et al., SSD, arXiv:2308.07707 (2023).

    Note:
        Until the first forget sample is read, the student is its good teacher and gradients are rounding alone, which
        Adam magnifies: with few forget samples, other hardware or another number of processes gives other weights.

    Deviations:
        With labels that are no single class, KL is averaged over labels or tokens. The batch size is the request's.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(bad_teacher(problem, epochs=5, learning_rate=0.1))
        ...     bool((problem.model.weight != model.weight).any()), len(epochs)
        (True, 5)
    """
    mixture = Mixture(problem, retain_share)
    problem.settings.update(
        epochs=epochs,
        steps=epochs * mixture.batches,
        optimizer="Adam",
        learning_rate=learning_rate,
        temperature=temperature,
        retain_share=retain_share,
        mixed=mixture.of,
        teachers=2,
        forget_passes=epochs,
        retain_passes=epochs * retain_share,
    )
    problem.announce(epochs * mixture.batches)
    good, bad = frozen_copy(problem), untrained_copy(problem)
    optimizer = torch.optim.Adam(problem.trainable(), lr=learning_rate)
    order = problem.generator(3)
    for _ in range(epochs):
        started = time.perf_counter()
        forget, retain = Mean(), Mean()
        with problem.training():
            for mixed in mixture.one_pass(order):
                apart, losses = taught(problem, good, bad, mixed, temperature)
                problem.backward(problem.mean(apart).local)
                forget.add(problem.mean(losses.detach()[mixed.kept :]))
                retain.add(problem.mean(losses.detach()[: mixed.kept]))
                problem.update(optimizer)
        yield Epoch(
            forget_loss=forget.value("the forget samples of a pass"),
            retain_loss=retain.value("the retain samples of a pass"),
            seconds=time.perf_counter() - started,
        )


def taught(
    problem: Problem, good: nn.Module, bad: nn.Module, mixed: Mixed, temperature: float
) -> tuple[Tensor, Tensor]:
    """Divergence of the student from the teacher that each sample has, and the student's losses; both (n,).

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> forget, retain = (x[:1], y[:1]), (x[2:4], y[2:4])
        >>> request = Request(nn.Linear(6, 2), forget, retain, (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     good, bad = frozen_copy(problem), untrained_copy(problem)
        ...     apart, _ = taught(problem, good, bad, Mixed(forget, retain), temperature=1.0)
        >>> (apart > 1e-6).tolist()  # the student is still the good teacher
        [False, False, True]
    """
    batch = mixed.batch
    if batch is None:
        nothing = torch.zeros(0, device=problem.engine.device)
        return nothing, nothing
    batch, logits, losses = studied(problem, batch)
    teachers = answers(problem, good, batch)
    if mixed.forget is not None:
        gone = torch.arange(mixed.kept, len(teachers))
        teachers = torch.cat([teachers[: mixed.kept], answers(problem, bad, take_rows(batch, gone))])
    return divergence(problem.loss, batch, logits, teachers, temperature), losses
