"""The criterion by hand, and a search that sees forget, retain and validation data alone."""

import json
import sys
from inspect import signature
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nabla_tau import InvalidRequest, losses, methods
from nabla_tau.bench.cells import Bench, Cell
from nabla_tau.bench.slices import ForgetSet, Setting
from nabla_tau.cli import app
from nabla_tau.console import REFUSED, WITH_RESERVATIONS
from nabla_tau.facts import Range, facts_of
from nabla_tau.tuning import Criterion, Judge, Utility, criterion, tune
from nabla_tau.unlearning import Request
from tests import my_project
from tests.conftest import require

PROJECT = Path(my_project.__file__)


class Table(torch.nn.Module):
    """Row i has the logits of row i: what a model says of each sample, written down."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))

    def forward(self, rows):
        return self.logits[rows[:, 0]]


def rows(*places):
    return torch.tensor(places)[:, None]


def table(loss_of_right_class, targets):
    """Two classes: the right one has log-odds so that the loss is as wanted."""
    odds = -torch.tensor(loss_of_right_class).double().expm1().log()
    logits = torch.zeros(len(targets), 2, dtype=torch.float64)
    logits[torch.arange(len(targets)), torch.tensor(targets)] = odds
    return Table(logits)


TARGETS = [0, 1, 0, 1, 0, 1, 0, 1]
SETS = {
    "forget": (rows(0, 1), torch.tensor([0, 1])),
    "retain": (rows(2, 3, 4), torch.tensor([0, 1, 0])),
    "validation": (rows(5, 6, 7), torch.tensor([1, 0, 1])),
}
ORIGINAL = table([0.1, 0.2, 0.1, 0.1, 0.1, 0.5, 0.5, 2.0], TARGETS)


def judged(model, ours=ORIGINAL, sets=SETS, **more):
    return criterion(model, original=ORIGINAL, ours=ours, **sets, **more, device="cpu")


def test_the_gap_is_that_of_losses_whichever_way():
    # losses 0.3 and 0.6 against 0.4, 0.5, 0.9: the forget row costs less in 3 + 1 of 6 pairs
    model = table([0.3, 0.6, 0.1, 0.1, 0.1, 0.4, 0.5, 0.9], TARGETS)
    found = judged(model)
    assert found.auc == pytest.approx(4 / 6)
    assert found.gap == pytest.approx(1 / 6)
    over = table([3.0, 3.0, 0.1, 0.1, 0.1, 0.4, 0.5, 0.9], TARGETS)  # gone past unseen
    assert judged(over).gap == pytest.approx(0.5)
    assert judged(ORIGINAL).auc == 1


def test_the_floor_is_a_point_and_what_chance_leaves_open_below_the_original_or_what_ours_ends_at():
    assert judged(ORIGINAL).utility == Utility(1.0, 2 / 3)  # a loss above log 2 is a wrong prediction
    least = 2 / 3 - 0.01 - 1.645 * (2 / 9 / 3) ** 0.5  # the variance of one row in three, over three rows
    assert judged(ORIGINAL).floor == Utility(0.99, pytest.approx(least))
    worse = table([0.1, 0.1, 1.0, 0.1, 0.1, 0.5, 0.5, 0.5], TARGETS)  # on retain alone
    found = judged(worse)
    assert (found.allowed, found.value > 1) == (False, True)
    found = judged(worse, ours=worse)
    assert found.floor == Utility(pytest.approx(2 / 3), pytest.approx(least))
    assert (found.allowed, found.value) == (True, found.gap)


def test_too_little_utility_is_worse_than_any_gap_and_more_of_it_worse_still():
    floor = Utility(0.9, 0.8)
    values = [
        Criterion(gap, 0.5, 0.0, Utility(retain, 0.8), floor, "all").value
        for gap, retain in ((0.0, 0.9), (0.5, 0.9), (0.0, 0.89), (0.0, 0.5), (0.0, 0.0), (0.0, -1e9))
    ]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert values[-1] <= 2


def test_a_class_is_compared_with_its_own_validation_rows():
    sets = {
        "forget": (rows(0, 2), torch.tensor([0, 0])),
        "retain": (rows(1, 3), torch.tensor([1, 1])),
        "validation": (rows(4, 5, 6, 7), torch.tensor([0, 1, 0, 1])),
    }
    model = table([0.5, 0.1, 0.7, 0.1, 0.6, 9.0, 0.8, 9.0], TARGETS)
    found = judged(model, sets=sets)
    assert found.auc == pytest.approx(3 / 4)  # 0.5, 0.7 against 0.6, 0.8
    assert found.compared_with == "the 2 validation rows of the class to be forgotten"
    assert (found.recognised, found.gap) == (
        0.5,
        pytest.approx(1 / 4),
    )  # 0.5 and 0.6 are below log 2; |¾ − ½| is as far
    unknown = judged(table([0.8, 0.1, 1.0, 0.1, 0.9, 9.0, 1.1, 9.0], TARGETS), sets=sets)
    assert (unknown.recognised, unknown.gap) == (0, pytest.approx(1 / 4))
    known = judged(table([0.5, 0.1, 0.6, 0.1, 0.5, 9.0, 0.6, 9.0], TARGETS), sets=sets)
    assert (known.auc, known.recognised, known.gap) == (0.5, 1, 0.5)  # alike, and all still there
    without = {**sets, "validation": (rows(5, 7), torch.tensor([1, 1]))}
    assert "none is of the class" in judged(model, sets=without).compared_with
    group = {**sets, "own_validation": (rows(4), torch.tensor([0]))}
    found = judged(model, sets=group)
    assert (found.auc, found.compared_with) == (0.5, "the validation rows given")


def test_a_label_that_is_removed_is_compared_with_rows_that_carry_it():
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    sets = {"forget": (rows(0, 1), y[:2]), "retain": (rows(2, 3), y[2:4]), "validation": (rows(4, 5), y[4:])}
    model = Table(torch.zeros(6, 2))
    found = Judge(Request(model, **sets, loss=losses.multi_label, device="cpu"), model)(model)
    assert found.compared_with == "the 1 validation rows of the class to be forgotten"
    assert found.recognised == 1  # a logit of 0 is a probability of ½
    other = Table(torch.tensor([[-1.0, 9.0], [2.0, 9.0], [9.0, 9.0], [9.0, 9.0], [-1.0, 9.0], [9.0, 9.0]]))
    assert Judge(Request(model, **sets, loss=losses.multi_label, device="cpu"), model)(other).recognised == 1 / 3


def test_a_part_that_is_a_removed_class_is_not_asked_for():
    sets = {**SETS, "forget": (rows(0, 1), torch.tensor([0, 2])), "retain": (rows(2, 3, 4), torch.tensor([0, 1, 0]))}
    model = Table(torch.zeros(8, 3))
    found = Judge(Request(model, **sets, device="cpu"), model)(model)
    assert (found.compared_with, found.recognised) == ("all validation rows", 0)


def test_where_predictions_are_no_classes_utility_is_the_loss_that_is_saved():
    x, y = torch.arange(30).float()[:, None], torch.randn(30, 1)
    sets = {"forget": (x[:5], y[:5]), "retain": (x[5:20], y[5:20]), "validation": (x[20:], y[20:])}
    zero = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(zero.weight)
    torch.nn.init.zeros_(zero.bias)
    found = criterion(zero, original=zero, ours=zero, **sets, device="cpu")
    squares = [float((part**2).mean()) for part in (y[5:20], y[20:])]
    assert found.utility.retain == pytest.approx(1 - squares[0] / squares[1])
    assert found.utility.validation == pytest.approx(0)


def test_a_model_that_was_retrained_is_allowed_where_rows_are_few(tmp_path):
    # 240 rows of a regression, of which 36 are forgotten: what that costs on unseen rows is far more than a point
    setting = Setting(Cell("quick", "diabetes", 5, "random-0.15", "original"), Bench(tmp_path, torch.device("cpu")))
    asked = ForgetSet(setting, "random-0.15")
    sets = {
        "forget": asked.forgotten,
        "retain": asked.retained(asked.forgotten),
        "validation": setting.split.validation,
    }
    original, retrained = setting.original.model, asked.retrained["retrained-1"].model
    request = Request(original, **{name: setting.take(rows) for name, rows in sets.items()}, device="cpu")
    judge = Judge(request, retrained)
    assert judge(retrained).utility.validation < judge(original).utility.validation - 0.05
    judge.floor = Judge(request, original).floor  # as if ours had ended at the original
    assert judge(retrained).allowed
    assert judge(retrained).gap < 0.1 < judge(original).gap


def request(**more):
    sets = {key: value for key, value in my_project.sets().items() if key != "model"}
    return Request(my_project.network(), **{**sets, "device": "cpu", **more})


def upwards(problem, rate=1e-3):
    yield from methods.neggrad(problem, epochs=1, learning_rate=rate)


def searched(name):
    return {key: allowed for key, allowed in facts_of(methods.METHODS[name]).settings.items() if allowed.search}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"rate": (1e-5, 1e-1)}, "expected a facts.Range for each setting, got tuple for rate"),
        ({"rate": Range(0, search=(0, 1e-1))}, "from above 0 on, as exponents are drawn, got (0, 0.1)"),
        ({"rate": Range(0, 0.4, search=(1e-3, 0.6))}, "both a number in [0, 0.4], got (0.001, 0.6)"),
        ({"rate": Range(0, search=(1e-1, 1e-5))}, "from low to high"),
        ({"rate": Range(0, search=(1e-5, 1e-1), scale="lin")}, "on the scale log or linear, got 'lin'"),
        ({"rate": Range(0, search=(1e-2, 1e-1))}, "around its default 0.001"),
        ({"rates": Range(0, search=(1e-5, 1e-1))}, "(there are: rate), got 'rates'"),
    ],
)
def test_a_space_that_cannot_be_searched_is_told_apart(space, said):
    require("optuna")
    with pytest.raises(InvalidRequest) as refused:
        tune(upwards, request(), trials=1, space=space)
    assert said in refused.value.problems[0]


def test_an_error_in_a_trial_says_in_which():
    require("optuna")

    def fails(problem, rate=1e-3):
        raise ArithmeticError("no such number")
        yield

    with pytest.raises(ArithmeticError) as failed:
        tune(fails, request(), trials=2, space={"rate": Range(0, search=(1e-5, 1e-1))})
    assert failed.value.__notes__[-1] == "in trial 1 of 2, with {'rate': 0.001}"
    with pytest.raises(InvalidRequest, match="expected a method or the name of one, got NoneType"):
        tune(None, request())


def test_a_search_begins_with_the_defaults_and_says_what_it_cost():
    require("optuna")
    asked = request()
    before = [parameter.clone() for parameter in asked.model.parameters()]
    seen = []
    found = tune("scrub", asked, trials=6, on_trial=lambda *done: seen.append(done))
    assert all(torch.equal(old, new) for old, new in zip(before, asked.model.parameters(), strict=True))
    assert seen == [(number, 6) for number in range(1, 7)]
    first = found.trials[0]
    assert first.settings["learning_rate"] == 5e-4
    assert first.steps == 3 * 2 + 6 * 7  # passes over 20 rows and over 100, 16 a batch
    assert found.best.value <= first.criterion.value
    assert found.best.value == min(trial.value for trial in found.trials)
    assert found.steps == sum(trial.steps for trial in found.trials)
    assert found.seconds == pytest.approx(sum(trial.seconds for trial in found.trials))
    for trial in found.trials:
        assert set(trial.settings) == set(searched("scrub"))
        assert all(trial.settings[key] in allowed for key, allowed in searched("scrub").items())
    again = tune("scrub", request(), trials=6)
    assert [trial.settings for trial in again.trials] == [trial.settings for trial in found.trials]
    json.dumps(found.record())


def test_settings_that_break_the_model_are_the_worst():
    require("optuna")

    def exploding(model, batch):
        return losses.classification(model, batch) * (torch.inf if model.training else 1)  # ∇τ runs in eval mode

    broken = tune("neggrad", request(loss=exploding), trials=2)
    assert [trial.criterion for trial in broken.trials] == [None, None]
    assert [trial.value for trial in broken.trials] == [2, 2]
    assert broken.best is None
    assert "no settings" in str(broken)


@pytest.mark.parametrize(("option", "value"), [("in_place", True), ("checkpoint", "state")])
def test_a_run_that_cannot_be_repeated_is_no_trial(option, value, tmp_path):
    require("optuna")
    value = tmp_path / value if isinstance(value, str) else value
    asked = request(**{option: value})
    before = {name: weight.clone() for name, weight in asked.model.state_dict().items()}
    with pytest.raises(InvalidRequest, match=f"{option}: expected a request without it"):
        tune("neggrad", asked, trials=2)
    assert all(torch.equal(before[name], weight) for name, weight in asked.model.state_dict().items())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in methods.METHODS if searched(name)])
def test_defaults_are_among_what_is_searched(name):
    for key, allowed in searched(name).items():
        low, high = allowed.search
        assert low <= signature(methods.METHODS[name]).parameters[key].default <= high


@pytest.mark.parametrize("name", ["nabla_tau", "retrain"])
def test_nothing_to_search(name):
    with pytest.raises(InvalidRequest, match="which has none"):
        tune(name, request())


def test_a_method_of_ones_own_is_searched_as_those_of_the_package_are():
    require("optuna")

    def mine(problem, rate=1e-3, passes=2, *, fixed=None):
        yield from methods.neggrad(problem, epochs=passes, learning_rate=rate)

    space = {"rate": Range(0, search=(1e-4, 1e-2)), "passes": Range(1, whole=True, search=(1, 3)), "fixed": Range(0)}
    found = tune(mine, request(), trials=3, space=space)
    assert found.method == "mine"
    assert found.trials[0].settings == {"rate": 1e-3, "passes": 2}
    assert all(1e-4 <= one.settings["rate"] <= 1e-2 and one.settings["passes"] in (1, 2, 3) for one in found.trials)
    batches = 2  # of 20 rows, 16 each
    assert [one.steps for one in found.trials] == [one.settings["passes"] * batches for one in found.trials]
    assert "functools.partial(mine, " in str(found)
    narrower = tune("neggrad", request(), trials=2, space={"learning_rate": Range(0, search=(1e-4, 2e-4))})
    assert set(narrower.trials[1].settings) == {"learning_rate"}
    assert 1e-4 <= narrower.trials[1].settings["learning_rate"] <= 2e-4


def test_what_cannot_be_searched_of_a_method_of_ones_own():
    def mine(problem, rate, passes=1, far=3):
        yield from ()

    with pytest.raises(InvalidRequest, match=r"got mine, which has none: pass space="):
        tune(mine, request())
    with pytest.raises(InvalidRequest) as refused:
        tune(mine, request(), space=dict.fromkeys(("rate", "passes", "far", "other"), Range(0, search=(1, 2))))
    rate, far, other = refused.value.problems
    assert "with a number as default (there are: passes, far), got 'rate'" in rate
    assert "far of mine to be searched around its default 3" in far
    assert "got 'other'" in other
    with pytest.raises(InvalidRequest, match="did you mean 'scrub'"):
        tune("srcub", request())


def test_bad_numbers_and_a_missing_package(monkeypatch):
    with pytest.raises(InvalidRequest, match=r"trials: expected a whole number in \[1"):
        tune("scrub", request(), trials=0)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'nabla-tau\[tune\]'"):
        tune("scrub", request())


class Untouchable:
    def __getattribute__(self, name):
        if name == "__class__":
            return object
        raise AssertionError(f"{name} of what is not to be seen was read")


def test_the_command_sees_no_test_set_and_no_retrained_model(monkeypatch):
    require("optuna")
    sets = my_project.sets()
    monkeypatch.setattr(my_project, "sets", lambda: {**sets, "test": Untouchable(), "retrained": Untouchable()})
    result = CliRunner().invoke(app, ["tune", "neggrad", "tests.my_project:sets", "--trials", "2", "--json"])
    assert result.exit_code in (0, WITH_RESERVATIONS), result.output
    record = json.loads(result.stdout)
    assert len(record["trials"]) == 2
    assert record["steps"] > 0
    assert record["our_steps"] > 0
    shown = CliRunner().invoke(app, ["tune", "neggrad", "tests.my_project:sets", "--trials", "1"])
    assert "functools.partial(methods.neggrad, epochs=5, learning_rate=0.0001)" in shown.stdout


def test_the_command_refuses_what_it_does_not_know():
    result = CliRunner().invoke(app, ["tune", "srcub", f"{PROJECT}:sets"])
    assert result.exit_code == REFUSED
    assert "did you mean 'scrub'?" in result.stderr.replace("\n", " ")
