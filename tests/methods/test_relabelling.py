"""Wrong labels: never the own one, uniform, a matter of the sample alone; and the methods that learn them."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import losses, methods
from nabla_tau.batches import take_rows
from nabla_tau.methods.salun import saliency_masks
from nabla_tau.mixing import Mixture
from nabla_tau.relabelling import wrong_labels
from nabla_tau.unlearning import Request
from tests.methods.cases import case, largest_difference, ordered, unlearned


def targets(loss, size):
    shapes = {"classification": (size,), "token_classification": (size, 4), "binary": (size,), "multi_label": (size, 3)}
    high = 2 if loss in (losses.binary, losses.multi_label) else 5
    return torch.randint(high, shapes[losses.name_of(loss)])


LOSSES = [losses.classification, losses.token_classification, losses.binary, losses.multi_label]


@pytest.mark.parametrize("loss", LOSSES, ids=losses.name_of)
def test_a_wrong_label_is_never_the_own_one_and_any_other_as_often(loss):
    batch = torch.randn(8000, 3), targets(loss, 8000)
    drawn = wrong_labels(loss, batch, classes=5, key=1)
    if loss is losses.multi_label:
        code = torch.tensor([4, 2, 1])
        drawn, own, others = drawn @ code, batch[1] @ code, 7
    else:
        own, others = batch[1], 1 if loss is losses.binary else 4
    assert bool((drawn != own).all())
    step = (drawn.flatten() - own.flatten()) % (others + 1)
    if loss is losses.multi_label:
        step = drawn ^ own  # which labels differ: any but none of them
    shares = torch.bincount(step.long(), minlength=others + 1)[1:] / step.numel()
    assert len(shares) == others
    assert (shares - 1 / others).abs().max() < 0.02


@pytest.mark.parametrize("loss", LOSSES, ids=losses.name_of)
def test_a_draw_is_a_matter_of_the_sample_and_the_round(loss):
    batch = {"x": torch.randn(64, 3), "name": [str(row) for row in range(64)], "labels": targets(loss, 64)}
    drawn = wrong_labels(loss, batch, classes=5, key=1)
    order = torch.randperm(64)
    assert torch.equal(wrong_labels(loss, take_rows(batch, order[:9]), classes=5, key=1), drawn[order[:9]])
    if loss is not losses.binary:
        assert not torch.equal(wrong_labels(loss, batch, classes=5, key=2), drawn)


def test_tokens_without_a_label_get_none():
    labels = torch.tensor([[1, -100, 2]])
    drawn = wrong_labels(losses.token_classification, (torch.randn(1, 3), labels), classes=3, key=0)
    assert drawn[0, 1] == -100
    assert bool((drawn != labels)[0, [0, 2]].all())


def wrong(batch, key):
    return batch[0], wrong_labels(losses.classification, batch, 3, key)


def test_random_label_descends_on_wrong_labels_and_then_on_right_ones():
    model, forget, retain, validation = ordered()
    student = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=2e-2, momentum=0.9, weight_decay=5e-4)
    for epoch in range(3):
        of_forget = [(1.0, *wrong(batch, key=epoch)) for batch in forget]  # drawn anew in each epoch
        for weight, x, y in [*of_forget, *((0.5, *batch) for batch in retain)]:
            optimizer.zero_grad()
            (weight * functional.cross_entropy(student(x), y)).backward()
            optimizer.step()
    method = partial(methods.random_label, epochs=3, learning_rate=2e-2, retain_weight=0.5)
    result = unlearned(method, model, forget, retain, validation)
    assert largest_difference(result.model, student) < 1e-9 < largest_difference(result.model, model)


def test_salun_moves_the_salient_half_of_the_weights_and_no_other():
    model, forget, retain, validation = ordered()
    x, y = forget.dataset.tensors
    loss = functional.cross_entropy(model(x), y)
    slopes = torch.cat([g.abs().flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    method = partial(methods.salun, learning_rate=2e-2)
    result = unlearned(method, model, forget, retain, validation).model
    pairs = list(zip(model.parameters(), result.parameters(), strict=True))
    moved = torch.cat([(one != other).flatten() for one, other in pairs])
    assert int(moved.sum()) == round(0.5 * len(slopes))
    assert slopes[moved].min() >= slopes[~moved].max()


def test_salun_with_all_weights_is_random_label():
    model, *sets = ordered()
    settings = {"learning_rate": 2e-2, "epochs": 2}
    all_of_them = unlearned(partial(methods.salun, mask_share=1.0, **settings), model, *sets).model
    unmasked = unlearned(partial(methods.random_label, **settings), model, *sets).model
    assert largest_difference(all_of_them, unmasked) == 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_mask_share(share):
    found = case("cnn")
    request = Request(found.model, found.forget, found.retain, found.validation, batch_size=7, device="cpu")
    with request.prepared() as problem:
        masks = saliency_masks(problem, share)
        total = sum(mask.numel() for mask in masks)
        assert sum(int(mask.sum()) for mask in masks) == round(share * total)
        assert all(parameter.grad is None for parameter in problem.model.parameters())


def test_amnesiac_learns_wrong_labels_among_the_right_ones():
    """Rows are told apart by their content; each is read once a pass, in mixed batches."""
    model, forget, retain, validation = ordered()
    sets = [tuple(loader.dataset.tensors) for loader in (forget, retain, validation)]
    request = Request(model, *sets, batch_size=8, device="cpu")
    with request.prepared() as problem:
        mixture, order = Mixture(problem), problem.generator(3)  # which draws all three passes
        batches = [list(mixture.one_pass(order)) for _ in range(3)]
    assert len(batches[0]) == 8  # 11 + 50 rows
    assert any(mixed.forget is not None and mixed.retain is not None for mixed in batches[0])
    student = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    for mixed in (mixed for one_pass in batches for mixed in one_pass):
        parts = [part for part in (mixed.retain, mixed.forget and wrong(mixed.forget, key=0)) if part is not None]
        x, y = (torch.cat(columns) for columns in zip(*parts, strict=True))
        optimizer.zero_grad()
        functional.cross_entropy(student(x), y).backward()
        optimizer.step()
    result = unlearned(partial(methods.amnesiac, learning_rate=1e-2), model, *sets, batch_size=8)
    assert result.settings["mixed"] == "rows"
    assert largest_difference(result.model, student) < 1e-9 < largest_difference(result.model, model)


def read(mixture, problem):
    """Inputs of one pass: (of the forget set, of the retain set)."""
    passed = list(mixture.one_pass(problem.generator(3)))
    parts = ([getattr(mixed, name) for mixed in passed] for name in ("forget", "retain"))
    return [torch.cat([part[0] for part in some if part is not None]) for some in parts], passed


class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(200, 3)

    def forward(self, tokens):
        return self.embed(tokens).mean(1)


def bags(size, length, first):
    return first + torch.arange(size)[:, None].expand(size, length), torch.arange(size) % 3


@pytest.mark.parametrize("kind", ["tensors", "loaders", "rows of two lengths"])
def test_a_mixed_pass_reads_every_row_once(kind):
    forget, retain, validation = bags(20, 4, 0), bags(50, 5 if "lengths" in kind else 4, 50), bags(9, 4, 150)
    wanted = forget[0][:, 0].tolist(), retain[0][:, 0].tolist()
    if kind == "loaders":
        forget, retain = (DataLoader(TensorDataset(*rows), batch_size=7, shuffle=True) for rows in (forget, retain))
    with Request(Bag(), forget, retain, validation, batch_size=7, device="cpu").prepared() as problem:
        mixture = Mixture(problem)
        passed = list(mixture.one_pass(problem.generator(3)))
    assert mixture.of == ("rows" if kind == "tensors" else "batches")
    assert len(passed) == mixture.batches
    for name, rows in zip(("forget", "retain"), wanted, strict=True):
        parts = [getattr(mixed, name) for mixed in passed]
        assert sorted(int(row[0]) for part in parts if part is not None for row in part[0]) == rows


def test_a_share_of_the_retain_set_is_drawn_once():
    found = case("mlp")
    request = Request(found.model, found.forget, found.retain, found.validation, batch_size=7, device="cpu")
    with request.prepared() as problem:
        mixture = Mixture(problem, retain_share=0.3)
        order = problem.generator(3)
        parts = [[mixed.retain[0] for mixed in mixture.one_pass(order) if mixed.retain is not None] for _ in range(2)]
    first, second = (torch.cat(part) for part in parts)
    assert len(first) == round(0.3 * len(found.retain[0]))
    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist())
