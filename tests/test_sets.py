"""Any set is read batch by batch, each sample once, shared among processes without padding."""

import warnings
from itertools import chain, repeat

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from nabla_tau.batches import rows_in, structure, take_share
from nabla_tau.sets import base_rows, open_set
from tests.conftest import require

X, Y = torch.arange(11.0), torch.arange(11) % 3


class Samples(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, row):
        return X[row], int(Y[row])


def generator():
    return torch.Generator().manual_seed(3)


def values(source, share=(0, 1), ordered=True):
    batches = source.ordered(share) if ordered else source.one_pass(generator(), share)
    return [None if batch is None else [int(value) for value in batch[0]] for batch in batches]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        Samples(),
        Subset(Samples(), range(11)),
        DataLoader(Samples(), batch_size=4),
        DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True),
    ],
)
def test_every_kind_of_set_is_read_in_order(data):
    source = open_set(data, 4)
    assert (source.size, source.batch_size, source.batches) == (11, 4, 3)
    assert values(source) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert structure(next(iter(source.ordered()))) == ("tuple", "float32 in 1 dimensions", "integer in 1 dimensions")


def test_a_pass_is_shuffled_by_the_generator_and_reads_every_row_once():
    source = open_set((X, Y), 4)
    assert values(source, ordered=False) == values(source, ordered=False)
    assert values(source, ordered=False) != values(source)
    assert sorted(chain(*values(source, ordered=False))) == list(range(11))


def test_a_loader_keeps_its_order_batch_size_and_collate():
    loader = DataLoader(
        Samples(), batch_sampler=[[5, 1], [2]], collate_fn=lambda rows: (torch.stack([r[0] for r in rows]),)
    )
    source = open_set(loader, 256)
    assert values(source, ordered=False) == values(source) == [[5, 1], [2]]
    assert (source.size, source.batches) == (3, 2)


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("data", [(X, Y), DataLoader(Samples(), batch_size=4)])
def test_shares_make_up_the_whole_batch(processes, data):
    source = open_set(data, 4)
    shares = [values(source, (rank, processes)) for rank in range(processes)]
    together = [list(chain(*(part or [] for part in parts))) for parts in zip(*shares, strict=True)]
    assert together == values(source)


def test_an_empty_share_is_none():
    assert take_share((torch.zeros(1),), (0, 2)) is None
    assert rows_in(take_share((torch.zeros(1),), (1, 2))) == 1


def test_hugging_face_columns_become_tensors():
    datasets = require("datasets")
    data = datasets.Dataset.from_dict({"x": [[1, 2], [3, 4], [5, 6]], "text": list("abc"), "label": [0, 1, 0]})
    for given in (data, data.with_format("torch"), data.with_format("numpy"), Subset(data, [0, 1, 2])):
        batch = next(iter(open_set(given, 2).ordered()))
        assert batch["x"].tolist() == [[1, 2], [3, 4]]
        assert batch["label"].tolist() == [0, 1]
        assert list(batch["text"]) == ["a", "b"]
    ragged = datasets.Dataset.from_dict({"x": [[1], [3, 4]]})
    with pytest.raises(ValueError, match=r"'x'.*collate_fn"):
        next(iter(open_set(ragged, 2).ordered()))


def test_base_rows_sees_through_subsets_and_loaders():
    samples = Samples()
    nested = Subset(Subset(samples, [5, 6, 7]), [2, 0])
    for data, rows in (
        (nested, [7, 5]),
        (DataLoader(nested, shuffle=True), [7, 5]),
        (DataLoader(samples, sampler=SubsetRandomSampler([4, 2])), [2, 4]),
    ):
        base, found = base_rows(data)
        assert base is samples
        assert found.tolist() == rows
    assert base_rows(DataLoader(samples, sampler=WeightedRandomSampler([1.0] * 11, 5)))[1] is None


def test_a_batch_sampler_says_which_rows_and_how_many():
    loader = DataLoader(Samples(), batch_sampler=BatchSampler(SubsetRandomSampler([7, 2, 5]), 2, drop_last=False))
    source = open_set(loader, 256)
    assert (source.size, source.batch_size, values(source)) == (3, 2, [[2, 5], [7]])
    assert base_rows(loader)[1].tolist() == [2, 5, 7]


class Sampler:
    """A batch sampler that says it has two batches."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return 2

    def __iter__(self):
        return iter(self.batches() if callable(self.batches) else self.batches)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(Samples(), batch_sampler=Sampler(lambda: repeat([0, 1]))), "got more from Sampler"),
        (DataLoader(Samples(), batch_sampler=Sampler(iter([[0], [1]]))), "got 0 from Sampler"),
        (DataLoader(Samples(), sampler=SubsetRandomSampler([99])), r"row positions in \[0, 11\)"),
        (Subset(Samples(), [True] * 11), r"numpy\.flatnonzero"),
        (Subset(Samples(), [99]), r"row positions in \[0, 11\)"),
        ((X, np.array(["a"] * 11)), "<U1 values at place 1"),
        ({"x": X, "y": np.array([None, 3] * 4)}, "object values in 'y'"),
        ((X, torch.tensor(3)), "a single value at place 1"),
        ([X, Y[:3]], "pass columns as a tuple"),
    ],
)
def test_what_cannot_be_read(data, message):
    with pytest.raises((ValueError, TypeError), match=message):
        open_set(data, 4)


@pytest.mark.parametrize("kind", ["uint16", "uint32", "float16", "bool"])
def test_arrays_of_any_number(kind):
    array = (np.arange(11) % 2).astype(kind)
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_set({"x": array}, 4)
    assert [int(value) for batch in source.ordered() for value in batch["x"]] == [row % 2 for row in range(11)]


class Transformed(Subset):
    """The usual way to put a transform on a part of a dataset."""

    def __getitem__(self, row):
        return 100 * self.dataset[self.indices[row]][0], 0

    def __getitems__(self, rows):
        return [self[row] for row in rows]


def test_what_a_subset_of_the_users_own_does_to_its_rows_is_done():
    part = Transformed(TensorDataset(X, Y), [1, 2, 3])
    (batch,) = open_set(part, batch_size=3).ordered()
    assert torch.equal(batch[0], 100 * X[1:4])
    (batch,) = open_set(Subset(part, [2, 0]), batch_size=3).ordered()
    assert torch.equal(batch[0], 100 * X[[3, 1]])


class Opened(Samples):
    """Rows from a file that each worker opens for itself."""

    file = None

    def __getitem__(self, row):
        return self.file[row], int(Y[row])


def open_file(worker):
    torch.utils.data.get_worker_info().dataset.file = X


def test_what_a_loaders_workers_begin_with_is_kept():
    source = open_set(DataLoader(Opened(), batch_size=4, num_workers=1, worker_init_fn=open_file), batch_size=9)
    assert torch.equal(torch.cat([inputs for inputs, _ in source.ordered()]), X)


def test_what_is_no_set():
    for data in (3, iter([1])):
        with pytest.raises(TypeError, match="map-style"):
            open_set(data, 4)
    with pytest.raises(ValueError, match=r"\[2, 3\] rows"):
        open_set((np.zeros(3), np.zeros(2)), 4)
