"""SalUn: random labels, learned by the weights alone that matter to the forget set."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nabla_tau.facts import LABELS, RETAIN, Facts, Range, described
from nabla_tau.methods.random_label import SETTINGS, relabelled_passes
from nabla_tau.problem import Epoch, Problem
from nabla_tau.relabelling import RELABELLED


@described(
    Facts(
        reference="Fan et al., SalUn, arXiv:2310.12508 (2023), the saliency mask and its use with random labels",
        needs=(LABELS, RETAIN),
        passes="1 × D_f for the mask; 10 × D_f, 10 × D_r",
        mode="train",
        forgets="labels of any rows",
        keeps="as `random_label`, and what the frozen half of the weights carries",
        tasks=RELABELLED,
        settings={**SETTINGS, "mask_share": Range(0, 1, above=True, search=(0.1, 0.9), scale="linear")},
        not_sharded="its mask ranks the weights of all layers together",
    )
)
def salun(
    problem: Problem,
    *,
    epochs: int = 10,
    learning_rate: float = 0.1,
    mask_share: float = 0.5,
    retain_weight: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[Epoch]:
    """SalUn: `random_label` under a mask of salient weights.

        m = 1(|∇L_f(θ_o)| ≥ γ),        θ_u = m ⊙ (θ_o + Δθ) + (1 − m) ⊙ θ_o

    γ is the value that leaves the wanted share of all trainable weights: the median, by default. The gradient is that
    of the original's mean loss over D_f, in eval mode. A masked weight keeps its value to the bit: neither weight decay
    nor momentum moves it.

    Args:
        problem: the request; its model is changed.
        epochs: passes over both sets.
        learning_rate: of SGD, above 0.
        mask_share: share of the weights that may move, in (0, 1].
        retain_weight: α ≥ 0 of `random_label`.
        momentum: of SGD, in [0, 1].
        weight_decay: of SGD.

    Yields:
        An `Epoch` per pass over both; its forget loss is that of the wrong labels.

    Raises:
        NonFiniteLoss: if a loss becomes NaN or infinite.
        ValueError: if the model tells fewer than two classes apart.

    Reference:
        Fan et al., SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency, arXiv:2310.12508 (2023),
        mask and hard-thresholded update; the settings are those of the command published with it.

    Deviations:
        Those of `random_label`. Of weights with equal gradients at γ, as many move as the share says. Batch norm's
        running statistics are no weights, and move.

    Example:
        >>> import torch
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> model = torch.nn.Linear(6, 2)
        >>> request = Request(model, (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     epochs = list(salun(problem))
        ...     int((problem.model.weight != model.weight).sum() + (problem.model.bias != model.bias).sum())  # of 14
        7
    """
    problem.settings.update(
        optimizer="SGD",
        learning_rate=learning_rate,
        mask_share=mask_share,
        retain_weight=retain_weight,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    parameters = problem.trainable()
    masks = saliency_masks(problem, mask_share)
    kept = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum, weight_decay=weight_decay)

    def restore(*_: Any) -> None:
        with torch.no_grad():
            for parameter, mask, original in zip(parameters, masks, kept, strict=True):
                parameter.copy_(torch.where(mask, parameter, original))

    optimizer.register_step_post_hook(restore)
    yield from relabelled_passes(problem, optimizer, epochs, retain_weight)


def saliency_masks(problem: Problem, share: float) -> list[Tensor]:
    """Which weights matter most to the forget set: the share with the largest |∂L_f/∂θ_i|.

    Args:
        problem: the request, its model as it came.
        share: in (0, 1], of all trainable weights together.

    Returns:
        A boolean tensor per trainable parameter, of its shape.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(torch.nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     weight, bias = saliency_masks(problem, share=4 / 14)  # the columns of the two rows
        >>> weight.any(0).tolist(), bias.tolist()
        ([True, True, False, False, False, False], [False, False])
    """
    for batch in problem.in_order(problem.forget):
        problem.backward(problem.losses(batch).sum())
    problem.engine.sum_gradients(problem.model)
    parameters = problem.trainable()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad.abs() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    flat = torch.cat([slope.flatten() for slope in slopes])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[flat.topk(max(1, round(share * len(flat)))).indices] = True
    parts = torch.split(chosen, [slope.numel() for slope in slopes])
    return [part.view_as(slope) for part, slope in zip(parts, slopes, strict=True)]
