"""Fine-tuning, with and without a penalty, against loops in plain torch written from the equations."""

import copy
from functools import partial

import torch
from torch.nn import functional

from nabla_tau import methods
from tests.methods.cases import largest_difference, ordered, unlearned


def transcription(model, retain, optimizer, epochs, *, penalty=0.0, schedule=None):
    model = copy.deepcopy(model)
    optimizer = optimizer(model.parameters())
    schedule = schedule and schedule(optimizer)
    for epoch in range(epochs):
        for x, y in retain:
            loss = functional.cross_entropy(model(x), y)
            loss = loss + penalty * (1 - epoch / epochs) * sum(p.abs().sum() for p in model.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if schedule:
            schedule.step()
    return model


def test_finetune_is_the_loop_of_the_paper_without_its_forget_term():
    model, forget, retain, validation = ordered()
    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2)
    falling = partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=6)
    expected = transcription(model, retain, adamw, 6, schedule=falling)
    result = unlearned(methods.finetune, model, forget, retain, validation)
    assert largest_difference(result.model, expected) < 1e-9 < largest_difference(result.model, model)


def test_l1_sparse_adds_a_falling_penalty_on_every_weight():
    model, forget, retain, validation = ordered()
    sgd = partial(torch.optim.SGD, lr=1e-2, momentum=0.9, weight_decay=5e-4)
    expected = transcription(model, retain, sgd, 10, penalty=1e-2)
    result = unlearned(partial(methods.l1_sparse, penalty=1e-2), model, forget, retain, validation)
    assert largest_difference(result.model, expected) < 1e-9 < largest_difference(result.model, model)
    plain = unlearned(partial(methods.l1_sparse, penalty=0), model, forget, retain, validation)
    small = [sum((p.abs() < 1e-3).sum() for p in each.model.parameters()) for each in (plain, result)]
    assert small[1] > 2 * small[0]
