"""∇τ with one rule for every domain: the default."""

import math
import time
from collections.abc import Iterator

import torch

from nabla_tau.batches import Batch
from nabla_tau.objective import PassMeans, descend
from nabla_tau.problem import Epoch, Problem

ALPHA_PER_FORGET_FRACTION = 5 / 3
FORGET_FRACTIONS = (0.03, 0.30)
RETAIN_PASSES = 3
MIN_STEPS = 240
MAX_EPOCHS = 80
REFRESH_EVERY = 5
LEARNING_RATES = tuple(10 ** (-3 - k / 2) for k in range(5))
LAST_LEARNING_RATE_FACTOR = 0.1
WEIGHT_DECAY = 1e-2
TRIAL_STEPS = 10
DECAY = True


def nabla_tau(problem: Problem) -> Iterator[Epoch]:
    """Draft."""
    forget_batches, retain_batches = problem.forget.batches, problem.retain.batches
    wanted = max(RETAIN_PASSES * retain_batches, MIN_STEPS)
    epochs = min(max(math.ceil(wanted / forget_batches), 1), MAX_EPOCHS)
    forget_fraction = problem.forget.size / (problem.forget.size + problem.retain.size)
    low, high = FORGET_FRACTIONS
    first_alpha = ALPHA_PER_FORGET_FRACTION * min(max(forget_fraction, low), high)
    lr = LEARNING_RATES[0]
    problem.settings.update(steps=epochs * forget_batches, epochs=epochs, first_alpha=first_alpha)
    problem.announce(epochs * forget_batches)
    optimizer = torch.optim.AdamW(problem.trainable(), lr=lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, total_iters=epochs)
    forget_order, retain = problem.generator(0), endless(problem)
    for epoch in range(epochs):
        started = time.perf_counter()
        if epoch % REFRESH_EVERY == 0:
            target_loss = problem.mean_loss(problem.validation)
        alpha = first_alpha * (1 - epoch / epochs) if DECAY else first_alpha
        means = PassMeans()
        for forget_batch in problem.one_pass(problem.forget, forget_order):
            means.add(descend(problem, optimizer, forget_batch, next(retain), alpha=alpha, target_loss=target_loss))
        yield means.epoch(alpha, target_loss, time.perf_counter() - started)
        schedule.step()


def endless(problem: Problem) -> Iterator[Batch | None]:
    """Retain batches, pass after pass."""
    order = problem.generator(1)
    while True:
        yield from problem.one_pass(problem.retain, order)
