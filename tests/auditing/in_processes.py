"""The cases of `test_processes.py`. As a script, run by any number of processes, it leaves results in a folder.

python -m torch.distributed.run --standalone --nproc-per-node 2 in_processes.py FOLDER
"""

import os
import pickle
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import audit, losses
from nabla_tau.auditing.scoring import score
from nabla_tau.engine import start_engine
from nabla_tau.sets import open_set
from tests.conftest import clusters

UNLABELLED = -100


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

    def forward(self, tokens):
        return self.head(self.embed(tokens).tanh())


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).eval()


def scored():
    """Name -> scores of one set; batches are odd, the last one is of one row, and some rows have no label."""
    torch.manual_seed(0)
    engine = start_engine("cpu")
    model, data = network(), clusters(43, 1)
    shuffled = DataLoader(TensorDataset(*data), batch_size=7, shuffle=True)
    tokens, labels = torch.randint(9, (11, 5)), torch.randint(9, (11, 5))
    labels[torch.arange(11) % 5 < 2] = UNLABELLED
    one = tuple(column[:1] for column in data)
    cases = {
        "tensors": (model, losses.classification, open_set(data, 7)),
        "shuffled loader": (model, losses.classification, open_set(shuffled, 7)),
        "one row": (model, losses.classification, open_set(one, 7)),
        "labels": (nn.Linear(6, 4), losses.multi_label, open_set((data[0], torch.randint(2, (43, 4))), 5)),
        "values": (nn.Linear(6, 2), losses.regression, open_set((data[0], torch.randn(43, 2)), 5)),
        "tokens": (Words(), losses.token_classification, open_set((tokens, labels), 5)),
    }
    return {name: score(*case, engine) for name, case in cases.items()}


def audited():
    """A whole report, as the data that it is saved as."""
    torch.manual_seed(1)
    sets = {
        name: clusters(size, seed) for seed, (name, size) in enumerate({"forget": 61, "retain": 97, "test": 80}.items())
    }
    return audit(network(), original=network(), **sets, batch_size=16, device="cpu").data


def main(folder):
    found = {"scored": scored(), "audited": audited()}
    Path(folder, f"{os.environ['RANK']}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
    torch.distributed.destroy_process_group()  # its threads may abort a process that ends without this
