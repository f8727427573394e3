"""Labels that a request removes altogether: rows of the forget set carry them, no row of the retain set does.

A model that never met a class pays far more for it than unseen data of a known class costs. What it would pay is read
off the model itself: the price it puts on the class where it sees no sign of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nabla_tau.batches import Batch, take_rows, target_of, with_target
from nabla_tau.losses import PerSampleLoss, binary, classification, multi_label


@dataclass(frozen=True)
class Removed:
    """The labels that a request removes.

    Attributes:
        loss: of the task, which says how targets carry labels.
        labels: sorted; empty where every label of the forget set is kept elsewhere.
        share: of the forget set's rows that carry one.

    Example:
        >>> removed = Removed(classification, labels=(3,), share=1.0)
        >>> batch = torch.zeros(3, 2), torch.tensor([0, 3, 1])
        >>> removed.rows(batch)
        tensor([False,  True, False])
        >>> removed.others(batch)[1], removed.priced(batch)[1]
        (tensor([0, 1]), tensor([3, 3]))
        >>> flags = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> Removed(multi_label, labels=(1,), share=1.0).priced((torch.zeros(2, 2), flags))[1]
        tensor([[1., 1., 0.],
                [0., 1., 1.]])
    """

    loss: PerSampleLoss
    labels: tuple[int, ...] = ()
    share: float = 0.0

    def rows(self, batch: Batch) -> Tensor:
        """Which rows carry a removed label, shape (n,), boolean."""
        target: Tensor = target_of(batch)
        if self.loss is multi_label:
            return target[:, list(self.labels)].gt(0.5).any(1)
        return torch.isin(_plain(target), torch.tensor(self.labels, device=target.device))

    def others(self, batch: Batch | None) -> Batch | None:
        """The rows that carry none; None where there is no such row."""
        if batch is None or not self.labels:
            return batch
        stays = ~self.rows(batch)
        return take_rows(batch, stays.nonzero().flatten()) if stays.any() else None

    def priced(self, batch: Batch | None) -> Batch | None:
        """The others as if they carried a removed label; which of several, follows from a row's own."""
        others = self.others(batch)
        if others is None:
            return None
        target: Tensor = target_of(others)
        labels = torch.tensor(self.labels, device=target.device)
        if self.loss is multi_label:
            places = torch.arange(target.shape[1], device=target.device)
            chosen = labels[(target.gt(0.5) * places).sum(1) % len(labels)]
            return with_target(others, target.clone().scatter_(1, chosen[:, None], 1))
        chosen = labels[_plain(target) % len(labels)]
        return with_target(others, chosen.reshape(target.shape).to(target.dtype))


def labels_in(loss: PerSampleLoss, batch: Batch) -> set[int]:
    """The labels that rows of a batch carry; none for a loss without labels.

    Example:
        >>> labels_in(classification, (torch.zeros(2, 1), torch.tensor([4, 4])))
        {4}
        >>> labels_in(multi_label, (torch.zeros(2, 1), torch.tensor([[0, 1, 1], [0, 0, 1]])))
        {1, 2}
    """
    if loss not in (classification, binary, multi_label):
        return set()
    target: Tensor = target_of(batch)
    if loss is multi_label:
        return set(target.gt(0.5).any(0).nonzero().flatten().tolist())
    return set(_plain(target).tolist())


def removed_labels(
    loss: PerSampleLoss, forget: Iterable[Batch | None], labels: set[int], kept: set[int], elsewhere: set[int]
) -> Removed:
    """What a request removes.

    Args:
        loss: of the task.
        forget: batches of the forget set.
        labels: that the forget set carries.
        kept: those of the retain set.
        elsewhere: those of the validation set; without one that is not removed there is nothing to read a price from.

    Example:
        >>> batches = [(torch.zeros(4, 1), torch.tensor([0, 2, 2, 2]))]
        >>> removed_labels(classification, batches, {0, 2}, kept={0, 1}, elsewhere={0, 1, 2}).labels
        (2,)
        >>> removed_labels(classification, batches, {0, 2}, kept={0, 1}, elsewhere={0, 1, 2}).share
        0.75
        >>> removed_labels(classification, batches, {0, 2}, kept={0, 1}, elsewhere={2}).labels
        ()
    """
    gone = labels - kept
    if not gone or not elsewhere - gone:
        return Removed(loss)
    found = Removed(loss, tuple(sorted(gone)))
    carry = [found.rows(batch) for batch in forget if batch is not None]
    return Removed(loss, found.labels, sum(int(rows.sum()) for rows in carry) / sum(map(len, carry)))


def _plain(target: Tensor) -> Tensor:
    return target.reshape(len(target)).long()
