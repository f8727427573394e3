"""What a method says of itself, and what is refused by it before anything runs."""

import inspect
import math
from functools import partial

import pytest
import torch

from nabla_tau import InvalidRequest, losses, methods, unlearn
from nabla_tau.facts import NEEDS, Range, facts_of
from nabla_tau.losses import LOSSES
from nabla_tau.problem import Problem
from tests.methods.cases import case

EVERY = list(methods.METHODS)


def refused(method, **arguments):
    found = case("mlp")
    with pytest.raises(InvalidRequest) as error:
        unlearn(found.model, **{**found.sets(), **arguments}, method=method)
    return " ".join(str(error.value).split())


@pytest.mark.parametrize("name", EVERY)
def test_facts_cover_the_method(name):
    method = methods.METHODS[name]
    facts = facts_of(partial(partial(method), seed=1))
    parameters = inspect.signature(method).parameters
    settings = {key: p.default for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY and key != "train"}
    assert set(facts.settings) == set(settings)
    assert [key for key, default in settings.items() if default not in facts.settings[key]] == []
    for allowed in facts.settings.values():
        assert allowed.search is None or all(end in allowed for end in allowed.search)
    assert set(facts.needs) <= set(NEEDS)
    assert facts.tasks is None or set(facts.tasks) <= set(LOSSES)
    assert all((facts.reference, facts.passes, facts.mode, facts.forgets, facts.keeps))
    assert name.startswith("nabla_tau") is (settings == {} and name != "retrain")  # ∇τ has nothing to set


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
def test_a_method_of_the_users_own_needs_no_facts():
    def shrink(problem, *, by):
        with torch.no_grad():
            for parameter in problem.model.parameters():
                parameter.mul_(by)
        yield from ()

    found = case("mlp")
    result = unlearn(found.model, **found.sets(), method=partial(shrink, by=0.5))
    assert result.settings["method"] == "shrink"


def ranges():
    for name in EVERY:
        for setting, allowed in facts_of(methods.METHODS[name]).settings.items():
            yield name, setting, allowed


@pytest.mark.parametrize(("name", "setting", "allowed"), list(ranges()))
def test_settings_out_of_range_name_the_range(name, setting, allowed):
    outside = [-1, "1", None, math.nan, math.inf, True]
    outside += [0] if allowed.above or allowed.low > 0 else []
    outside += [allowed.high + 1] if math.isfinite(allowed.high) else []
    outside += [1.5] if allowed.whole else []
    for value in outside:
        text = refused(partial(methods.METHODS[name], **{setting: value}))
        assert f"expected {setting} of {name} to be {allowed}, got {value!r}" in text


def test_a_range_reads_well():
    assert str(Range(0, 1, above=True)) == "a number in (0, 1]"
    assert str(Range(1, whole=True)) == "a whole number in [1, ∞)"


def test_all_problems_at_once():
    method = partial(methods.scrub, temperature=0, learning_rat=1.0)
    text = refused(method, batch_size=0)
    assert "3 problems" in text
    assert "did you mean 'learning_rate'?" in text
    assert "temperature" in text
    assert "batch_size" in text


def test_retraining_needs_a_training():
    for method in (methods.retrain, partial(methods.retrain, train=3)):
        assert "functools.partial(methods.retrain, train=my_training)" in refused(method)


def test_a_name_that_is_near_to_one():
    assert "got 'srcub': did you mean 'scrub'?" in refused("srcub")
    assert "got 3: there are nabla_tau, " in refused(3)


@pytest.mark.parametrize("name", ["amnesiac", "random_label", "salun", "scrub", "scrub_rewind", "bad_teacher"])
def test_a_task_that_a_method_cannot_serve_is_refused_before_anything_runs(name, monkeypatch):
    monkeypatch.setattr(Problem, "mean_loss", lambda *_: pytest.fail("it ran"))
    x, y = torch.randn(30, 6), torch.randn(30, 3)
    sets = {"forget": (x[:5], y[:5]), "retain": (x[5:20], y[5:20]), "validation": (x[20:], y[20:])}
    method = methods.METHODS[name]
    text = refused(method, **sets)
    assert f"for {name}, got regression" in text
    assert "losses.classification" in text
    own = refused(method, loss=lambda model, batch: losses.classification(model, batch))
    assert f"for {name}, got a loss of your own" in own


@pytest.mark.parametrize("name", ["neggrad", "neggrad_plus", "finetune", "ssd", "l1_sparse"])
@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
def test_the_others_serve_regression_and_losses_of_the_users_own(name):
    x, y = torch.randn(30, 6), torch.randn(30, 3)
    sets = {"forget": (x[:5], y[:5]), "retain": (x[5:20], y[5:20]), "validation": (x[20:], y[20:])}
    model = torch.nn.Linear(6, 3)
    mine = unlearn(model, **sets, method=methods.METHODS[name], device="cpu", loss=lambda m, b: losses.regression(m, b))
    ours = unlearn(model, **sets, method=methods.METHODS[name], device="cpu")
    assert torch.equal(mine.model.weight, ours.model.weight)
