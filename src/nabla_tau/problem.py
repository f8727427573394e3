"""What a method works on: a model to change, three sets, a loss, and the processes that share the work."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from nabla_tau.batches import Batch, cut, rows_in, take_rows, to_device
from nabla_tau.engine import Engine
from nabla_tau.errors import InvalidRequest
from nabla_tau.journal import SET, Journal
from nabla_tau.losses import PerSampleLoss, logits_of, not_one_each
from nabla_tau.modes import (
    WithoutDropout,
    buffers_kept,
    draws_on_the_batch,
    follow_spectral_norms,
    statistics_of,
    training_modes,
    unlearning_modes,
    without_batch_statistics,
)
from nabla_tau.randomness import undisturbed
from nabla_tau.removed import Removed
from nabla_tau.sets import Source
from nabla_tau.sharding import Shards
from nabla_tau.shards import is_shard


@dataclass(frozen=True)
class Epoch:
    """What one pass did: of ∇τ over the forget set, of another method as its paper counts epochs.

    Attributes:
        alpha: forget weight α of the pass; None, as τ and w, where the method has no such thing.
        target_loss: target loss τ of the pass.
        forget_loss: mean loss L_f of the forget batches of the pass, each before its step; None where none was read.
        retain_loss: mean loss L_r of the retain batches of the pass, each before its step; None where none was read.
        ascent_weight: mean over steps of w = 2α·ReLU(τ − L_f), as bounded; 0 where there was nothing left to push.
        seconds: duration of the pass.
    """

    alpha: float | None = None
    target_loss: float | None = None
    forget_loss: float | None = None
    retain_loss: float | None = None
    ascent_weight: float | None = None
    seconds: float = 0.0


class NonFiniteLoss(ArithmeticError):  # noqa: N818  (it says what is the case)
    """A loss became NaN or infinite; the model passed in is untouched.

    Example:
        >>> finite(float("nan"), "a forget batch")
        Traceback (most recent call last):
        nabla_tau.problem.NonFiniteLoss: Expected finite losses, got nan for a forget batch: ...
    """


def counted(losses: Tensor, largest: float) -> Tensor:
    """Losses as they count, min(ℓ_i, c): those beyond c have no gradient. Infinite ones stay, to be found.

    Example:
        >>> counted(torch.tensor([0.5, 4.0, math.inf]), largest=3.0)
        tensor([0.5000, 3.0000,    inf])
    """
    return losses if largest == math.inf else losses.where(losses.isinf(), losses.clamp(max=largest))


@dataclass(frozen=True)
class BatchLoss:
    """The mean loss of one global batch.

    Attributes:
        local: this process's part of the mean, to be differentiated: Σ over its samples of ℓ / size. Parts add up
            to the mean over processes, so their gradients do too.
        value: the mean, the same on every process, without gradient.
        size: samples in the global batch.
    """

    local: Tensor
    value: Tensor
    size: int


def _nothing() -> None:
    """What there is to do where nothing has to be undone."""


@dataclass
class Problem:
    """One request to unlearn, on its device and shared among its processes.

    A method changes `model`, writes what it derived into `settings`, announces its steps and yields an `Epoch` per
    pass. It reads like plain torch and never mentions processes. What it decides follows from means that it is given
    here, so that a run that was cut off can be continued: see `Journal`.

    Attributes:
        model: the copy to be changed.
        original: the model passed in; read, never written. Where it was given up it is `model` itself.
        forget: the forget set D_f.
        retain: the retain set D_r.
        validation: the validation set D_v.
        loss: per-sample loss ℓ, `(model, batch) -> (N,)`.
        engine: device and processes.
        seed: of the order of both sets.
        settings: every value that was derived.
        on_step: called with (steps done, steps planned) after each; a method that goes on after these plans more.
        around_loss: entered around every forward and backward pass; by default it switches functional dropout off.
        warnings: what the reader of the result must know.
        sets: the sets as they were passed in, by name.
        micro_batch_size: samples that a process gives the model at once; None for its whole share of a batch.
        resting: whether the last forget batch needed no push.
        scaler: of losses in fp16, so that small gradients do not vanish; None in any other precision.
        put_back: gives the model the original's weights again.
        take_back: called where a step overflowed: what its passes moved in the model, besides gradients, is as before.
        samples_differentiated: samples that this process read with a graph, which is what a step costs.
        fingerprints: what tells each set from others; that of the forget set is for no record that outlives the run.
        journal: what the method was told.
        after_step: called with the optimiser after each step that counts.
        resume: called with the optimiser once the journal has been repeated.
        removed: labels that the request removes, where the method asks for them.
        largest_loss: what the loss of a forgotten or an unseen sample counts at most, where a method pushes.
        shards: of a model that is sharded, how its processes keep in step.
        losses_read: of whole sets, while the model stands still.
        steps: steps done.
        total_steps: steps announced.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> request = Request(nn.Linear(6, 2), (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:]), device="cpu")
        >>> with request.prepared() as problem:  # one step down on the retain set
        ...     before = problem.mean_loss(problem.retain)
        ...     sgd = torch.optim.SGD(problem.trainable(), lr=0.1)
        ...     batch = next(problem.one_pass(problem.retain, problem.generator(0)))
        ...     problem.backward(problem.batch_loss(batch).local)
        ...     made = problem.update(sgd)
        ...     problem.mean_loss(problem.retain) < before, problem.steps
        (True, 1)
    """

    model: nn.Module
    original: nn.Module
    forget: Source
    retain: Source
    validation: Source
    loss: PerSampleLoss
    engine: Engine
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    on_step: Callable[[int, int], None] = lambda done, total: None
    around_loss: Callable[[], AbstractContextManager[Any]] = WithoutDropout
    warnings: list[str] = field(default_factory=list)
    sets: dict[str, Any] = field(default_factory=dict)
    micro_batch_size: int | None = None
    resting: bool = False
    scaler: torch.amp.GradScaler | None = None
    put_back: Callable[[], None] = _nothing
    take_back: Callable[[], None] = _nothing
    samples_differentiated: int = 0
    fingerprints: dict[str, str] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    after_step: Callable[[torch.optim.Optimizer], None] = lambda optimizer: None
    resume: Callable[[torch.optim.Optimizer], None] = lambda optimizer: None
    removed: Removed | None = None
    largest_loss: float = math.inf
    shards: Shards | None = None
    losses_read: dict[Any, list[Tensor]] | None = None
    steps: int = 0
    total_steps: int = 0

    def generator(self, stream: int) -> torch.Generator:
        """A generator of its own for each use of chance; equal on every process."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + stream)

    def announce(self, total_steps: int) -> None:
        """Say how many steps there will be."""
        self.total_steps = total_steps

    def one_pass(self, source: Source, generator: torch.Generator) -> Iterator[Batch | None]:
        """One pass over a set in the order to descend in: this process's shares, on its device.

        A batch is for the step after it: of one that is repeated, every share is empty.
        """
        return (self.place(batch) for batch in source.one_pass(generator, self.engine.share, self.journal))

    def pass_after_pass(self, source: Source, generator: torch.Generator) -> Iterator[Batch | None]:
        """Batches of a set without end, each pass in an order of its own."""
        while True:
            yield from self.one_pass(source, generator)

    def in_order(self, source: Source) -> Iterator[Batch | None]:
        """One pass over a set for measuring, the same every time: this process's shares, on its device."""
        return (self.place(batch) for batch in source.ordered(self.engine.share))

    def batch_loss(self, batch: Batch | None, largest: float = math.inf) -> BatchLoss:
        """Mean loss L = 1/N Σ min(ℓ_i, c) over a global batch, of which each process has a share (None: an empty one).

        Args:
            batch: this process's share.
            largest: c, what a loss counts at most.
        """
        return self.mean(counted(self.losses(batch), largest))

    def mean(self, values: Tensor) -> BatchLoss:
        """Mean over a global batch of anything per sample: shape (n,) on this process, n = 0 for an empty share."""
        if self.journal.repeating:
            return self._told(values)
        size = self._samples_of_all(len(values))
        local = values.sum() / max(size, 1)
        loss = BatchLoss(local, self.engine.sum(local.detach().to(self.engine.sum_type)), size)
        self.journal.tell(loss.value, size)
        return loss

    def accumulate(self, batch: Batch | None, weight: float = 1.0, largest: float = math.inf) -> BatchLoss:
        """Add weight · ∇L of a global batch, a micro-batch after the other: only one is in memory at a time.

            L = 1/N Σ_m Σ_{i in m} min(ℓ_i, c),    so    ∇L = Σ_m ∇(1/N Σ_{i in m} min(ℓ_i, c))

        The N of the whole batch is known before, so that no mean of means is formed and a short micro-batch counts
        for what it holds.

        Returns:
            The mean loss, without graph.
        """
        if self.journal.repeating:
            return self._told(torch.zeros(0, device=self.engine.device))
        size = self._samples_of_all(0 if batch is None else rows_in(batch))
        total = torch.zeros((), dtype=self.engine.sum_type, device=self.engine.device)
        for part in self._parts(batch):
            local = counted(self.losses(part), largest).sum() / max(size, 1)
            self.backward(weight * local)
            total += local.detach()
        loss = BatchLoss(total, self.engine.sum(total), size)
        self.journal.tell(loss.value, size)
        return loss

    def scale_gradients(self, factor: float) -> None:
        """Multiply what was accumulated, in place: no second copy. By 0, a parameter is left without gradient."""
        gradients = [parameter.grad for parameter in self.trainable() if parameter.grad is not None]
        if factor == 0:
            self.model.zero_grad(set_to_none=True)
            if self.shards is not None:
                self.shards.reached.clear()
        elif gradients:
            torch._foreach_mul_(gradients, factor)

    def _told(self, values: Tensor) -> BatchLoss:
        mean, size = self.journal.mean()
        value = torch.tensor(mean, dtype=self.engine.sum_type, device=self.engine.device)
        return BatchLoss(values.detach().sum(), value, size)

    def _samples_of_all(self, mine: int) -> int:
        """Samples of a global batch, of which this process holds so many."""
        if self.engine.share[1] == 1:
            return mine
        return int(self.engine.sum(torch.tensor(mine, device=self.engine.device)))

    def backward(self, local: Tensor) -> None:
        """Add the gradient of this process's part of a loss."""
        if local.requires_grad:  # an empty share has nothing to add
            local = local if self.scaler is None else self.scaler.scale(local)
            # Checkpointed blocks run forward again in here. From an edge, not from the tensor: a tensor's own backward
            # suspends what `around_loss` enters.
            with self.around_loss():
                torch.autograd.backward(get_gradient_edge(local), torch.ones_like(local))

    def update(self, optimizer: torch.optim.Optimizer) -> bool:
        """Put the gradients of all processes together and make one step.

        Returns:
            Whether it was made. In fp16 a gradient may overflow: then nothing has changed but the scale of the losses,
            no step is counted, and the gradient is to be accumulated again.

        Raises:
            NonFiniteLoss: if a gradient is not finite at any scale.
        """
        if self.journal.repeating:
            if self.scaler is not None and self.journal.repeats_attempt():
                return False
            self.journal.repeat_step()
            if not self.journal.repeating:
                self.resume(optimizer)
            self.step_done()
            return True
        self.engine.sum_gradients(self.model)
        if self.shards is not None:
            self.shards.settle()
        made = self._make_step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        if not made:
            self.take_back()
        self.take_back = _nothing
        if made:
            follow_spectral_norms(self.model)
            self.journal.step()
            self.step_done()
            self.after_step(optimizer)
        return made

    def _make_step(self, optimizer: torch.optim.Optimizer) -> bool:
        if self.scaler is None:
            optimizer.step()
            return True
        before = self.scaler.get_scale()
        self.scaler.unscale_(optimizer)  # after the sum over processes: they find the same, and agree
        self.scaler.step(optimizer)
        self.scaler.update()
        scale = self.scaler.get_scale()
        if scale < 1:
            raise NonFiniteLoss(
                "Expected finite gradients, got NaN or infinity however little the losses were scaled: the model "
                "passed in is unchanged; launch with --mixed_precision bf16 or no."
            )
        return scale >= before

    def step_done(self) -> None:
        """Count a step."""
        self.steps += 1
        self.on_step(self.steps, self.total_steps)

    def mean_loss(
        self,
        source: Source,
        seen_as: Callable[[Batch | None], Batch | None] = lambda batch: batch,
        of: Callable[[Tensor], Tensor] = lambda losses: losses,
    ) -> float:
        """Mean loss L = 1/N Σ ℓ_i of the current model over a set, in the units of ℓ, without gradient.

        Args:
            source: the set.
            seen_as: what becomes of each batch before: some of its rows, or other targets.
            of: what the mean is taken of in place of the losses themselves.

        Raises:
            NonFiniteLoss: if it is not finite.
        """
        if self.journal.repeating:
            return self.journal.set_mean()
        total = torch.zeros(2, dtype=self.engine.sum_type, device=self.engine.device)
        with torch.no_grad():
            for read in self._losses_over(source, seen_as):
                losses = of(read)
                total += torch.stack([losses.sum(dtype=total.dtype), total.new_tensor(len(losses))])
        loss_sum, size = self.engine.sum(total).tolist()
        mean = finite(loss_sum / max(size, 1), "the mean loss of a set")
        self.journal.tell(mean, SET)
        return mean

    def _losses_over(self, source: Source, seen_as: Callable[[Batch | None], Batch | None]) -> Iterable[Tensor]:
        """Losses of a set, batch by batch."""
        losses = (self.losses(seen_as(batch)) for batch in self.in_order(source))
        if self.losses_read is None:
            return losses
        key = id(source), seen_as
        if key not in self.losses_read:
            self.losses_read[key] = list(losses)
        return self.losses_read[key]

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Inside, the model stays as it is: whatever means of its losses are asked for, a set is read once."""
        before = self.losses_read
        self.losses_read = {} if before is None else before
        try:
            yield
        finally:
            self.losses_read = before

    def unseen_loss(self, of: Callable[[Tensor], Tensor] = lambda losses: losses) -> float:
        """Mean loss over the validation set, rows of removed labels left out.

        Args:
            of: as of `mean_loss`.

        Raises:
            NonFiniteLoss: if it is not finite.
        """
        if self.removed is None:
            return self.mean_loss(self.validation, of=of)
        return self.mean_loss(self.validation, self.removed.others, of)

    @property
    def priced(self) -> bool:
        """Whether rows of the forget set carry a removed label, so that its price is a part of the target."""
        return self.removed is not None and self.removed.share > 0

    def target_loss(self, of: Callable[[Tensor], Tensor] = lambda losses: losses) -> float:
        """Target loss τ: what unseen data costs; of rows that carry a removed label c, the price of that label.

            τ = (1 − s) · mean of ℓ(x, y) + s · mean of ℓ(x, c),    s the share of these rows in the forget set

        Both means are over validation rows that carry no removed label.

        Args:
            of: as of `mean_loss`.

        Raises:
            NonFiniteLoss: if it is not finite.
        """
        share = 0.0 if self.removed is None else self.removed.share
        known = 0.0 if share == 1 else (1 - share) * self.unseen_loss(of)
        if self.removed is None or share == 0:
            return known
        return known + share * self.mean_loss(self.validation, self.removed.priced, of)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whatever happens to the weights inside is undone: they are the original's again, and no step counted."""
        steps, after_step = self.steps, self.after_step
        self.after_step = lambda optimizer: None
        try:
            yield
        finally:
            self.after_step = after_step
            self.put_back()
            self.steps = steps

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """A look at the model in the middle of a method: in eval mode, and nothing moves by it or tells of it."""
        frozen, journal = self.around_loss, self.journal
        self.around_loss, self.journal = WithoutDropout, Journal()
        try:
            with undisturbed(), buffers_kept(self.model), unlearning_modes(self.model):
                yield
        finally:
            self.around_loss, self.journal = frozen, journal

    def adamw(self, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
        """AdamW over the trainable parameters, with the library's default betas; one kernel where there is one."""
        parameters = self.trainable()
        alike = len(set(map(is_shard, parameters))) == 1  # one kernel takes parts of tensors or whole ones
        fused = (self.engine.device.type in ("cpu", "cuda") or None) if alike else None
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that a method may change."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Train mode, as the model was trained: dropout draws, batch norm uses the batch and moves its statistics.

        Outside of it everything is in eval mode. With several processes each sees its own share of a batch; at the end
        the running statistics become their mean over processes.
        """
        self.settings["mode"] = "train"
        if self.engine.share[1] > 1 and (drawing := draws_on_the_batch(self.model)):
            self.settings["per_process"] = f"{' and '.join(drawing)}: of each process's share of a batch"
        frozen, self.around_loss = self.around_loss, nullcontext
        try:
            with training_modes(self.model):
                yield
        finally:
            self.around_loss = frozen
        for statistic in statistics_of(self.model) if self.engine.share[1] > 1 else ():
            total = self.engine.sum(statistic.to(self.engine.sum_type)) / self.engine.share[1]
            statistic.copy_(total.to(statistic.dtype))

    def losses(self, batch: Batch | None) -> Tensor:
        """Per-sample losses ℓ of this process's share, shape (n,); n = 0 for an empty one."""
        return self._read(self._one_each, batch)

    def _one_each(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = self.loss(model, batch)
        if wrong := not_one_each(losses, rows_in(batch), self.loss, "a later batch"):
            raise InvalidRequest([wrong])
        return losses

    def logits(self, batch: Batch | None) -> Tensor:
        """The model's logits on this process's share, shape (n, ...); (0,) for an empty one."""
        return self._read(logits_of, batch)

    def _read(self, read: Callable[[nn.Module, Batch], Tensor], batch: Batch | None) -> Tensor:
        if torch.is_grad_enabled():
            self.samples_differentiated += 0 if batch is None else rows_in(batch)
            if self.shards is not None:
                self.shards.counted = batch is not None
        parts = [
            self._read_part(read, part) if part is not None else self._read_nothing(read) for part in self._parts(batch)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _parts(self, batch: Batch | None) -> Iterator[Batch | None]:
        """A share of a batch as the model is given it, in micro-batches; of a sharded model, as many on every process.

        None stands for nothing to read, and comes at least once where there is nothing else.
        """
        if self.shards is None:
            yield from cut(batch, self.micro_batch_size)
            return
        size = self.micro_batch_size
        mine = 0 if batch is None else 1 if size is None else -(-rows_in(batch) // size)
        rounds = self.shards.rounds(mine)
        yield from cut(batch, size)
        yield from [None] * (rounds - max(mine, 1))

    def _read_nothing(self, read: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
        """No values; of a sharded model, with the graph of a sample, for gradients of zero that keep step."""
        if self.shards is None:
            return torch.zeros(0, device=self.engine.device)
        return self._read_part(read, self.shards.spare)[:0]

    def _read_part(self, read: Callable[[nn.Module, Batch], Tensor], batch: Batch) -> Tensor:
        alone = self.model.training and rows_in(batch) == 1
        with (
            self.engine.autocast() if self.shards is None else self.engine.autocast(keep_casts=False),
            self.around_loss(),
            without_batch_statistics(self.model) if alone else nullcontext(),
        ):
            values = read(self.model, batch)
        # L_f decides over the ascent: never less than float32
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def sample(self) -> Batch:
        """One sample of the forget set, on the device, as a batch; the same on every process."""
        placed = (self.place(batch) for batch in self.forget.ordered())
        return take_rows(next(batch for batch in placed if batch is not None), torch.tensor([0]))

    def place(self, batch: Batch | None) -> Batch | None:
        """Leave out samples without a labelled token, then move the rest to the device."""
        labelled = getattr(self.loss, "labelled", None)
        if batch is not None and labelled is not None:
            keep = labelled(batch).cpu()
            if not keep.all():
                batch = take_rows(batch, keep.nonzero().flatten()) if keep.any() else None
        return None if batch is None else to_device(batch, self.engine.device)


Method = Callable[[Problem], Iterator[Epoch]]
"""A way to unlearn: changes `problem.model` and yields after each of its passes."""


def finite(value: float, what: str) -> float:
    """The value, if it is finite.

    Args:
        value: a loss.
        what: what it is the loss of, for the message.

    Raises:
        NonFiniteLoss: if it is NaN or infinite.

    Example:
        >>> finite(0.5, "a forget batch")
        0.5
    """
    if not math.isfinite(value):
        raise NonFiniteLoss(
            f"Expected finite losses, got {value} for {what}: the model passed in is unchanged; check the inputs for "
            "values out of scale, the per-sample loss for a logarithm or division by zero, and the method's learning "
            "rate."
        )
    return value
