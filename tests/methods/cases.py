"""Models that have learned their training data, with one whole class to be forgotten, for every method's contract."""

import copy
import warnings
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import UnlearningWarning, methods, unlearn

CLASSES, TOKENS, LENGTH = 3, 12, 5


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 12)
        self.place = nn.Parameter(torch.randn(LENGTH, 12) / 4)
        self.block = nn.TransformerEncoderLayer(12, nhead=2, dim_feedforward=24, dropout=0.1, batch_first=True)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, tokens):
        return self.head(self.block(self.embed(tokens) + self.place).mean(1))


def cnn():
    first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, CLASSES))


def mlp():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def images(classes, generator):
    centres = torch.randn(CLASSES, 1, 6, 6, generator=torch.Generator().manual_seed(7))
    return centres[classes] + 0.5 * torch.randn(len(classes), 1, 6, 6, generator=generator)


def texts(classes, generator):
    """A class has four words of its own; two words of five are any."""
    own = 4 * classes[:, None] + torch.randint(4, (len(classes), LENGTH), generator=generator)
    noise = torch.rand(len(classes), LENGTH, generator=generator) < 0.4
    return torch.where(noise, torch.randint(TOKENS, own.shape, generator=generator), own)


def tables(classes, generator):
    centres = torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(7))
    return centres[classes] + 0.5 * torch.randn(len(classes), 6, generator=generator)


def one_class(classes, generator):
    return classes


def labels(classes, generator):
    """Two labels that follow the class, and one that is chance."""
    chance = torch.rand(len(classes), generator=generator) < 0.5
    return torch.stack([classes == 0, classes == 1, chance], 1).float()


DOMAINS = {
    "cnn": (cnn, images, one_class),
    "transformer": (Transformer, texts, one_class),
    "transformer, multi-label": (Transformer, texts, labels),
    "mlp": (mlp, tables, one_class),
    "mlp, multi-label": (mlp, tables, labels),
}


def train(domain, dataset, seed):
    """The original training, for `retrain` too."""
    build, _, target = DOMAINS[domain]
    mean_loss = functional.cross_entropy if target is one_class else functional.binary_cross_entropy_with_logits
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(10):
        for x, y in DataLoader(dataset, batch_size=20, shuffle=True):
            optimizer.zero_grad()
            mean_loss(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@dataclass(frozen=True)
class Case:
    """A trained model; class 0 is to be forgotten. `control` are as many rows to be kept, `rest` the others."""

    domain: str
    model: nn.Module
    forget: Any
    control: Any
    rest: Any
    validation: Any
    settings: dict[str, Any] = field(default_factory=lambda: {"batch_size": 8, "device": "cpu"})

    @property
    def retain(self):
        return joined(self.control, self.rest)

    def sets(self):
        return {"forget": self.forget, "retain": self.retain, "validation": self.validation, **self.settings}


def joined(*parts):
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


@cache
def case(domain):
    _, inputs, target = DOMAINS[domain]
    generator = torch.Generator().manual_seed(3)

    def rows(classes):
        classes = torch.tensor(classes)
        return inputs(classes, generator), target(classes, generator)

    forget, control = rows([0] * 20), rows([1, 2] * 10)
    rest, validation = rows([1, 2] * 15), rows([0, 1, 2] * 8)
    with torch.random.fork_rng():
        model = train(domain, TensorDataset(*joined(forget, control, rest)), seed=0)
    return Case(domain, model, forget, control, rest, validation)


def ordered(forget_size=11, batch_size=4, dtype=torch.float64):
    """A trained network of plain layers, and loaders that keep their order: what a transcription can follow."""
    found = case("mlp")
    sets = [tuple(c.to(dtype) if c.is_floating_point() else c for c in rows) for rows in (found.forget, found.retain)]
    sets[0] = tuple(column[:forget_size] for column in sets[0])
    validation = found.validation[0].to(dtype), found.validation[1]
    loaders = [DataLoader(TensorDataset(*rows), batch_size=batch_size) for rows in (*sets, validation)]
    return copy.deepcopy(found.model).to(dtype), *loaders


def unlearned(method, model, forget, retain, validation, **settings):
    sets = {"forget": forget, "retain": retain, "validation": validation}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        return unlearn(model, **sets, method=method, device="cpu", **settings)


def largest_difference(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((one - two).abs().max()) for one, two in pairs)


# Settings that move these small models within a second: the published ones are for other models, and SCRUB's and SSD's
# hardly move even those.
SETTINGS = {
    "finetune": {"learning_rate": 1e-2},
    "neggrad": {"learning_rate": 5e-2, "epochs": 8},
    "neggrad_plus": {"beta": 0.5},
    "scrub": {"learning_rate": 5e-2, "max_epochs": 5, "clip": 1.0},
    "scrub_rewind": {"learning_rate": 5e-2, "max_epochs": 5, "clip": 1.0},
    "scrub_small": {"learning_rate": 2e-2, "max_epochs": 5},
    "ssd": {"selection": 1.5, "dampening": 0.5},
    "amnesiac": {"learning_rate": 1e-2, "epochs": 5},
    "bad_teacher": {"learning_rate": 1e-2, "epochs": 8, "retain_share": 0.5},
    "random_label": {"learning_rate": 2e-2},
    "salun": {"learning_rate": 5e-2},
    "l1_sparse": {"learning_rate": 1e-1, "penalty": 1e-3},
}
BASELINES = [name for name in methods.METHODS if not name.startswith("nabla_tau")]
NEVER_READ = ("retrain", "finetune", "l1_sparse")


def ready(name, domain):
    """A method with the settings of these tests."""
    settings = {"train": partial(train, domain)} if name == "retrain" else SETTINGS.get(name, {})
    return partial(methods.METHODS[name], **settings)
