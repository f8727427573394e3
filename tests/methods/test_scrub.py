"""SCRUB against a loop in plain torch, written from the paper's equation 3; and what rewinding picks."""

import copy
from functools import partial
from importlib import import_module

import pytest
import torch
from torch.nn import functional

from nabla_tau import methods
from nabla_tau.unlearning import Request
from tests.methods.cases import case, largest_difference, ordered, unlearned

rewinding = import_module("nabla_tau.methods.scrub_rewind")
STRONG = {"learning_rate": 5e-2, "clip": 1.0}


def transcription(model, forget, retain, *, learning_rate, clip):
    """Every state after an epoch. KL by its definition: Σ p_teacher (log p_teacher − log p_student)."""
    student, teacher = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
    states, temperature, factors = [], 4.0, [1, 1, 1, 0.1, 0.1, 0.01]
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)

    def divergence(logits, x):
        own = torch.softmax(logits / temperature, 1)
        other = torch.softmax(teacher(x).detach() / temperature, 1)
        return temperature**2 * (other * (other / own).log()).sum(1).mean()

    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), clip)
        optimizer.step()

    for epoch in range(6):
        optimizer.param_groups[0]["lr"] = learning_rate * factors[epoch]
        if epoch < 3:
            for x, _ in forget:
                step(-divergence(student(x), x))
        for x, y in retain:
            logits = student(x)
            step(functional.cross_entropy(logits, y) + 0.5 * divergence(logits, x))
        states.append(copy.deepcopy(student))
    return states


@pytest.mark.parametrize("settings", [{"learning_rate": 5e-4, "clip": 0.2}, STRONG], ids=["published", "strong"])
def test_scrub_is_its_equation(settings):
    model, forget, retain, validation = ordered()
    expected = transcription(model, forget, retain, **settings)[-1]
    method = methods.scrub if settings is not STRONG else partial(methods.scrub, **STRONG)
    result = unlearned(method, model, forget, retain, validation)
    assert largest_difference(result.model, expected) < 1e-9 < largest_difference(result.model, model)


def test_scrub_at_small_scale_is_the_equation_under_adam():
    model, forget, retain, validation = ordered()
    student, teacher, temperature = copy.deepcopy(model).train(), copy.deepcopy(model).eval(), 2.0
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-4, weight_decay=0.1)

    def divergence(logits, x):
        own, other = (torch.log_softmax(z / temperature, 1) for z in (logits, teacher(x).detach()))
        return temperature**2 * (other.exp() * (other - own)).sum(1).mean()

    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for epoch in range(10):
        optimizer.param_groups[0]["lr"] = 5e-4 * 0.1 ** sum(epoch >= milestone for milestone in (5, 8, 9))
        for x, _ in forget if epoch < 3 else ():
            step(-divergence(student(x), x))
        for x, y in retain:
            logits = student(x)
            step(functional.cross_entropy(logits, y) + 0.5 * divergence(logits, x))
    result = unlearned(methods.scrub_small, model, forget, retain, validation)
    assert largest_difference(result.model, student) < 1e-9 < largest_difference(result.model, model)


def error(model, loader, shares=None):
    """Share of wrong predictions, by hand; with shares, each class by its own."""
    x, y = loader.dataset.tensors
    wrong = (model.eval()(x).argmax(1) != y).double()
    if shares is None:
        return float(wrong.mean())
    return sum(share * float(wrong[y == c].mean()) for c, share in shares.items())


def test_rewinding_goes_back_to_the_pass_whose_forget_error_is_that_of_unseen_rows_of_the_class():
    model, forget, retain, validation = ordered()
    settings = {**STRONG, "max_epochs": 3}
    states = transcription(model, forget, retain, **STRONG)
    errors = [error(state, forget) for state in states]
    unseen = error(states[-1], validation, {0: 1.0})  # the forget set is class 0 alone
    chosen = max(range(6), key=lambda epoch: (-round(abs(errors[epoch] - unseen), 12), epoch))
    result = unlearned(partial(methods.scrub_rewind, **settings), model, forget, retain, validation)
    assert result.settings["forget_errors"] == pytest.approx(errors)
    assert result.settings["unseen_error"] == pytest.approx(unseen)
    assert result.settings["rewound_to_epoch"] == chosen + 1
    assert largest_difference(result.model, states[chosen]) < 1e-9


def test_rewinding_differs_from_scrub_where_it_must_and_only_there(monkeypatch):
    model, *sets = ordered()
    plain = unlearned(partial(methods.scrub, **STRONG), model, *sets).model
    for wanted in (1, 4, 6):
        errors = iter([0.9 if epoch != wanted else 0.5 for epoch in range(1, 7)] + [0.5])
        monkeypatch.setattr(rewinding, "mean_error", lambda *_, errors=errors: next(errors))
        result = unlearned(partial(methods.scrub_rewind, **STRONG), model, *sets)
        assert result.settings["rewound_to_epoch"] == wanted
        assert result.settings["rewound"] is (wanted < 6)
        expected = transcription(model, *sets[:2], **STRONG)[wanted - 1]
        assert largest_difference(result.model, expected) < 1e-9
        assert (largest_difference(result.model, plain) == 0) is (wanted == 6)


def test_the_unseen_error_weighs_classes_as_the_forget_set_does():
    found = case("mlp")
    forget = tuple(torch.cat([a[:6], b[:2]]) for a, b in zip(found.forget, found.control, strict=True))  # 0, 0, …, 1, 2
    request = Request(found.model, forget, found.rest, found.validation, device="cpu")
    with request.prepared() as problem:
        assert rewinding.class_shares(problem).tolist() == [6 / 8, 1 / 8, 1 / 8]
