"""The cases of `test_two_processes.py`. As a script, run by any number of processes, it leaves results in a folder.

python -m torch.distributed.run --standalone --nproc-per-node 2 --module tests.two_processes.worker FOLDER
"""

import math
import os
import sys
import warnings
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nabla_tau import Unlearned, UnlearningWarning, losses, methods, trials, unlearn
from tests.methods.cases import SETTINGS

CLASSES, TOKENS, UNLABELLED = 4, 12, -100


class Images(nn.Module):
    """A CNN with a layer that only few samples pass through, and one that none does."""

    def __init__(self, *in_between):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3), *in_between, nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(96, CLASSES)
        self.rare = nn.Linear(96, CLASSES)
        self.unused = nn.Linear(2, 2)
        nn.init.ones_(self.unused.weight)

    def forward(self, images):
        hidden = self.features(images)
        logits = self.head(hidden)
        rare = images.mean((1, 2, 3)) > 0.2
        if rare.any():
            logits = logits.index_add(0, rare.nonzero().flatten(), self.rare(hidden[rare]))
        return logits


def with_statistics():
    return Images(nn.BatchNorm2d(6), nn.Dropout(0.3))


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens):
        return self.head(self.embed(tokens).tanh())


def images(size):
    return torch.randn(size, 1, 6, 6, dtype=torch.float64), torch.randint(CLASSES, (size,))


def texts(size):
    tokens, labels = torch.randint(TOKENS, (size, 5)), torch.randint(CLASSES, (size, 5))
    labels[torch.arange(size) % 5 < 2] = UNLABELLED
    return tokens, labels


