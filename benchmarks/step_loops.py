"""The loops that `step_cost.py` compares: plain training, the published loop of ∇τ, and ∇τ as the library runs it.

All three work on the same rows in memory and start from the same weights. A loop offers its pieces one by one, so
that they can be timed in turns: `fetch` the batches of a step, `step` on them, `validate` on one batch.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import losses
from nabla_tau.bench.networks import resnet18
from nabla_tau.engine import start_engine
from nabla_tau.modes import unlearning_modes
from nabla_tau.objective import PassMeans, descend
from nabla_tau.problem import Problem
from nabla_tau.randomness import seeded
from nabla_tau.sets import open_set

FORGET, RETAIN, VALIDATION = 7_500, 42_500, 5_000
"""Rows of 15 % of CIFAR-10, and of the published validation set."""

REFRESH_EVERY = 5
ALPHA = 5 / 3 * FORGET / (FORGET + RETAIN)
LEARNING_RATE = 1e-5  # the published 1e-3 costs the same, but moves the losses across the target in mid-measurement
TARGET_LOSS = {True: 10.0, False: 0.0}  # above and below every loss that an untrained model has on ten classes

Rows = tuple[Tensor, Tensor]
"""Images (N, 3, 32, 32) and labels (N,)."""

Batches = tuple[Rows, ...]
"""What one step reads."""


@dataclass(frozen=True)
class Data:
    """Random images and labels, resident on one device; the training rows are the forget rows, then the retain rows."""

    training: Rows
    forget: Rows
    retain: Rows
    validation: Rows


def random_data(device: torch.device, forget: int = FORGET, retain: int = RETAIN, validation: int = VALIDATION) -> Data:
    generator = torch.Generator().manual_seed(0)
    rows = forget + retain + validation
    images = torch.empty(rows, 3, 32, 32).normal_(generator=generator).to(device)
    labels = torch.randint(10, (rows,), generator=generator).to(device)
    parts = (slice(forget + retain), slice(forget), slice(forget, forget + retain), slice(forget + retain, rows))
    return Data(*((images[part], labels[part]) for part in parts))


def new_model(width: int, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return resnet18(width, 10)[1:].to(device)  # on floats, not on uint8 images


class Loop:
    """A training loop in pieces."""

    name: str
    validation_passes = 0
    """Passes over the validation set per refresh of τ."""

    def fetch(self) -> Batches:
        """The batches of one step, from memory."""
        raise NotImplementedError

    def step(self, batches: Batches) -> None:
        """One step of the optimiser, on the batches that `fetch` gave."""
        raise NotImplementedError

    def whole_step(self) -> None:
        """Fetch and step."""
        self.step(self.fetch())

    def validate(self) -> None:
        """The loss on one validation batch, fetching included."""

    def refresh(self) -> None:
        """All that is done to measure τ again."""

    def context(self) -> AbstractContextManager[Any]:
        """What its steps run under; entered outside the timing."""
        return nullcontext()

    def cycle(self, steps: int) -> None:
        """One refresh of τ and the steps up to the next."""
        self.refresh()
        for _ in range(steps):
            self.whole_step()


class PlainTraining(Loop):
    """Train mode, AdamW, one forward and backward pass on as many samples as a step of ∇τ reads."""

    name = "plain training"

    def __init__(self, model: nn.Module, data: Data, batch_size: int, *, in_place: bool = False) -> None:
        self.model = (model if in_place else copy.deepcopy(model)).train()
        self.images, self.labels = data.training
        self.batch_size = 2 * batch_size
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        self.batches = endless(self.one_pass)

    def one_pass(self) -> Iterator[Rows]:
        """Shuffled full batches, by indexing."""
        order = torch.randperm(len(self.images))
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
            place = order[start : start + self.batch_size].to(self.images.device)
            yield self.images[place], self.labels[place]

    def fetch(self) -> Batches:
        """See `Loop`."""
        return (next(self.batches),)

    def step(self, batches: Batches) -> None:
        """See `Loop`."""
        ((images, labels),) = batches
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self.model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class PublishedLoop(Loop):
    """∇τ as one would write it down from the paper: L = α·ReLU(τ − L_f)² + (1 − α)·L_r, differentiated as a whole.

    Both forward passes, then one backward pass through both, also where the first term is 0; a `DataLoader` over
    each set; mean, variance and skewness of the validation losses in a pass each, though τ is the mean alone.
    """

    validation_passes = 3

    def __init__(self, model: nn.Module, data: Data, batch_size: int, *, active: bool) -> None:
        self.name = f"published loop, {state(active)}"
        self.model = copy.deepcopy(model).eval()
        self.target_loss = TARGET_LOSS[active]
        self.device = data.forget[0].device
        forget = DataLoader(TensorDataset(*data.forget), batch_size, shuffle=True)
        retain = DataLoader(TensorDataset(*data.retain), batch_size, shuffle=True)
        self.validation = DataLoader(TensorDataset(*data.validation), batch_size)
        self.forget_batches = endless(lambda: iter(forget))
        self.retain_batches = endless(lambda: iter(retain))
        self.validation_batches = endless(lambda: iter(self.validation))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)

    def fetch(self) -> Batches:
        """See `Loop`."""
        return self.placed(next(self.forget_batches)), self.placed(next(self.retain_batches))

    def step(self, batches: Batches) -> None:
        """See `Loop`."""
        forget_loss, retain_loss = (self.losses(batch).mean() for batch in batches)
        ascent = functional.relu(self.target_loss - forget_loss) ** 2
        loss = ALPHA * ascent + (1 - ALPHA) * retain_loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def validate(self) -> None:
        """See `Loop`."""
        with torch.no_grad():
            float(self.losses(self.placed(next(self.validation_batches))).sum())

    def refresh(self) -> None:
        """See `Loop`."""
        mean = self.validation_mean(lambda losses: losses)
        deviation = self.validation_mean(lambda losses: (losses - mean) ** 2) ** 0.5
        self.validation_mean(lambda losses: ((losses - mean) / deviation) ** 3)

    def validation_mean(self, function: Callable[[Tensor], Tensor]) -> float:
        """One validation pass: the mean of a function of the losses."""
        total, rows = 0.0, 0
        with torch.no_grad():
            for batch in self.validation:
                values = function(self.losses(self.placed(batch)))
                total, rows = total + float(values.sum()), rows + len(values)
        return total / rows

    def losses(self, batch: Rows) -> Tensor:
        """Per-sample losses."""
        return functional.cross_entropy(self.model(batch[0]), batch[1], reduction="none")

    def placed(self, batch: Any) -> Rows:
        """On the device; what is there already stays."""
        images, labels = batch
        return images.to(self.device), labels.to(self.device)


class NablaTau(Loop):
    """∇τ by the library's own path, as its methods call it; on a GPU under its deterministic kernels."""

    validation_passes = 1

    def __init__(self, model: nn.Module, data: Data, batch_size: int, *, active: bool) -> None:
        self.name = f"∇τ, {state(active)}"
        self.active = active
        self.problem = Problem(
            model=copy.deepcopy(model),
            original=model,
            forget=open_set(data.forget, batch_size),
            retain=open_set(data.retain, batch_size),
            validation=open_set(data.validation, batch_size),
            loss=losses.classification,
            engine=start_engine(data.forget[0].device),
            seed=0,
        )
        self.modes = unlearning_modes(self.problem.model)
        self.modes.__enter__()  # for as long as the process lives: nobody else uses this copy
        self.one_batch = open_set(tuple(column[:batch_size] for column in data.validation), batch_size)
        forget_order, retain_order = self.problem.generator(0), self.problem.generator(1)
        self.forget_batches = endless(lambda: self.problem.one_pass(self.problem.forget, forget_order))
        self.retain_batches = endless(lambda: self.problem.one_pass(self.problem.retain, retain_order))
        self.optimizer = self.problem.adamw(LEARNING_RATE, weight_decay=1e-2)
        self.means = PassMeans()

    def context(self) -> AbstractContextManager[Any]:
        """As `unlearn` runs: seeded, and deterministic on a GPU."""
        return seeded(0, on_gpu=self.problem.engine.device.type == "cuda")

    def fetch(self) -> Batches:
        """See `Loop`."""
        return next(self.forget_batches), next(self.retain_batches)

    def step(self, batches: Batches) -> None:
        """See `Loop`."""
        target_loss = TARGET_LOSS[self.active]
        step = descend(self.problem, self.optimizer, *batches, alpha=ALPHA, target_loss=target_loss)
        self.means.add(step)
        if (step.ascent_weight > 0) != self.active:
            raise RuntimeError(f"{self.name}: the forget loss {step.forget_loss:.3g} crossed the target {target_loss}")

    def validate(self) -> None:
        """See `Loop`."""
        self.problem.mean_loss(self.one_batch)

    def refresh(self) -> None:
        """See `Loop`."""
        self.problem.mean_loss(self.problem.validation)


def state(active: bool) -> str:
    return "ascent active" if active else "ascent inactive"


def endless(one_pass: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Pass after pass."""
    while True:
        yield from one_pass()
