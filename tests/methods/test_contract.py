"""What holds for every method: the original stays, chance is seeded, the forget set is read, and its loss moves."""

import copy
from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest
import torch

from nabla_tau import InvalidRequest, losses, methods, unlearn
from nabla_tau.facts import SECOND_MODEL, facts_of
from nabla_tau.planning import plan
from nabla_tau.unlearning import Request
from tests.methods.cases import BASELINES, DOMAINS, NEVER_READ, case, joined, ready

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")  # targets are missed on purpose

EVERY = list(methods.METHODS)
READING = [name for name in EVERY if name not in NEVER_READ]
BATCH_NORM, PLAIN = "cnn", "mlp"
THREE = [BATCH_NORM, "transformer, multi-label", PLAIN]


def run(name, domain, **sets):
    found = case(domain)
    return unlearn(found.model, **{**found.sets(), **sets}, method=ready(name, domain))


def same_bits(model, other):
    states = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in states)


def forget_loss(model, found):
    request = Request(model, found.forget, found.retain, found.validation, **found.settings)
    with request.prepared() as problem:
        return problem.mean_loss(problem.forget)


def unreadable(source):
    def fail(positions):
        raise OSError("the forget set was read")

    return replace(source, fetch=fail)


@pytest.mark.parametrize("domain", THREE)
@pytest.mark.parametrize("name", EVERY)
def test_the_original_stays_and_the_same_seed_gives_the_same_bits(name, domain):
    model = case(domain).model
    before = copy.deepcopy(model.state_dict())
    first, second = (run(name, domain, seed=5).model for _ in range(2))
    assert same_bits(first, second)
    assert not same_bits(first, model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(module.training for module in [*model.modules(), *first.modules()])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize("name", [name for name in EVERY if name != "ssd"])  # it draws nothing
def test_another_seed_gives_other_weights(name):
    assert not same_bits(run(name, PLAIN, seed=0).model, run(name, PLAIN, seed=1).model)


@pytest.mark.parametrize("domain", THREE)
@pytest.mark.parametrize("name", READING)
def test_a_method_reads_the_forget_set(name, domain):
    found = case(domain)
    request = Request(found.model, found.forget, found.retain, found.validation, **found.settings)
    with request.prepared() as problem:
        problem.forget = unreadable(problem.forget)
        with pytest.raises(OSError, match="the forget set was read"):
            list(ready(name, domain)(problem))


@pytest.mark.parametrize("domain", THREE)
@pytest.mark.parametrize("name", NEVER_READ)
def test_some_methods_never_read_it(name, domain):
    found = case(domain)
    request = Request(found.model, found.forget, found.retain, found.validation, **found.settings)
    with request.prepared() as problem:
        problem.forget = unreadable(problem.forget)
        assert all(epoch.forget_loss is None for epoch in ready(name, domain)(problem))
        assert same_bits(problem.model, run(name, domain).model)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", EVERY)
def test_the_forget_loss_moves_because_of_the_forget_set(name, domain):
    """Rows that are to be kept stand in the forget set's place; the class itself is then in no set.

    Methods that never read the forget set move its loss by doing without it: there, the class is then kept.
    """
    found = case(domain)
    before = forget_loss(found.model, found)
    rest = joined(found.forget, found.rest) if name in NEVER_READ else found.rest
    moved = forget_loss(run(name, domain).model, found) - before
    anyway = forget_loss(run(name, domain, forget=found.control, retain=rest).model, found) - before
    assert moved > 0
    assert moved > anyway


@pytest.mark.parametrize("name", [name for name in EVERY if SECOND_MODEL in facts_of(methods.METHODS[name]).needs])
def test_no_teacher_moves(name, monkeypatch):
    teachers = []
    home = import_module(f"nabla_tau.methods.{'scrub' if name.startswith('scrub') else name}")
    for maker in ("frozen_copy", "untrained_copy"):
        if make := getattr(home, maker, None):

            def kept(problem, make=make):
                teachers.append((teacher := make(problem), copy.deepcopy(teacher.state_dict())))
                return teacher

            monkeypatch.setattr(home, maker, kept)
    student = run(name, BATCH_NORM).model
    assert teachers
    for teacher, before in teachers:
        assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
        assert not any(torch.equal(p, q) for p, q in zip(teacher.parameters(), student.parameters(), strict=True))


@pytest.mark.parametrize("name", BASELINES)
def test_batch_statistics_move_in_train_mode_alone(name):
    result = run(name, BATCH_NORM)
    moved = not torch.equal(result.model[1].running_mean, case(BATCH_NORM).model[1].running_mean)
    assert moved is (facts_of(methods.METHODS[name]).mode != "eval")
    assert result.settings.get("mode", "eval") == facts_of(methods.METHODS[name]).mode or name == "retrain"


@pytest.mark.parametrize("name", EVERY)
def test_what_is_reported_is_what_was_done(name):
    steps = []
    found = case(PLAIN)
    arguments = found.sets()
    request = Request(found.model, **arguments, method=ready(name, PLAIN), on_step=lambda *step: steps.append(step))
    result = request.run()
    settings = result.settings
    assert settings["method"] == name
    assert settings["steps_done"] <= settings.get("most_steps", settings["steps"])
    if not name.startswith("nabla_tau"):
        assert settings["steps_done"] == settings["steps"]
        assert len(result.epochs) == settings["epochs"]
        assert steps == [(0, 0)] if name == "retrain" else steps[-1] == (settings["steps"], settings["steps"])
    assert result.record()["epochs"]


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "retrain"])
def test_one_row_and_odd_batches(name):
    """Batch norm has no statistics of a single sample, and the last batch may hold one."""
    found = case(BATCH_NORM)
    forget = tuple(column[:1] for column in found.forget)
    sets = {**found.sets(), "forget": forget, "batch_size": 7}
    once = {} if name == "ssd" else {"epochs": 1}
    result = unlearn(found.model, **sets, method=partial(ready(name, BATCH_NORM), **once))
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


