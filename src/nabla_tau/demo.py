"""The demo: memorise, forget, and compare with a model that never saw the forgotten rows."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from nabla_tau.auditing.audit import audit
from nabla_tau.auditing.report import Report
from nabla_tau.membership import Attack, Numbers, attack, entropies
from nabla_tau.randomness import seeded
from nabla_tau.sets import Source, open_set
from nabla_tau.splitting import split
from nabla_tau.storage import Unlearned
from nabla_tau.unlearning import Request

# Handwritten digits are too easy to be memorised: a model pays as little for a new one as for one it was trained on,
# and there is nothing to forget. With four labels in ten replaced by wrong ones, in training and test data alike, it
# can fit its own rows by memory alone.
LABEL_NOISE = 0.4
TRAINING_ROWS, VALIDATION_ROWS = 1200, 247
FORGET_FRACTION = 0.15
EPOCHS, BATCH_SIZE, LEARNING_RATE = 40, 64, 1e-3

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Scores:
    """One model, measured on the three sets that matter.

    Attributes:
        name: which model.
        retain_accuracy: in [0, 1], and so the next two.
        forget_accuracy: of the forget set.
        test_accuracy: of the test set.
        loss_attack: the paper's attack on losses, forget against test.
        entropy_attack: the paper's attack on entropies.
        forget_losses: per-sample losses of the forget set, shape (n,).
        test_losses: of the test set, shape (m,).
    """

    name: str
    retain_accuracy: float
    forget_accuracy: float
    test_accuracy: float
    loss_attack: Attack
    entropy_attack: Attack
    forget_losses: Numbers
    test_losses: Numbers


@dataclass(frozen=True)
class Demo:
    """What the demo found: before, after and retrained, with the run itself, its seconds, and its audit."""

    before: Scores
    after: Scores
    retrained: Scores
    unlearned: Unlearned
    retraining_seconds: float
    report: Report


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """Quicker than two for a network this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_on_one_thread()
def run_demo(
    seed: int = 0,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Demo:
    """Train a small network, forget a random 15 % of its rows, retrain without them, and attack all three.

    Args:
        seed: of the rows, the noise, the training and the unlearning.
        on_stage: called with a few words before each stage.
        on_step: called with (steps done, steps planned) while unlearning.

    Returns:
        The three models measured, the run, and its audit.

    Example:
        >>> # half a minute, so tests/test_demo.py runs it
        >>> demo = run_demo(seed=0)  # doctest: +SKIP
        >>> demo.before.loss_attack.accuracy > 0.6, demo.unlearned.reached_target  # doctest: +SKIP
        (True, True)
    """
    train, validation, test = noisy_digits(seed)
    parts = split(train, fraction=FORGET_FRACTION, seed=seed)
    forget, retain = (_all(open_set(part, len(part))) for part in parts)
    on_stage("training the original on all rows")
    original = train_network(train, seed)
    on_stage("unlearning")
    request = Request(
        original,
        parts.forget,
        parts.retain,
        validation,
        seed=seed,
        batch_size=BATCH_SIZE,
        device="cpu",
        on_step=on_step,
    )
    unlearned = request.run()
    on_stage("retraining without the forgotten rows, as the reference")
    started = time.perf_counter()
    retrained = train_network(retain, seed + 1)
    seconds = time.perf_counter() - started
    on_stage("attacking all three")
    models = {"before": original, "after": unlearned.model, "retrained": retrained}
    before, after, reference = (measure(name, model, forget, retain, test) for name, model in models.items())
    on_stage("auditing the unlearned model")
    report = audit(
        unlearned,
        original=original,
        forget=parts.forget,
        retain=parts.retain,
        test=test,
        validation=validation,
        retrained=[retrained],
        seed=seed,
        device="cpu",
    )
    report.data["command"] = f"nabla-tau demo --seed {seed}"
    del report.data["absent"]["command"]
    return Demo(before, after, reference, unlearned, seconds, report)


def noisy_digits(seed: int) -> tuple[Rows, Rows, Rows]:
    """1,797 handwritten digits (scikit-learn, 8x8), 40 % of all labels wrong: train, validation, test.

    Args:
        seed: of the order of the rows and of the wrong labels.

    Returns:
        (images, targets) three times: images (n, 1, 8, 8) in [0, 1], targets (n,), integers in [0, 10).

    Example:
        >>> [len(targets) for images, targets in noisy_digits(seed=0)]
        [1200, 247, 350]
    """
    digits = load_digits()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(digits.target))
    images = torch.tensor(digits.images[order], dtype=torch.float32)[:, None] / 16
    labels = digits.target[order].copy()
    wrong = generator.random(len(labels)) < LABEL_NOISE
    labels[wrong] = (labels[wrong] + generator.integers(1, 10, int(wrong.sum()))) % 10
    targets = torch.tensor(labels)
    cuts = [TRAINING_ROWS, VALIDATION_ROWS, len(targets) - TRAINING_ROWS - VALIDATION_ROWS]
    train, validation, test = zip(torch.split(images, cuts), torch.split(targets, cuts), strict=True)
    return train, validation, test