def request(build, rows, forget_size, dtype=torch.float64, training_steps=40):
    """A model that has memorised its training set, and the three sets: batches are odd, the last of each is short."""
    torch.manual_seed(3)
    model = build().double()
    forget, retain, validation = (rows(size) for size in (forget_size, 23, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(training_steps):
        optimizer.zero_grad()
        for inputs, targets in (forget, retain):
            logits = model(inputs).flatten(0, -2)
            functional.cross_entropy(logits, targets.flatten(), ignore_index=UNLABELLED).backward()
        optimizer.step()
    sets = {"forget": forget, "retain": retain, "validation": validation}
    cast = {name: (inputs.to(dtype) if inputs.is_floating_point() else inputs, y) for name, (inputs, y) in sets.items()}
    return {"model": model.to(dtype), **cast, "batch_size": 5}


def in_loaders(arguments):
    """The same with shuffled DataLoaders that own no generator."""
    sets = ("forget", "retain", "validation")
    loaders = {name: DataLoader(TensorDataset(*arguments[name]), batch_size=5, shuffle=True) for name in sets}
    return {**arguments, **loaders}


class Stream(IterableDataset):
    """Rows that come one after the other, with what was read in each pass."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __iter__(self):
        place = len(self.read)
        self.read.append(0)
        for row in zip(*self.rows, strict=True):
            self.read[place] += 1
            yield row


def streamed(arguments):
    return {**arguments, "retain": Stream(arguments["retain"])}


def first(epochs, method):
    """A method that ends after so many epochs."""

    def begun(problem):
        yield from islice(method(problem), epochs)

    return begun


def trained(dataset, seed):
    """What `retrain` is given."""
    torch.manual_seed(seed)
    inputs, targets = dataset.tensors
    model = Images().to(inputs.dtype) if inputs.is_floating_point() else Texts().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), ignore_index=UNLABELLED).backward()
        optimizer.step()
    return model


def baselines():
    """Every method that is not ∇τ, with settings that move these models and do not break them."""
    for name, method in methods.METHODS.items():
        if name == "retrain":
            yield name, partial(method, train=trained)
        elif not name.startswith("nabla_tau"):
            less = {"ssd": {}, "bad_teacher": {"epochs": 2, "learning_rate": 1e-3}}.get(name, {"epochs": 2})
            yield name, partial(method, **{**SETTINGS[name], **less})


def cases():
    """Name -> (how far results may be apart, arguments of `unlearn`)."""
    found = cases_of_nabla_tau()
    for name, method in baselines():
        some_unlabelled = {**request(Texts, texts, 11), "loss": losses.token_classification}
        for what, arguments in {
            "tensors": request(Images, images, 11),
            "shuffled loaders": in_loaders(request(Images, images, 11)),
            "one row": request(Images, images, 1),
            "samples without labels": some_unlabelled,
        }.items():
            # Under this seed a row to be forgotten comes first: until one does, the student of a bad teacher is its
            # good one, and Adam magnifies gradients that are rounding alone.
            found[f"{name}, {what}"] = 1e-9, {**arguments, "method": method, "seed": 1}
    for name in ("neggrad", "amnesiac"):  # each process has statistics and dropout of its own
        method = partial(methods.METHODS[name], learning_rate=1e-3)
        found[f"{name}, batch norm"] = math.inf, {**request(with_statistics, images, 11), "method": method}
    return found


def cases_of_nabla_tau():
    found = {}
    for name, method in [(name, method) for name, method in methods.METHODS.items() if name.startswith("nabla_tau")]:
        whole = {"method": method}
        found[f"{name}, tensors"] = 1e-9, {**request(with_statistics, images, 11), **whole}
        hardly_trained = request(with_statistics, images, 11, training_steps=1)  # w is 0 in some of the steps
        found[f"{name}, shuffled loaders"] = 1e-9, {**in_loaders(hardly_trained), **whole}
        found[f"{name}, stream"] = 1e-9, {**streamed(request(with_statistics, images, 11)), **whole}
        found[f"{name}, micro-batches"] = 1e-9, {**in_loaders(hardly_trained), **whole, "micro_batch_size": 2}
        found[f"{name}, one row"] = 1e-9, {**request(with_statistics, images, 1), **whole}
        found[f"{name}, one row in a loader"] = 1e-9, {**in_loaders(request(with_statistics, images, 1)), **whole}
        # in single precision, 20 steps: 5 epochs of 4 batches, 20 of 1
        four_batches, one_row = (request(with_statistics, images, size, torch.float32) for size in (16, 1))
        found[f"{name}, single precision"] = 1e-5, {**four_batches, "method": first(5, method)}
        found[f"{name}, single precision, one row"] = 1e-5, {**one_row, "method": first(20, method)}
        some_unlabelled = {**request(Texts, texts, 11), "loss": losses.token_classification}
        found[f"{name}, samples without labels"] = 1e-9, {**some_unlabelled, **whole}
        found[f"{name}, samples without labels, micro-batches"] = (
            1e-9,
            {**some_unlabelled, **whole, "micro_batch_size": 1},
        )
    return found


def numbers(result):
    """Weights, buffers and what every epoch reports."""
    names = ("alpha", "target_loss", "forget_loss", "retain_loss", "ascent_weight")
    epochs = [[-1.0 if (value := getattr(epoch, name)) is None else value for name in names] for epoch in result.epochs]
    return {
        **result.model.state_dict(),
        "epochs": torch.tensor(epochs, dtype=torch.float64),
        "per process": torch.tensor(float("per_process" in result.settings)),
    }


@contextmanager
def short():
    """A plan of the default, and its trials, of fewer steps: each of them is a wait of one process for the other."""
    default = sys.modules["nabla_tau.methods.nabla_tau"]  # the package's attribute of this name is the function
    with ExitStack() as changed:
        changed.enter_context(patch.object(default, "LEAST_STEPS", 40))
        for module in (default, trials):
            changed.enter_context(patch.object(module, "TRIAL_STEPS", 3))
            changed.enter_context(patch.object(module, "LEARNING_RATES", (1e-3, 3e-4)))
        changed.enter_context(patch.object(trials, "JUDGED_BATCHES", 2))
        yield


def run(arguments):
    with warnings.catch_warnings(), short():
        warnings.simplefilter("ignore", UnlearningWarning)
        return numbers(unlearn(**arguments, device="cpu"))


def main(folder):
    for number, (_, arguments) in enumerate(cases().values()):
        save_file(run(arguments), Path(folder) / f"{number}-of-process-{os.environ['RANK']}.safetensors")
    try:
        Unlearned(nn.Linear(2, 2), [], {}, True).save(Path(folder) / "taken")
    except OSError as error:
        (Path(folder) / f"refused-{os.environ['RANK']}").write_text(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
    torch.distributed.destroy_process_group()  # its threads may abort a process that ends without this
