"""SCRUB+R: SCRUB, then back to the pass whose forget error is that of data it never saw."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nabla_tau.batches import Batch, target_of
from nabla_tau.distillation import DISTRIBUTIONS, error, studied
from nabla_tau.facts import CLASSES, LABELS, RETAIN, SECOND_MODEL, VALIDATION, Facts, described
from nabla_tau.losses import classification
from nabla_tau.methods.scrub import SETTINGS, scrub
from nabla_tau.problem import Epoch, Problem
from nabla_tau.sets import Source

State = dict[str, Tensor]


@described(
    Facts(
        reference="Kurmanji et al., SCRUB+R, arXiv:2302.09880 (2023), section “rewinding”",
        needs=(LABELS, RETAIN, VALIDATION, CLASSES, SECOND_MODEL),
        passes="as `scrub`; 6 × D_f and 1 × D_v to measure, a copy of the weights per epoch",
        mode="train",
        forgets="any rows, and stops at “unseen” as far as the error tells",
        keeps="what the error does not show: it compares one number",
        tasks=DISTRIBUTIONS,
        settings=SETTINGS,
        not_continued="it keeps the weights of every epoch",
        not_sharded="its teacher is whole",
    )
)
def scrub_rewind(
    problem: Problem,
    *,
    epochs: int = 6,
    max_epochs: int = 3,
    learning_rate: float = 5e-4,
    temperature: float = 4.0,
    distillation_weight: float = 0.5,
    clip: float = 0.2,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[Epoch]:
    """SCRUB with rewinding: of the models after each epoch, the one whose forget error is nearest to an unseen one.

        e* = argmin_e |error(θ_e; D_f) − error(θ_E; D_v)|,        the later of two that are equally near

    Error is the share of wrong predictions, in eval mode. D_v is to be like D_f: where labels are classes, each class
    of D_v weighs as much as it does in D_f (a class that D_v lacks is left out of both).

    Args:
        problem: the request; its model is changed.
        epochs: passes over the retain set.
        max_epochs: how many of them a pass over the forget set precedes.
        learning_rate: of SGD, above 0.
        temperature: T > 0.
        distillation_weight: α ≥ 0.
        clip: largest norm of a gradient, above 0.
        momentum: of SGD, in [0, 1].
        weight_decay: of SGD.

    Yields:
        An `Epoch` per pass over the retain set; the model is rewound after the last.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.

    Reference:
        Kurmanji, Triantafillou, Hayes, Triantafillou, Towards Unbounded Machine Unlearning, arXiv:2302.09880 (2023),
        SCRUB+R. Settings: as `scrub`.

    Deviations:
        Those of `scrub`. The paper draws a validation set with D_f's classes; here D_v is weighted to have them.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(scrub_rewind(problem))
        ...     len(problem.settings["forget_errors"]), 1 <= problem.settings["rewound_to_epoch"] <= 6
        (6, True)
    """
    checkpoints: list[State] = []
    forget_errors: list[float] = []
    shares = class_shares(problem)
    passes = scrub(
        problem,
        epochs=epochs,
        max_epochs=max_epochs,
        learning_rate=learning_rate,
        temperature=temperature,
        distillation_weight=distillation_weight,
        clip=clip,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    for epoch in passes:
        checkpoints.append({name: value.detach().to("cpu", copy=True) for name, value in _state(problem).items()})
        forget_errors.append(mean_error(problem, problem.forget, shares))
        yield epoch
    unseen_error = mean_error(problem, problem.validation, shares)
    chosen = nearest(forget_errors, unseen_error)
    problem.model.load_state_dict(checkpoints[chosen])
    problem.settings.update(
        forget_errors=forget_errors, unseen_error=unseen_error, rewound_to_epoch=chosen + 1, rewound=chosen + 1 < epochs
    )


def nearest(forget_errors: list[float], unseen_error: float) -> int:
    """Place of the forget error that is nearest to an unseen one; of two equally near, the later.

    Example:
        >>> nearest([0.0, 0.2, 0.4, 0.9], unseen_error=0.3)
        2
    """
    return min(
        range(len(forget_errors)), key=lambda place: (round(abs(forget_errors[place] - unseen_error), 12), -place)
    )


def class_shares(problem: Problem) -> Tensor | None:
    """Share of each class in the forget set, shape (C,), of the classes that the validation set has too.

    None where labels are no single class, or the two sets have no class in common.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(8), torch.tensor([0, 0, 0, 1, 0, 1, 2, 2])
        >>> sets = (x[:4], y[:4]), (x[4:6], y[4:6]), (x[6:], torch.tensor([0, 2]))
        >>> with Request(torch.nn.Linear(8, 3), *sets, device="cpu").prepared() as problem:
        ...     class_shares(problem)  # class 1 has no validation row
        tensor([1., 0., 0.], dtype=torch.float64)
    """
    if problem.loss is not classification:
        return None
    forget, unseen = (_sums(problem, source)[1] for source in (problem.forget, problem.validation))
    shared = forget * (unseen > 0)
    return shared / shared.sum() if shared.sum() > 0 else None


def mean_error(problem: Problem, source: Source, shares: Tensor | None) -> float:
    """Share of wrong predictions over a set, in [0, 1], its classes weighted by `shares` where there are any.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> _ = torch.nn.init.zeros_(model.weight), model.bias.data.copy_(torch.tensor([1.0, 0.0]))  # always class 0
        >>> request = Request(model, (x[:3], y[:3]), (x[3:5], y[3:5]), (x[5:], y[5:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     whole = mean_error(problem, problem.forget, None)
        ...     whole, mean_error(problem, problem.forget, torch.tensor([0.5, 0.5]))
        (0.3333333333333333, 0.5)
    """
    wrong, rows = _sums(problem, source)
    if shares is None:
        return float(wrong.sum() / rows.sum())
    return float((wrong / rows.clamp(min=1) * shares.to(wrong)).sum())


def _sums(problem: Problem, source: Source) -> tuple[Tensor, Tensor]:
    """Σ error and number of rows of each class, both (C,); in one class, where labels are no single one."""
    classes = 1
    sums: Tensor | None = None
    with torch.no_grad():
        for batch in problem.in_order(source):
            if batch is None:
                continue
            batch, logits, _ = studied(problem, batch)
            wrong = error(problem.loss, batch, logits).to(problem.engine.sum_type)
            classes = logits.shape[-1] if problem.loss is classification else 1
            if sums is None:
                sums = torch.zeros(2, classes, dtype=wrong.dtype, device=wrong.device)
            labels = _classes(problem, batch, len(wrong))
            sums[0].index_add_(0, labels, wrong)
            sums[1].index_add_(0, labels, torch.ones_like(wrong))
    return _summed(problem, sums)


def _classes(problem: Problem, batch: Batch, size: int) -> Tensor:
    if problem.loss is classification:
        return torch.as_tensor(target_of(batch)).long()
    return torch.zeros(size, dtype=torch.long, device=problem.engine.device)


def _summed(problem: Problem, sums: Tensor | None) -> tuple[Tensor, Tensor]:
    """Over processes, of which one may have read no row."""
    size = -problem.engine.minimum(-(0 if sums is None else sums.shape[1]))
    if sums is None:
        sums = torch.zeros(2, size, dtype=problem.engine.sum_type, device=problem.engine.device)
    wrong, rows = problem.engine.sum(sums)
    return wrong, rows


def _state(problem: Problem) -> State:
    return problem.model.state_dict()
