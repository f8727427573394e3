"""The cases of `test_sharding.py`: a model spread over processes. As a script it leaves results in a folder.

python -m torch.distributed.run --standalone --nproc-per-node 2 --module tests.two_processes.sharded FOLDER
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import UnlearningWarning, losses, methods, unlearn
from nabla_tau.methods.nabla_tau import nabla_tau
from tests.methods.cases import SETTINGS
from tests.two_processes.worker import CLASSES, TOKENS, first, images, in_loaders, request, short, streamed, texts

EPOCHS = 2


class Blocks(nn.Module):
    """All that sharding must not trip over: layers for few samples or none, a shared, a frozen and a single weight."""

    def __init__(self, inputs=36, width=8):
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Tanh()) for _ in range(3)
        )
        self.blocks[1][0].bias.requires_grad_(False)
        self.again = nn.ModuleList([nn.Linear(width, width)])
        self.same = nn.Linear(width, width)
        self.same.weight = self.again[0].weight
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head, self.rare = nn.Linear(width, CLASSES), nn.Linear(width, CLASSES)
        self.register_buffer("shift", torch.ones(CLASSES))
        self.unused = nn.Linear(2, 2)
        nn.init.ones_(self.unused.weight)

    def forward(self, inputs):
        hidden = self.first(inputs.flatten(1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        hidden = self.same(self.again[0](hidden)).tanh()
        logits = self.scale * self.head(hidden) + self.shift
        rare = inputs.flatten(1).mean(1) > 0.2
        if rare.any():
            logits = logits.index_add(0, rare.nonzero().flatten(), self.rare(hidden[rare]))
        return logits


class Normed(Blocks):
    """With running statistics that follow, of which each process reads a part."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(self.first, nn.BatchNorm1d(8))


class Texts(nn.Module):
    """The output of a layer is a view, and is changed in place."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 8)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, CLASSES))

    def forward(self, tokens):
        return self.layers(self.embed(tokens))


def cases():
    """Name -> arguments of `unlearn`; the last batch of each set is short, and gives one process nothing."""
    pushing = {**request(Blocks, images, 11), "method": first(EPOCHS, nabla_tau)}
    resting = {**request(Blocks, images, 11, training_steps=1), "method": first(EPOCHS, nabla_tau)}
    published = {**pushing, "method": first(EPOCHS, methods.nabla_tau_published)}
    at_rest = {**published, "forget": never_learned(pushing)}
    one_row = {**request(Blocks, images, 1), "method": first(10, nabla_tau)}
    unlabelled = {**request(Texts, texts, 11), "loss": losses.token_classification, "method": first(EPOCHS, nabla_tau)}
    found = {
        "pushing": pushing,
        "pushing, micro-batches": {**pushing, "micro_batch_size": 1},
        "resting": resting,
        "resting, micro-batches": {**in_loaders(resting), "micro_batch_size": 2},
        "at rest": at_rest,
        "at rest, micro-batches": {**at_rest, "micro_batch_size": 1},
        "one of a kind": one_of_a_kind(pushing),
        "stream": streamed(pushing),
        "one row": one_row,
        "one row, micro-batches": {**one_row, "micro_batch_size": 1},
        "batch norm": {**request(Normed, images, 11), "method": first(EPOCHS, nabla_tau)},
        "batch norm, micro-batches": {
            **request(Normed, images, 11),
            "method": first(EPOCHS, nabla_tau),
            "micro_batch_size": 1,
        },
        "without labels": unlabelled,
        "without labels, micro-batches": {**unlabelled, "micro_batch_size": 1},
        "published": published,
    }
    for name, method in methods.METHODS.items():
        if not name.startswith("nabla_tau") and method.facts.not_sharded is None:
            settings = {**SETTINGS[name], "epochs": EPOCHS}
            found[name] = {**request(Blocks, images, 11), "method": partial(method, **settings), "seed": 1}
    return found


def one_of_a_kind(arguments):
    """The first sample alone passes through a layer: it is the spare one, which reaches no more than is read."""
    rows = {name: arguments[name] for name in ("forget", "retain")}
    rows = {name: (x - x.mean((1, 2, 3), keepdim=True), y) for name, (x, y) in rows.items()}
    rows["forget"][0][0] += 1
    return {**arguments, **{name: DataLoader(TensorDataset(*columns), batch_size=5) for name, columns in rows.items()}}


def never_learned(arguments):
    """Rows that cost more than any: every batch of them is where it should be."""
    inputs, _ = arguments["validation"]
    return inputs[:11], arguments["model"](inputs[:11]).argmin(1)


def run(arguments, **options):
    """The result, of a method that may be only the beginning of another."""
    method = arguments["method"]
    if not hasattr(method, "facts") and not isinstance(method, partial):
        method.facts = methods.nabla_tau.facts
    with warnings.catch_warnings(), short():
        warnings.simplefilter("ignore", UnlearningWarning)
        return unlearn(**arguments, device="cpu", **options)


def main(folder):
    for number, arguments in enumerate(cases().values()):
        run(arguments, shard=True).save(Path(folder) / str(number))


if __name__ == "__main__":
    main(sys.argv[1])
    torch.distributed.destroy_process_group()  # its threads may abort a process that ends without this
