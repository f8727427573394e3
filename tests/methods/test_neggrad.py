"""Ascent and descent against loops in plain torch, written from the equations."""

import copy
from functools import partial
from itertools import cycle

import torch
from torch.nn import functional

from nabla_tau import methods
from tests.methods.cases import largest_difference, ordered, unlearned


def transcription(model, steps, objective):
    """SGD as the two methods use it."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)
    for batches in steps:
        optimizer.zero_grad()
        objective(*(functional.cross_entropy(model(x), y) for x, y in batches)).backward()
        optimizer.step()
    return model


def test_neggrad_is_ascent_and_nothing_else():
    model, forget, retain, validation = ordered()
    expected = transcription(model, [(batch,) for _ in range(5) for batch in forget], lambda loss: -loss)
    result = unlearned(partial(methods.neggrad, learning_rate=1e-2), model, forget, retain, validation)
    assert largest_difference(result.model, expected) < 1e-9 < largest_difference(result.model, model)


def test_neggrad_plus_weighs_both_losses_and_goes_round_the_shorter_set():
    model, forget, retain, validation = ordered()
    assert len(forget) == 3 < len(retain) == 13
    pairs = zip(cycle(list(forget)), list(retain) * 2, strict=False)
    expected = transcription(model, pairs, lambda loss_f, loss_r: 0.7 * loss_r - 0.3 * loss_f)
    method = partial(methods.neggrad_plus, epochs=2, beta=0.7)
    result = unlearned(method, model, forget, retain, validation)
    assert largest_difference(result.model, expected) < 1e-9 < largest_difference(result.model, model)
    assert (result.settings["forget_passes"], result.settings["retain_passes"]) == (2 * 13 / 3, 2)


def test_where_the_forget_set_is_longer_all_of_it_is_read():
    model, forget, retain, validation = ordered()
    result = unlearned(methods.neggrad_plus, model, retain, forget, validation)
    assert result.settings["steps"] == 5 * 13