@pytest.mark.parametrize("name", ["amnesiac", "random_label", "salun"])
def test_one_class_has_no_wrong_label(name):
    x, y = torch.randn(12, 3), torch.zeros(12, dtype=torch.long)
    sets = {"forget": (x[:4], y[:4]), "retain": (x[4:8], y[4:8]), "validation": (x[8:], y[8:])}
    settings = {"loss": losses.classification, "method": methods.METHODS[name], "device": "cpu"}
    with pytest.raises(ValueError, match="two outputs or more, got 1"):
        unlearn(torch.nn.Linear(3, 1), **sets, **settings)


@pytest.mark.parametrize("name", EVERY)
def test_a_plan_counts_what_is_then_done(name):
    found = case(PLAIN)
    sets = found.sets()
    planned = plan(Request(found.model, **sets, method=ready(name, PLAIN)))
    done = run(name, PLAIN).settings
    assert planned.most_steps >= done["steps_done"]
    assert planned.steps == planned.most_steps == done["steps_done"] or name == "nabla_tau"
    assert (planned.training_passes > 0) is (name != "retrain")
    assert ("training   by" in str(planned)) is (name == "retrain")


class Tagger(torch.nn.Module):
    """Reads two columns of a dict, and leaves one alone."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(9, 8), torch.nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        return {"logits": self.head(self.embed(input_ids).tanh() * attention_mask[..., None])}


def tagged(size):
    ids, labels = torch.randint(9, (size, 4)), torch.randint(3, (size, 4))
    labels[torch.arange(size) % 4 == 1, 1:] = -100
    labels[torch.arange(size) % 5 == 2] = -100  # samples that take no part
    columns = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {**columns, "user": [f"user-{row}" for row in range(size)]}


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "retrain"])
def test_dicts_and_tokens_are_served(name):
    sets = {"forget": tagged(7), "retain": tagged(23), "validation": tagged(9), "batch_size": 5, "device": "cpu"}
    model = Tagger()
    result = unlearn(model, **sets, method=ready(name, PLAIN), loss=losses.token_classification)
    assert not same_bits(result.model, model)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


@pytest.mark.parametrize("name", ["amnesiac", "random_label", "salun"])
def test_a_first_batch_without_labels_tells_the_classes_too(name):
    unlabelled = {**tagged(9), "labels": torch.full((9, 4), -100)}
    unlabelled["labels"][1:] = 1
    sets = {"forget": tagged(7), "retain": tagged(23), "validation": unlabelled, "batch_size": 1, "device": "cpu"}
    method = partial(ready(name, PLAIN), epochs=1)
    assert unlearn(Tagger(), **sets, method=method, loss=losses.token_classification).settings["steps_done"]


def test_a_method_may_be_any_callable():
    class Patient:
        facts = facts_of(methods.finetune)

        def __call__(self, problem, *, epochs=1):
            return methods.finetune(problem, epochs=epochs)

    x, y = torch.eye(8), torch.arange(8) % 2
    sets = {"forget": (x[:2], y[:2]), "retain": (x[2:6], y[2:6]), "validation": (x[6:], y[6:])}
    model = torch.nn.Linear(8, 2)
    assert unlearn(model, **sets, method=Patient(), device="cpu").settings["steps"] == 1
    with pytest.raises(InvalidRequest, match="expected settings that Patient has, got 'epoch'"):
        unlearn(model, **sets, method=partial(Patient(), epoch=3), device="cpu")


@pytest.mark.parametrize(("given", "got"), [(None, "NoneType"), ([1], "int")])
def test_a_method_that_yields_no_epochs_is_told_what_to_yield(given, got):
    def forgetful(problem):
        return given

    x, y = torch.eye(8), torch.arange(8) % 2
    sets = {"forget": (x[:2], y[:2]), "retain": (x[2:6], y[2:6]), "validation": (x[6:], y[6:])}
    with pytest.raises(InvalidRequest, match=rf"yields an Epoch after each pass, got {got} from .*forgetful: end each"):
        unlearn(torch.nn.Linear(8, 2), **sets, method=forgetful, device="cpu")
