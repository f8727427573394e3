"""Orders of rows are permutations that follow their generator, held or computed."""

import pytest
import torch

from nabla_tau import orders


@pytest.fixture(params=[orders.HELD, 0], ids=["held", "computed"])
def held(request, monkeypatch):
    monkeypatch.setattr(orders, "HELD", request.param)


def order(size, seed, batch_size=7):
    return torch.cat(list(orders.shuffled(size, batch_size, torch.Generator().manual_seed(seed))))


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 4097])
def test_every_row_comes_once(size):
    assert torch.equal(order(size, 0).sort().values, torch.arange(size))


@pytest.mark.usefixtures("held")
def test_the_generator_decides():
    assert torch.equal(order(1000, 1), order(1000, 1))
    assert not torch.equal(order(1000, 1), order(1000, 2))
    assert torch.equal(order(1000, 1), order(1000, 1, batch_size=300))
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.cat(list(orders.shuffled(1000, 7, generator))) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.usefixtures("held")
def test_places_are_even():
    """Chi-square over 8 regions, for the places of a row, of its neighbour, and of how far these are apart (4 sd)."""
    drawn = torch.stack([order(1000, seed, 1000)[:2] for seed in range(2000)])
    for values in (drawn[:, 0], drawn[:, 1], (drawn[:, 1] - drawn[:, 0]) % 1000):
        counts = torch.bincount(values // 125, minlength=8).double()
        assert float(((counts - 250) ** 2 / 250).sum()) < 7 + 4 * 14**0.5


def test_memory_does_not_hold_the_order_of_many_rows():
    """A batch out of 2^40 rows: nothing is drawn but that."""
    batch = next(orders.shuffled(2**40, 5, torch.Generator().manual_seed(0)))
    assert len(set(batch.tolist())) == 5
    assert int(batch.max()) > 2**35
    assert next(orders.in_order(2**40, 3)).tolist() == [0, 1, 2]
