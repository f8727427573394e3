"""Fixtures that several test files share."""

import os
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


@pytest.fixture
def data_folder():
    """Where the real data sets are; without them the test is skipped or, where all is required, fails."""
    if not DATA.is_dir():
        reason = f"no real data in {DATA}: set NABLA_TAU_DATA"
        if REQUIRE_ALL:
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def clusters(count, seed, classes=3, features=6, noise=0.4):
    """A classification task in tensors: noisy clusters, with a tenth of the labels wrong so that rows are memorised."""
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
