"""`unlearn()`: from a trained model and a request to a model without the forgotten samples."""

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nabla_tau import checks, methods
from nabla_tau.adapters import is_adapted
from nabla_tau.batches import Batch
from nabla_tau.checkpoint import NotSaved, place_of_original
from nabla_tau.collapse import most_allowed
from nabla_tau.compatibility import checkpoint_problems, identity, kept_batch_size, kept_micro_batch_size
from nabla_tau.continuing import Keeper, passes
from nabla_tau.doubts import probability_doubts, row_doubts, scale_doubts, unread_outputs
from nabla_tau.engine import Engine, device_problems, processes, start_engine
from nabla_tau.errors import InvalidRequest, UnlearningWarning, some, whole_number
from nabla_tau.facts import (
    SECOND_MODEL,
    accumulates,
    facts_of,
    method_name,
    setting_problems,
    sharded_problems,
    suggestion,
    task_problems,
)
from nabla_tau.locking import alone_in
from nabla_tau.losses import PerSampleLoss, name_of, task_of
from nabla_tau.memory import (
    PUBLISHED_BATCH_SIZE,
    activation_bytes,
    fitting_batch_size,
    free_bytes,
    state_bytes,
)
from nabla_tau.modes import (
    WithoutDropout,
    gradient_checkpointing,
    gradient_checkpointing_problems,
    reads_the_batch,
    unlearning_modes,
)
from nabla_tau.original import Changeable, copied, given_up, sharded
from nabla_tau.outcome import Losses, chance, judge, measure
from nabla_tau.own_losses import columns_read, held_still
from nabla_tau.problem import Method, Problem
from nabla_tau.randomness import seeded
from nabla_tau.removed import removed_labels
from nabla_tau.replaying import replay_problems
from nabla_tau.sets import Source, generators_of, largest_batch, reopened
from nabla_tau.sharding import in_step, sharding_problems
from nabla_tau.shards import gathered_bytes
from nabla_tau.storage import Unlearned, fingerprint
from nabla_tau.tasks import TaskInDoubt, infer_loss


