"""The bank of membership scores: one number per sample and score, higher for what looks more like a member."""

import torch
from torch import Tensor
from torch.nn import functional

Bank = dict[str, Tensor]
"""Name of a score -> its values, shape (N,), float64."""


def classification_bank(logits: Tensor, target: Tensor, features: Tensor | None = None) -> Bank:
    """Scores of a classifier, p = softmax(z).

        confidence = log p_y − log Σ_{j≠y} p_j                         (logit-scaled; the same order as −loss)
        margin = z_y − max_{j≠y} z_j
        entropy = Σ_j p_j log p_j                                      (negative entropy: members are surer)
        modified_entropy = (1 − p_y) log p_y + Σ_{j≠y} p_j log(1 − p_j)
        correct = 1[argmax z = y]
        gradient_norm = −‖p − e_y‖ · √(‖h‖² + 1)                       (of the last linear layer, h its input)

    Args:
        logits: z, shape (N, C).
        target: y, shape (N,), integers in [0, C).
        features: h, shape (N, D); None where no last linear layer was found, then `gradient_norm` is absent.

    Returns:
        Each score, shape (N,), float64.

    Reference:
        Carlini et al., arXiv:2112.03570 (confidence); Song and Mittal, arXiv:2003.10595 (modified entropy).

    Example:
        >>> bank = classification_bank(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
        >>> round(float(bank["confidence"]), 4), float(bank["margin"])
        (1.3069, 2.0)
    """
    z = logits.double()
    own = functional.one_hot(target.long(), z.shape[1]).bool()
    z_own, z_others = z[own], z.masked_fill(own, -torch.inf)
    log_p = z.log_softmax(1)
    p = log_p.exp()
    log_rest = _log_one_minus(log_p)
    log_others = z_others.logsumexp(1) - z.logsumexp(1)  # log(1 − p_y), exact where p_y is nearly 1
    terms = torch.where(own, torch.zeros_like(p), p * log_rest)
    bank = {
        "confidence": z_own - z_others.logsumexp(1),
        "margin": z_own - z_others.amax(1),
        "entropy": (p * log_p).sum(1),
        "modified_entropy": log_others.exp() * log_p[own] + terms.sum(1),
        "correct": (z.argmax(1) == target).double(),
    }
    return _with_gradient(bank, p - own.double(), features)


def multi_label_bank(logits: Tensor, target: Tensor, features: Tensor | None = None) -> Bank:
    """Scores of a multi-label or binary classifier, per label and then averaged; q_j is the probability of y_j.

        confidence = mean_j log q_j / (1 − q_j)
        margin = min_j log q_j / (1 − q_j)
        entropy = mean_j q_j log q_j + (1 − q_j) log(1 − q_j)
        modified_entropy = mean_j 2 (1 − q_j) log q_j
        correct = share of the labels predicted right
        gradient_norm = −‖σ(z) − y‖ / L · √(‖h‖² + 1)

    Args:
        logits: z, shape (N, L) or (N,).
        target: y, same shape, 0 or 1.
        features: h, shape (N, D), or None.

    Returns:
        Each score, shape (N,), float64.

    Example:
        >>> bank = multi_label_bank(torch.tensor([[3.0, -1.0]]), torch.tensor([[1, 1]]))
        >>> float(bank["margin"]), float(bank["correct"])
        (-1.0, 0.5)
    """
    z = logits.double().reshape(len(logits), -1)
    y = target.double().reshape(len(target), -1)
    signed = z * (2 * y - 1)
    log_q, log_rest = functional.logsigmoid(signed), functional.logsigmoid(-signed)
    q, rest = log_q.exp(), log_rest.exp()
    bank = {
        "confidence": signed.mean(1),
        "margin": signed.amin(1),
        "entropy": (q * log_q + rest * log_rest).mean(1),
        "modified_entropy": (2 * rest * log_q).mean(1),
        "correct": ((z > 0) == (y > 0.5)).double().mean(1),
    }
    return _with_gradient(bank, (z.sigmoid() - y) / z.shape[1], features)


def regression_bank(predictions: Tensor, target: Tensor, features: Tensor | None = None) -> Bank:
    """The one score of a regression besides its loss: −2 ‖z − y‖ / D · √(‖h‖² + 1), where h is known.

    Args:
        predictions: z, shape (N, D) or (N,).
        target: y, same shape.
        features: h, shape (N, K), or None: then there is none.

    Returns:
        `gradient_norm`, shape (N,), float64, or nothing.

    Example:
        >>> regression_bank(torch.tensor([1.0]), torch.tensor([0.0]), torch.zeros(1, 3))
        {'gradient_norm': tensor([-2.], dtype=torch.float64)}
    """
    z = predictions.double().reshape(len(predictions), -1)
    y = target.double().reshape(len(target), -1)
    return _with_gradient({}, 2 * (z - y) / z.shape[1], features)


def token_bank(logits: Tensor, labels: Tensor, ignored: int = -100) -> Bank:
    """Scores of a token model over the labelled tokens of a sample.

        confidence = mean_t log p_t / (1 − p_t),   margin = min_t of the same,   entropy = mean_t Σ_j p_tj log p_tj,
        correct = share of the tokens predicted right

    Args:
        logits: z, shape (N, T, V), aligned with the labels.
        labels: y, shape (N, T); `ignored` where a token does not count. Every sample has one that does.
        ignored: the label that does not count.

    Returns:
        Each score, shape (N,), float64.

    Example:
        >>> bank = token_bank(torch.zeros(1, 2, 4), torch.tensor([[1, -100]]))
        >>> round(float(bank["confidence"]), 4)
        -1.0986
    """
    counted = labels.ne(ignored)
    place = labels.masked_fill(~counted, 0).long()[..., None]
    z = logits.double()
    log_p = z.log_softmax(2)
    z_others = z.scatter(2, place, -torch.inf)
    confidence = z.gather(2, place)[..., 0] - z_others.logsumexp(2)
    right = (z.argmax(2) == place[..., 0]).double()

    def mean(values: Tensor) -> Tensor:
        return values.masked_fill(~counted, 0).sum(1) / counted.sum(1)

    return {
        "confidence": mean(confidence),
        "margin": confidence.masked_fill(~counted, torch.inf).amin(1),
        "entropy": mean((log_p.exp() * log_p).sum(2)),
        "correct": mean(right),
    }


def _with_gradient(bank: Bank, residual: Tensor, features: Tensor | None) -> Bank:
    """Add the norm of the gradient of the loss in the weights and bias of the last linear layer, in closed form."""
    if features is not None:
        norm = residual.norm(dim=1) * (features.double().square().sum(1) + 1).sqrt()
        bank["gradient_norm"] = -norm
    return bank


def _log_one_minus(log_p: Tensor) -> Tensor:
    """log(1 − p) from log p, finite where p rounds to 1."""
    tiny = torch.finfo(log_p.dtype).tiny
    return torch.log(-torch.expm1(log_p).clamp(max=-tiny))
