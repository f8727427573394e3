"""The tasks of the benchmark as values: data, network, loss, and how the original is trained at each scale."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import nn

from nabla_tau import losses
from nabla_tau.auditing.measures import FEWEST_SAMPLES
from nabla_tau.bench import data, networks
from nabla_tau.bench.data import Pool, Positions
from nabla_tau.bench.encoder import Encoder
from nabla_tau.losses import PerSampleLoss

SCALES = ("quick", "full")
FRACTIONS = (0.03, 0.15, 0.30)


@dataclass(frozen=True)
class Recipe:
    """How many rows there are and how a model is trained on them. The learning rate falls linearly, step by step.

    Attributes:
        train: rows of the training set D; the others likewise, drawn anew for each seed, all disjoint.
        validation: rows of D_v.
        test: rows of D_t.
        width: of the network.
        epochs: passes over the training set.
        optimizer: "sgd" (momentum 0.9) or "adamw".
        learning_rate: of the first step.
        last_factor: share of it that is left at the end.
        weight_decay: of the optimizer.
        batch_size: of training.
        augmented: whether images are cropped and flipped in training.
        unlearning_batch_size: what `unlearn` is given.
    """

    train: int
    validation: int
    test: int
    width: int
    epochs: int
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    last_factor: float = 0.01
    weight_decay: float = 1e-2
    batch_size: int = 128
    augmented: bool = False
    unlearning_batch_size: int = 256


@dataclass(frozen=True)
class Task:
    """A task: what is learned, and from what.

    Attributes:
        read: gives all rows, those of a data set on disk from the folder that it is called with.
        network: width -> a network with fresh weights.
        loss: per-sample loss.
        recipes: scale -> recipe.
        data_set: its name, where it is read from the data folder.
    """

    read: Callable[..., Pool]
    network: Callable[[int], nn.Module]
    loss: PerSampleLoss
    recipes: Mapping[str, Recipe]
    data_set: str | None = None


@dataclass(frozen=True)
class Split:
    """Row numbers in the pool, disjoint: what the original is trained on, what gives τ, what judges."""

    train: Positions
    validation: Positions
    test: Positions


def split_rows(pool: Pool, recipe: Recipe, seed: int) -> Split:
    """Draw training, validation and test rows; those that a set holds out are never trained on.

    Args:
        pool: all rows.
        recipe: how many of each.
        seed: of the draw.

    Raises:
        ValueError: if the pool has too few rows.

    Example:
        >>> found = split_rows(data.diabetes(), TASKS["diabetes"].recipes["quick"], seed=0)
        >>> len(found.train), len(found.validation), len(found.test)
        (240, 101, 101)
    """
    size, generator = len(pool.rows[1]), np.random.default_rng([seed, 1])
    sizes = [recipe.train, recipe.train + recipe.validation, recipe.train + recipe.validation + recipe.test]
    if pool.trainable is None:
        order = generator.permutation(size)
    else:
        kept = generator.permutation(pool.trainable)[: recipe.train]
        order = np.concatenate([kept, pool.trainable + generator.permutation(size - pool.trainable)])
    if len(order) < sizes[2]:
        raise ValueError(f"Expected {sizes[2]} rows, got {len(order)}: lower the sizes of the recipe.")
    train, validation, test = (np.sort(part) for part in np.split(order[: sizes[2]], sizes[:2]))
    return Split(train, validation, test)


def forget_requests(name: str, pool: Pool, train: Positions, seed: int) -> list[Positions]:
    """Rows of each request, one after the other; most forget sets are a single one.

    Args:
        name: `random-0.15`, a random share of the training set; `sequence-0.15`, the same in five requests; or a kind
            of group that the pool has, one of which is drawn: `class`, `subclass`, `group`; of those with rows enough
            for the audit.
        pool: all rows.
        train: the rows trained on.
        seed: of the draw.

    Returns:
        Row numbers in the pool, disjoint, a part of `train`.

    Raises:
        ValueError: if the task has no such forget set, or none that is large enough.

    Example:
        >>> pool, train = data.noisy_digits(), np.arange(1000)
        >>> [len(rows) for rows in forget_requests("sequence-0.15", pool, train, seed=0)]
        [30, 30, 30, 30, 30]
        >>> len(set(pool.rows[1][forget_requests("class", pool, train, seed=0)[0]].tolist()))
        1
    """
    problem = forget_problem(name, pool)
    if problem:
        raise ValueError(problem)
    generator = np.random.default_rng([seed, 2])
    kind, _, fraction = name.partition("-")
    if fraction:
        rows = generator.permutation(train)[: round(float(fraction) * len(train))]
        return [np.sort(part) for part in np.array_split(rows, 5 if kind == "sequence" else 1)]
    groups = pool.groups[name][train]
    found, sizes = np.unique(groups[groups >= 0], return_counts=True)
    if not (sizes >= FEWEST_SAMPLES).any():
        raise ValueError(f"Expected a {name} of {FEWEST_SAMPLES} rows or more, got at most {max(sizes, default=0)}.")
    return [train[groups == generator.choice(found[sizes >= FEWEST_SAMPLES])]]


def forget_problem(name: str, pool: Pool | None = None) -> str | None:
    """What is wrong with the name of a forget set, if anything.

    Example:
        >>> forget_problem("random-0.15") is None, forget_problem("random-2")
        (True, "Expected one of random-FRACTION, sequence-FRACTION, class, ..., got 'random-2'.")
    """
    kind, _, fraction = name.partition("-")
    if fraction and kind in ("random", "sequence"):
        try:
            fine = 0 < float(fraction) < 1
        except ValueError:
            fine = False
        if fine:
            return None
    kinds = ("class", "subclass", "group") if pool is None else tuple(pool.groups)
    if name in kinds:
        return None
    allowed = ", ".join(("random-FRACTION", "sequence-FRACTION", *kinds))
    return f"Expected one of {allowed}, with a fraction in (0, 1), got {name!r}."


_LOCATION = Recipe(train=3000, validation=1000, test=1010, width=256, epochs=40, unlearning_batch_size=64)
_SPOKEN = Recipe(
    train=1800, validation=600, test=600, width=24, epochs=50, learning_rate=2e-3, unlearning_batch_size=64
)
_DIABETES = Recipe(train=240, validation=101, test=101, width=256, epochs=150, batch_size=32, unlearning_batch_size=32)
_DIGITS = Recipe(
    train=800,
    validation=498,
    test=499,
    width=16,
    epochs=40,
    learning_rate=3e-3,
    batch_size=64,
    unlearning_batch_size=64,
)
_CIFAR_QUICK = Recipe(
    train=4000, validation=2000, test=2000, width=16, epochs=15, learning_rate=2e-3, unlearning_batch_size=64
)
_CIFAR_FULL = Recipe(
    train=50_000,
    validation=5000,
    test=5000,
    width=64,
    epochs=50,
    optimizer="sgd",
    learning_rate=0.1,
    last_factor=1e-3,
    weight_decay=5e-4,
    batch_size=256,
    augmented=True,
)


_TEXT_QUICK = Recipe(
    train=700,
    validation=1000,
    test=1000,
    width=1,
    epochs=40,
    learning_rate=1e-3,
    batch_size=32,
    unlearning_batch_size=32,
)
_TEXT_FULL = Recipe(
    train=43_410, validation=5426, test=5427, width=6, epochs=10, learning_rate=5e-5, last_factor=0.1,
    unlearning_batch_size=128,
)  # fmt: skip


def _both(recipe: Recipe) -> dict[str, Recipe]:
    """A set so small that quick and full are the same."""
    return dict.fromkeys(SCALES, recipe)


TASKS = {
    "location30": Task(
        data.location30,
        partial(networks.perceptron, outputs=30, inputs=446),
        losses.classification,
        _both(_LOCATION),
        "location30",
    ),
    "cifar10": Task(
        data.cifar10,
        partial(networks.resnet18, outputs=10),
        losses.classification,
        {"quick": _CIFAR_QUICK, "full": _CIFAR_FULL},
        "cifar10",
    ),
    "cifar100": Task(
        data.cifar100,
        partial(networks.resnet18, outputs=20),
        losses.classification,
        {"quick": replace(_CIFAR_QUICK, train=6000), "full": _CIFAR_FULL},
        "cifar100",
    ),
    "go_emotions": Task(
        data.go_emotions,
        partial(Encoder, outputs=data.LABELS),
        losses.multi_label,
        {"quick": _TEXT_QUICK, "full": _TEXT_FULL},
        "go_emotions",
    ),
    "spoken_digits": Task(
        data.spoken_digits,
        partial(networks.wave_convolutional, outputs=10),
        losses.classification,
        _both(_SPOKEN),
        "free_spoken_digits",
    ),
    "diabetes": Task(
        data.diabetes, partial(networks.perceptron, outputs=1, inputs=10), losses.regression, _both(_DIABETES)
    ),
    "noisy_digits": Task(
        data.noisy_digits, partial(networks.small_convolutional, outputs=10), losses.classification, _both(_DIGITS)
    ),
}
"""Every task by its name."""