def unlearn(
    model: nn.Module,
    *,
    forget: Any,
    retain: Any,
    validation: Any,
    method: Method = methods.nabla_tau,
    loss: PerSampleLoss | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    device: str | torch.device | None = None,
    in_place: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float | None = None,
    shard: bool = False,
    gradient_checkpointing: bool = False,
) -> Unlearned:
    """Give back a model that no longer carries the forget set; nothing needs to be tuned.

    A set is a map-style dataset (torch or Hugging Face), a tuple or dict of tensors or arrays, or a `DataLoader`,
    whose batch size, order and collate are kept. The retain set may also be a stream (an `IterableDataset`).

    Args:
        model: the original model, any `nn.Module`; it is not touched, unless `in_place`.
        forget: D_f, training samples to remove.
        retain: D_r, training samples to keep.
        validation: D_v, samples never trained on; their mean loss is the target τ.
        method: how to unlearn, one of `nabla_tau.methods`.
        loss: per-sample loss `(model, batch) -> (N,)`; None chooses it where outputs and targets leave no doubt.
        seed: same seed, machine, versions, threads, device and processes: same weights, bit for bit.
        batch_size: samples per global batch; None is the published 256 (with a baseline less, where memory demands
            it).
        micro_batch_size: samples that a process gives the model at once; gradients are accumulated over as many as
            make up its share of a batch, and the result is that of the whole batch. None is all of it, or as many as
            memory can take.
        device: None is Accelerate's choice, a GPU where there is one.
        in_place: change the original itself, where memory is short of a copy; its weights are on disk meanwhile, and it
            gets them back if anything fails.
        checkpoint: folder to keep the state of the run in. The same call continues a run that was cut off, to the same
            bits, and gives back the result of one that was finished. The folder may go once the result is saved.
        checkpoint_every: seconds between two saves; None for an interval at which saving takes 2 % of the time.
        shard: spread the copy over the processes (torch's `fully_shard`), so that each holds a part of its weights,
            gradients and moments; the result is that without it, to rounding.
        gradient_checkpointing: switch on, for the run, what the model itself offers: activations are computed again in
            backward instead of kept; the result stays the same.

    Returns:
        An `Unlearned`: the new model (with `in_place`, the one passed in), on the device of the original, with what was
        done and derived. With `shard` the model stays spread over the processes, on theirs: all of them call it, and
        `save`, together.

    Raises:
        InvalidRequest: if the request cannot be carried out, with every problem found; if the folder keeps another run.
        NonFiniteLoss: if a loss became NaN or infinite on the way, with the epoch.
        UtilityCollapse: if a run that is kept in a folder lost what was to be kept, with the epoch.
        NotSaved: if a checkpoint could not be written.
        ValueError: if the method cannot work on these sets.

    Warns:
        UnlearningWarning: if rows of two sets have the same content, if samples have no labelled token, if the forget
            set costs as much as unseen data from the start, if the target was not reached or far exceeded, or if unseen
            data or the retain set ended much dearer than before.

    Example:
        >>> import torch, nabla_tau
        >>> x, y = 20 * torch.eye(100), torch.arange(100) % 2  # every row has a feature of its own: pure memory
        >>> model = torch.nn.Linear(100, 2, bias=False)
        >>> weights = 0.2 * torch.nn.functional.one_hot(y, 2).T * (torch.arange(100) < 80)
        >>> _ = model.load_state_dict({"weight": weights})
        >>> unlearned = nabla_tau.unlearn(
        ...     model, forget=(x[:8], y[:8]), retain=(x[8:80], y[8:80]), validation=(x[80:], y[80:]), device="cpu"
        ... )
        >>> unlearned.reached_target, unlearned.settings["loss"], unlearned.model is model
        (True, 'classification', False)

    Reference:
        Trippa et al., ∇τ, arXiv:2403.14339 (2024).
    """
    return Request(
        model,
        forget,
        retain,
        validation,
        method,
        loss,
        seed,
        batch_size,
        micro_batch_size,
        device,
        in_place,
        checkpoint,
        checkpoint_every,
        shard,
        gradient_checkpointing,
    ).run()


