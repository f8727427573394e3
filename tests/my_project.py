"""A project file as a user of the command line writes it."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.conftest import clusters, fit

TRAIN, VALIDATION = clusters(120, 1), clusters(100, 2)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fit(nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 3)), *TRAIN)


def sets():
    forget, retain = tuple(c[:20] for c in TRAIN), tuple(c[20:] for c in TRAIN)
    return {"model": network(), "forget": forget, "retain": retain, "validation": VALIDATION, "batch_size": 16}


def with_train():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            return self.body(x)

    columns = {"x": TRAIN[0], "labels": TRAIN[1], "user_id": torch.arange(120) // 2}
    return {"model": Model(), "train": columns, "validation": {"x": VALIDATION[0], "labels": VALIDATION[1]}}


def audited():
    return {**sets(), "test": clusters(100, 3), "retrained": [network()]}


def matched():
    given, unseen = with_train(), clusters(100, 3)
    test = {"x": unseen[0], "labels": unseen[1], "user_id": torch.arange(100) // 2}
    return {**given, "test": test, "matched": True}


def incomplete():
    return {"model": network(), "forgotten": TRAIN}


def no_dict():
    return network()


def with_users():
    given = with_train()
    given["validation"]["user_id"] = torch.arange(100)
    return given


def with_a_loader():
    given = with_train()
    rows = [{"x": x, "labels": y} for x, y in zip(*VALIDATION, strict=True)]
    return {**given, "validation": DataLoader(rows, batch_size=16)}


def odd_names():
    given = with_train()
    return {"modle": given["model"], "train": {"x": TRAIN[0]}, "validation": given["validation"]}


def broken():
    return {}["data"]


def needs_something(path):
    return path


def lossy():
    calls = []

    def loss(model, batch):
        calls.append(0)
        if len(calls) > 20:
            raise RuntimeError("twenty is enough")
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    return {**sets(), "loss": loss}