def network() -> nn.Sequential:
    """A convolutional network with batch norm: (N, 1, 8, 8) -> (N, 10).

    Example:
        >>> network()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def train_network(rows: Rows, seed: int) -> nn.Module:
    """Train from scratch with AdamW and a learning rate that falls linearly to a hundredth.

    Args:
        rows: images (n, 1, 8, 8) and targets (n,).
        seed: of the weights and the order of the rows.

    Returns:
        The model, in train mode.

    Example:
        >>> images, targets = (column[:12] for column in noisy_digits(seed=0)[0])
        >>> model = train_network((images, targets), seed=0)
        >>> bool((model(images).argmax(1) == targets).all())  # wrong labels and all
        True
    """
    inputs, targets = rows
    steps = EPOCHS * -(-len(targets) // BATCH_SIZE)
    with seeded(seed):
        model = network().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
        for _ in range(EPOCHS):
            for batch in torch.split(torch.randperm(len(targets)), BATCH_SIZE):
                loss = functional.cross_entropy(model(inputs[batch]), targets[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return model


def measure(name: str, model: nn.Module, forget: Rows, retain: Rows, test: Rows) -> Scores:
    """Accuracies, per-sample losses and the paper's two attacks, all in eval mode.

    Args:
        name: which model.
        model: gives logits (n, 10); left in eval mode.
        forget: images (n, 1, 8, 8) and targets (n,) of the forget set, and so the next two.
        retain: of the retain set.
        test: of the test set.

    Raises:
        ValueError: as `attack_accuracy`: fewer than 10 rows to forget or to test on.

    Example:
        >>> train, _, test = ((images[:12], targets[:12]) for images, targets in noisy_digits(seed=0))
        >>> scores = measure("before", network(), train, train, test)
        >>> scores.name, scores.forget_losses.shape, scores.loss_attack.samples
        ('before', (12,), 12)
    """
    model.eval()
    with torch.no_grad():
        outputs = {key: model(rows[0]) for key, rows in (("forget", forget), ("retain", retain), ("test", test))}
    targets = {"forget": forget[1], "retain": retain[1], "test": test[1]}
    accuracy = {key: float((outputs[key].argmax(1) == targets[key]).float().mean()) for key in outputs}
    losses = {
        key: functional.cross_entropy(outputs[key], targets[key], reduction="none").double().numpy() for key in outputs
    }
    entropy = {key: entropies(outputs[key].numpy()) for key in ("forget", "test")}
    return Scores(
        name,
        accuracy["retain"],
        accuracy["forget"],
        accuracy["test"],
        attack(losses["forget"], losses["test"]),
        attack(entropy["forget"], entropy["test"]),
        losses["forget"],
        losses["test"],
    )


def verdict(demo: Demo) -> str:
    """What the demo shows, in a sentence or two.

    Says what the attack still finds above the retrained model, and never that anything was deleted.

    Example:
        >>> def scores(name, accuracy):
        ...     result = Attack(accuracy, accuracy - 0.05, accuracy + 0.05, samples=100)
        ...     return Scores(name, 0.9, 0.9, 0.5, result, result, np.ones(100), np.ones(100))
        >>> unlearned = Unlearned(nn.Identity(), [], {}, reached_target=True)
        >>> report = Report({"verdict": {"sentence": "No residual membership detectable above ..."}})
        >>> models = scores("before", 0.8), scores("after", 0.54), scores("retrained", 0.5)
        >>> print(verdict(Demo(*models, unlearned, retraining_seconds=1.0, report=report)))
        The loss attack tells forgotten from unseen rows 80% of the time before and 54% after; its interval overlaps
        that of a model that never saw them (50%; 50 % is guessing, with 100 rows a side), and test accuracy moved by
        +0.0 points. Audit: No residual membership detectable above ...
    """
    models = (demo.before, demo.after, demo.retrained)
    before, after, retrained = (scores.loss_attack for scores in models)
    finding = "overlaps" if _overlap(after, retrained) else "is still apart from"
    change = 100 * (demo.after.test_accuracy - demo.before.test_accuracy)
    text = (
        f"The loss attack tells forgotten from unseen rows {before.accuracy:.0%} of the time before and "
        f"{after.accuracy:.0%} after; its interval {finding} that of a model that never saw them "
        f"({retrained.accuracy:.0%}; 50 % is guessing, with {after.samples} rows a side), and test accuracy moved by "
        f"{change:+.1f} points."
    )
    by_entropy, reference = demo.after.entropy_attack, demo.retrained.entropy_attack
    if not _overlap(by_entropy, reference):
        text += (
            f" The entropy attack tells them apart {by_entropy.accuracy:.0%} of the time, its interval apart from that "
            f"model's ({reference.accuracy:.0%})."
        )
    if not demo.unlearned.reached_target:
        text += " The forget set did not reach the price of unseen data."
    return text + f" Audit: {demo.report.verdict['sentence']}"


def _overlap(one: Attack, other: Attack) -> bool:
    return one.low <= other.high and other.low <= one.high


def _all(source: Source) -> Rows:
    inputs, targets = next(iter(source.ordered()))  # type: ignore[misc]
    return inputs, targets