@dataclass
class Request:
    """The arguments of `unlearn`, and the steps it is made of. `on_step` is called with (done, planned).

    Example:
        >>> x, y = torch.eye(6), torch.arange(6) % 2
        >>> sets = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> Request(nn.Linear(6, 2), *sets, batch_size=0).argument_problems()
        ['batch_size: expected a whole number in [1, 2^31), got 0.']
        >>> with Request(nn.Linear(6, 2), *sets, device="cpu").prepared() as problem:
        ...     problem.settings["loss"], problem.settings["samples"]
        ('classification', {'forget': 2, 'retain': 2, 'validation': 2})
    """

    model: nn.Module
    forget: Any
    retain: Any
    validation: Any
    method: Method = methods.nabla_tau
    loss: PerSampleLoss | None = None
    seed: int = 0
    batch_size: int | None = None
    micro_batch_size: int | None = None
    device: str | torch.device | None = None
    in_place: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: float | None = None
    shard: bool = False
    gradient_checkpointing: bool = False
    on_step: Callable[[int, int], None] = lambda done, total: None

    def run(self) -> Unlearned:
        """Check, copy, unlearn, measure."""
        started = time.perf_counter()
        with self.prepared(to_run=True) as problem:
            unlearned = self.unlearned(problem, started)
        if not self.shard:
            unlearned.model.to(_device_of(self.model))
        return unlearned

    def unlearned(self, problem: Problem, started: float) -> Unlearned:
        """Unlearn and measure. If anything fails, be it a warning made an error, a given-up original is put back."""
        with problem.standing_still():
            before = measure(problem)
            standard_error = chance(problem, before)
        keeper = None if self.checkpoint is None else self.keeper(problem, before)
        if keeper is not None and keeper.is_finished:
            return keeper.result(self.model, in_place=self.in_place)
        epochs = list(passes(problem, self.method)) if keeper is None else keeper.run(self.method)
        reached_target, told = judge(problem, epochs, before, standard_error)
        for text in told:
            self.warn(problem, text)
        unlearned = Unlearned(
            model=problem.model,
            epochs=epochs,
            settings=problem.settings,
            reached_target=reached_target,
            warnings=problem.warnings,
            seconds=time.perf_counter() - started + (keeper.seconds_before if keeper else 0.0),
        )
        if keeper is not None:
            try:
                keeper.finish(unlearned)
            except NotSaved as error:
                self.warn(problem, f"checkpoint: {error}: the run is finished, but not kept there; save its result.")
        return unlearned

    def keeper(self, problem: Problem, before: Losses) -> Keeper:
        """What keeps the state of the run in the folder that was named.

        Raises:
            InvalidRequest: if the folder keeps another run, or cannot keep this one.
        """
        keeper = Keeper(
            problem,
            Path(self.checkpoint or ""),
            identity(problem, self.method, vars(before)),
            every=self.checkpoint_every,
            most_allowed=most_allowed(before.retain, before.unseen),
        )
        for text in keeper.remarks:
            self.warn(problem, text)
        return keeper

    @contextmanager
    def prepared(self, *, to_run: bool = False) -> Iterator[Problem]:
        """The checked problem, under its seed and in the modes to unlearn in; all put back afterwards.

        Args:
            to_run: whether the folder of checkpoints is to be held meanwhile; else nothing is written into it.

        Raises:
            InvalidRequest: with every problem found.
        """
        sets = {"forget": self.forget, "retain": self.retain, "validation": self.validation}
        wrong = [*checks.model_problems(self.model), *self.argument_problems()]
        size = PUBLISHED_BATCH_SIZE if wrong or self.batch_size is None else self.batch_size
        sources, problems = checks.open_sets(sets, size, streams=("retain",))
        if self.checkpoint is not None and not problems:
            problems += replay_problems(sets, sources)
        problems[:0] = wrong
        problems.refuse()
        engine = start_engine(self.device)
        if engine.mixed_precision == "fp16" and self.shard:
            raise InvalidRequest(
                ["shard: expected mixed precision 'no' or 'bf16', got 'fp16', whose scaler sees one part: use bf16."]
            )
        if engine.mixed_precision == "fp16" and not accumulates(self.method):
            raise InvalidRequest(
                [
                    f"mixed precision: expected 'no' or 'bf16' for {method_name(self.method)}, got 'fp16', in which "
                    "steps that overflow would be lost: launch with --mixed_precision bf16, or use methods.nabla_tau."
                ]
            )
        generators = [g for data in sets.values() for g in generators_of(data)]
        folder = None if self.checkpoint is None or not to_run else Path(self.checkpoint)
        with (
            nullcontext() if folder is None else alone_in(folder, engine),
            self.changeable(folder, engine) as (model, put_back),
            seeded(int(self.seed), generators, on_gpu=engine.device.type == "cuda"),
            gradient_checkpointing(model) if self.gradient_checkpointing else nullcontext(),
            unlearning_modes(model),
            ExitStack() as watching,
        ):
            loss, findings = self.check_data(sets, sources, model, engine)
            counts = {name: (found.size, found.batches) for name, found in findings.surveys.items()}
            sources = {name: source.with_count(*counts[name]) for name, source in sources.items()}
            sources, settings = self.fit_batches(sets, sources, model, loss, engine)
            problem = Problem(
                model,
                self.model,
                sources["forget"],
                sources["retain"],
                sources["validation"],
                loss,
                engine,
                int(self.seed),
                settings={**settings, **self.facts(sources, loss, engine)},
                on_step=self.on_step,
                sets=sets,
                micro_batch_size=settings["micro_batch_size"],
                scaler=torch.amp.GradScaler(engine.device.type) if engine.mixed_precision == "fp16" else None,
                put_back=put_back,
                fingerprints=findings.fingerprints(),
            )
            require_one_model(engine, problem.settings["original_fingerprint"])
            if self.shard:
                problem.shards = watching.enter_context(in_step(model, engine, problem.sample()))
            facts = facts_of(self.method)
            if facts is not None and facts.prices:
                labels = {name: found.labels for name, found in findings.surveys.items()}
                forget = sources["forget"].ordered()
                problem.removed = removed_labels(
                    loss, forget, labels["forget"], kept=labels["retain"], elsewhere=labels["validation"]
                )
                problem.settings["removed_labels"] = list(problem.removed.labels)
            told = watching.enter_context(held_still(loss, model, self.model))
            for text in [*self.loader_remarks(sources), *findings.warnings, *told]:
                self.warn(problem, text)
            if problem.retain.streamed:
                problem.retain = replace(problem.retain, after_pass=self.watch_passes(problem))
            yield problem

    def changeable(self, folder: Path | None, engine: Engine) -> AbstractContextManager[Changeable]:
        """The model to be changed; where it is the original, its weights are in the folder of checkpoints, if any."""
        if self.shard:
            return sharded(self.model, engine.device)
        if not self.in_place:
            return copied(self.model, engine.device)
        if folder is None:
            return given_up(self.model, engine.device)
        return given_up(self.model, engine.device, place_of_original(folder, fingerprint(self.model), engine.share[0]))

    def watch_passes(self, problem: Problem) -> Callable[[int], None]:
        """What is called with the rows of each whole pass through a stream, and warns once where they are others."""
        counted, told = problem.retain.size, list[int]()

        def after_pass(rows: int) -> None:
            if rows != counted and not told:
                told.append(rows)
                self.warn(
                    problem,
                    f"retain: its check counted {counted:,} rows, a later pass gave {rows:,}: α and the number of "
                    "steps follow from the first; let every pass of the stream give the same rows.",
                )

        return after_pass

    def argument_problems(self) -> list[str]:
        """What is wrong with the arguments that are neither model nor set."""
        problems = checks.precision_problems(self.model) if isinstance(self.model, nn.Module) else []
        problems += [*whole_number("seed", self.seed, 0, 2**32), *device_problems(self.device)]
        for name in ("batch_size", "micro_batch_size"):
            if getattr(self, name) is not None:
                problems += whole_number(name, getattr(self, name), 1, 2**31)
        if self.micro_batch_size is not None:
            problems += self.accumulation_problems()
        if not torch.is_grad_enabled() or any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            problems.append(
                "unlearn: expected a call with gradients on and without autocast, got one inside torch.no_grad(), "
                "inference_mode() or autocast(): call it outside; precision is set by accelerate launch."
            )
        if not callable(self.method):
            named = self.method if isinstance(self.method, str) else ""
            known = list(methods.METHODS)
            hint = f"pass methods.{named}." if named in known else suggestion(named, known)
            problems.append(
                f"method: expected a function of nabla_tau.methods or one like them, got {self.method!r}: {hint}"
            )
        problems += [*setting_problems(self.method), *self.in_place_problems(), *self.shard_problems()]
        problems += self.gradient_checkpointing_problems()
        problems += checkpoint_problems(self.method, self.checkpoint, self.checkpoint_every)
        if self.loss is not None:
            problems += checks.loss_problems(self.loss)
        return problems

    def in_place_problems(self) -> list[str]:
        """Why the original cannot be given up, if it cannot."""
        facts = facts_of(self.method)
        if type(self.in_place) is not bool:
            return [f"in_place: expected True or False, got {self.in_place!r}."]
        if not self.in_place or facts is None or (facts.mode == "eval" and SECOND_MODEL not in facts.needs):
            return []
        return [
            f"in_place: expected a method that can do without the original, got {method_name(self.method)}, "
            "which reads it: leave in_place out, or pass methods.nabla_tau."
        ]

    def shard_problems(self) -> list[str]:
        """Why the copy cannot be spread over processes, if it cannot."""
        if type(self.shard) is not bool:
            return [f"shard: expected True or False, got {self.shard!r}."]
        if not self.shard:
            return []
        problems = [*sharding_problems(), *(sharded_problems(self.method) if callable(self.method) else [])]
        if processes() == 1:
            problems.append(
                "shard: expected several processes, each of which holds a part of the model, got one: launch with "
                "torchrun --nproc_per_node N, or leave shard out."
            )
        problems += [
            f"shard: expected a request without {other}, which keeps whole weights of the model, got both: leave one "
            "of them out."
            for other in ("in_place", "checkpoint")
            if getattr(self, other)
        ]
        if isinstance(self.model, nn.Module) and is_adapted(self.model):
            problems.append(
                "shard: expected a model that is trained whole, got an adapter of PEFT, which is saved from one "
                "process: leave shard out; an adapter's gradients and moments are small."
            )
        return problems

    def gradient_checkpointing_problems(self) -> list[str]:
        """Why gradient checkpointing cannot be switched on, if it cannot."""
        if type(self.gradient_checkpointing) is not bool:
            return [f"gradient_checkpointing: expected True or False, got {self.gradient_checkpointing!r}."]
        return gradient_checkpointing_problems(self.model) if self.gradient_checkpointing else []

    def accumulation_problems(self) -> list[str]:
        """Why the batches of a request cannot be made of micro-batches, if they cannot."""
        problems = []
        if not accumulates(self.method):
            able = " or ".join(f"methods.{name}" for name, method in methods.METHODS.items() if accumulates(method))
            problems.append(
                f"micro_batch_size: expected {able}, whose steps are sums over samples, got another method: leave it "
                "out; batches that do not fit into memory are then made smaller."
            )
        if isinstance(self.model, nn.Module) and (norms := reads_the_batch(self.model)):
            problems.append(
                "micro_batch_size: expected a model that reads samples one by one, got batch norm without running "
                f"statistics in {some(norms)}: leave it out, and set batch_size to what fits into memory."
            )
        return problems

    def loader_remarks(self, sources: dict[str, Source]) -> list[str]:
        """Where `batch_size` says nothing, because the batches of a `DataLoader` are kept."""
        others = {
            name: sources[name].batch_size
            for name in ("forget", "retain")
            if sources[name].loader is not None and sources[name].batch_size != self.batch_size
        }
        if self.batch_size is None or not others:
            return []
        kept = ", ".join(f"{name} ({size or 'its own sampler'})" for name, size in others.items())
        return [
            f"batch_size: {self.batch_size} has no effect on DataLoaders, whose own batches are kept: {kept}; pass the "
            "dataset in place of a loader, or make the loader with that batch size."
        ]

    def check_data(
        self, sets: checks.Sets, sources: dict[str, Source], model: nn.Module, engine: Engine
    ) -> tuple[PerSampleLoss, checks.Findings]:
        """The loss, and what reading every row found.

        Raises:
            InvalidRequest: with every problem found in the data.
        """
        with engine.autocast(), WithoutDropout():
            batches = checks.first_batches(sources, engine.device, self.micro_batch_size)
            loss = self.loss or self.choose_loss(model, list(batches.values()))
            if problems := task_problems(self.method, task_of(loss)):
                raise InvalidRequest(problems)
            outputs = checks.output_size(model, loss, batches["forget"])
            read = columns_read(model, loss, batches["forget"])
            findings = checks.survey_sets(sets, sources, model, loss, outputs, read)
            problems = findings.problems or checks.batch_problems(model, loss, batches)
            problems = problems or checks.gradient_problems(model, loss, batches["forget"])
            if problems:
                raise InvalidRequest(problems)
            findings.warnings.extend(probability_doubts(model, loss, batches["validation"]))
            findings.warnings.extend(row_doubts(model, loss, batches["validation"]))
            findings.warnings.extend(unread_outputs(model, loss, batches["validation"]))
            findings.warnings.extend(scale_doubts(model, batches, read))
        return loss, findings

    def choose_loss(self, model: nn.Module, batches: list[Batch]) -> PerSampleLoss:
        """The loss that leaves no doubt.

        Raises:
            InvalidRequest: if there is doubt.
        """
        try:
            return infer_loss(model, batches)
        except TaskInDoubt as doubt:
            raise InvalidRequest([f"loss: {doubt}"]) from None

    def fit_batches(
        self,
        sets: checks.Sets,
        sources: dict[str, Source],
        model: nn.Module,
        loss: PerSampleLoss,
        engine: Engine,
    ) -> tuple[dict[str, Source], dict[str, Any]]:
        """Sources and batch sizes that fit into memory, and what was measured."""
        forget = {"forget": sources["forget"]}
        batch = checks.first_batches(forget, engine.device, self.micro_batch_size)["forget"]
        with engine.autocast(), WithoutDropout():
            per_sample = activation_bytes(model, loss, batch)
        state, gathered = state_bytes(model), gathered_bytes(model)
        needed, free, sharing = state + gathered, free_bytes(engine.device), engine.share[1]
        in_parts = accumulates(self.method) and not reads_the_batch(model)
        reasons = {}
        if self.batch_size is None and not in_parts:
            kept = None if self.checkpoint is None else kept_batch_size(Path(self.checkpoint), sets)
            size = engine.minimum(kept or fitting_batch_size(per_sample, needed * sharing, free * sharing))
            sources = {name: reopened(sources[name], data, size) for name, data in sets.items()}
            if size < PUBLISHED_BATCH_SIZE:
                reasons["batch_size_reason"] = f"{PUBLISHED_BATCH_SIZE} samples do not fit into free memory"
        share = max(-(-largest_batch(source) // sharing) for source in sources.values())
        micro = self.micro_batch_size
        if micro is None and in_parts:
            kept = None if self.checkpoint is None else kept_micro_batch_size(Path(self.checkpoint), share)
            micro = engine.minimum(kept or fitting_batch_size(per_sample, needed, free, share))
            if micro < share:
                reasons["micro_batch_size_reason"] = f"{share} samples do not fit into free memory at once"
        settings = {
            "batch_size": {name: source.batch_size for name, source in sources.items()},
            "micro_batch_size": None if micro is None or micro >= share else int(micro),
            "activation_bytes_per_sample": round(per_sample),
            "state_bytes": state,
            **({"gathered_bytes": gathered} if self.shard else {}),
            **reasons,
        }
        return sources, settings

    def facts(self, sources: dict[str, Source], loss: PerSampleLoss, engine: Engine) -> dict[str, Any]:
        """What the run depends on, besides what the method derives."""
        return {
            "method": method_name(self.method),
            "loss": name_of(loss),
            "loss_chosen_by": "inference" if self.loss is None else "caller",
            "seed": int(self.seed),
            "samples": {name: source.size for name, source in sources.items()},
            "in_place": self.in_place,
            "shard": self.shard,
            "gradient_checkpointing": self.gradient_checkpointing,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "trainable_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "skipped_ids": len(checks.skipped_ids(self.forget)),
            "original_fingerprint": fingerprint(self.model),
            "batches": {name: source.batches for name, source in sources.items()},
            "device": str(engine.device),
            "processes": engine.share[1],
            "mixed_precision": engine.mixed_precision,
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("nabla-tau", "torch", "accelerate", "numpy")},
            },
        }

    def warn(self, problem: Problem, text: str) -> None:
        """Warn once, on the main process, and keep the warning with the result."""
        problem.warnings.append(text)
        if problem.engine.is_main:
            warnings.warn(text, UnlearningWarning, stacklevel=5)


def require_one_model(engine: Engine, digest: str) -> None:
    """Make sure that all processes work on one model: their gradients are summed, and each may hold a part of it.

    Args:
        engine: the processes.
        digest: of the weights that this one was given.

    Raises:
        InvalidRequest: if they were given different ones.

    Example:
        >>> require_one_model(start_engine("cpu"), fingerprint(nn.Linear(2, 2)))
    """
    if len(set(engine.gather(bytes.fromhex(digest)))) > 1:
        raise InvalidRequest(
            [
                "model: expected the same weights in every process, got different ones: load one file in all of them, "
                "or set one seed before the model is made."
            ]
        )


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
