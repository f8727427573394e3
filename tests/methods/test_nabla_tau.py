"""What the default adds to the objective: bounds, trials of the rate, the course of its plan, the loss of momentum."""

import copy
import math
import sys
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nabla_tau import losses, target, trials, unlearn
from nabla_tau.course import Course
from nabla_tau.methods.nabla_tau import derive
from nabla_tau.objective import RunningMean, descend
from nabla_tau.problem import Epoch, NonFiniteLoss
from nabla_tau.trials import LEARNING_RATES, settle
from nabla_tau.unlearning import Request
from tests.conftest import clusters, fit

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")

DEFAULT = sys.modules["nabla_tau.methods.nabla_tau"]  # the package's attribute of this name is the function
TRAIN, VALIDATION = clusters(300, 1, noise=1.5), clusters(200, 2, noise=1.5)
SETS = {
    "forget": tuple(column[:180] for column in TRAIN),
    "retain": tuple(column[180:] for column in TRAIN),
    "validation": VALIDATION,
}


@pytest.fixture(scope="module")
def memorised():
    torch.manual_seed(0)
    return fit(nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 3)), *TRAIN)


def test_the_ascent_never_outweighs_the_descent_and_the_target_does_not_run_away(memorised, monkeypatch):
    monkeypatch.setattr(DEFAULT, "LARGEST_DEVIATION", 0.05)
    monkeypatch.setattr(DEFAULT, "FADING_PASSES", math.inf)  # it would not run away either
    unlearned = unlearn(memorised, **SETS, device="cpu", batch_size=64)
    first = unlearned.epochs[0]
    missing = first.target_loss - unlearned.settings["forget_loss_before"]
    assert 2 * first.alpha * missing / unlearned.settings["loss_unit"] > 1 - first.alpha
    assert all(epoch.ascent_weight <= 1 - epoch.alpha for epoch in unlearned.epochs)
    unseen = losses.classification(memorised, VALIDATION).detach()
    highest = unlearned.settings["largest_loss"]
    assert highest == pytest.approx(float(unseen.mean() + 0.05 * (unseen - unseen.mean()).abs().mean()), rel=1e-5)
    assert all(epoch.target_loss <= highest + 1e-9 for epoch in unlearned.epochs)
    assert unlearned.settings["target_loss_after"] > highest  # it would have gone further
    assert unlearned.settings["retain_loss_after"] < 1 < unlearned.settings["target_loss_before"] / 2


def test_the_target_is_reached_from_where_bounded_losses_began():
    def bounded_at_four(problem):
        problem.largest_loss = 4.0
        start = problem.mean_loss(problem.forget, of=lambda losses: losses.clamp(max=4))
        problem.settings.update(largest_loss=4.0, counted_forget_loss_before=start)
        problem.model.weight.data.fill_(2.93)
        yield Epoch()

    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1)  # f(x) = x, and every x is 1: one forgotten row costs 15.6, the others nothing
    rows = lambda *targets: (torch.ones(len(targets), 1), torch.tensor(targets)[:, None])  # noqa: E731
    sets = {"forget": rows(1.0, 1.0, 1.0, 4.95), "retain": rows(1.0, 1.0), "validation": rows(-1.0, -1.0)}
    unlearned = unlearn(model, **sets, method=bounded_at_four, loss=losses.regression, device="cpu")
    settings = unlearned.settings
    assert settings["forget_loss_before"] == pytest.approx(3.95**2 / 4)  # about what unseen data costs, 4
    assert settings["counted_forget_loss_before"] == pytest.approx(1)
    assert settings["counted_forget_loss_after"] == pytest.approx((3 * 1.93**2 + 4) / 4)  # 3.79, more than 4 − 0.3
    assert unlearned.reached_target
    assert "counting none above 4: forget 1 -> 3.794, unseen 4" in str(unlearned)


def test_a_set_is_read_once_while_the_model_stands_still(memorised):
    def only_bounds(problem):
        problem.largest_loss = 4.0
        yield Epoch()

    read = []
    rest = len(VALIDATION[1]) % 64  # no other set has a batch of as many rows
    with Request(memorised, **SETS, method=only_bounds, batch_size=64, device="cpu").prepared() as problem:
        problem.model.register_forward_pre_hook(lambda module, inputs: read.append(len(inputs[0])))
        next(DEFAULT.nabla_tau(problem))
        assert read.count(rest) == 2  # as it was given, and with smaller weights
        with problem.standing_still(), problem.standing_still():
            bounded = problem.unseen_loss(lambda losses: losses.clamp(max=1))
        assert problem.unseen_loss() > bounded > 0
        assert read.count(rest) == 4
    read.clear()
    request = Request(memorised, **SETS, method=only_bounds, batch_size=64, device="cpu")
    with request.prepared() as problem:
        problem.model.register_forward_pre_hook(lambda module, inputs: read.append(len(inputs[0])))
        request.unlearned(problem, 0.0)
    assert read.count(rest) == 2  # before and after


def test_what_the_forget_set_cost_is_counted_as_the_push_counts_it(memorised):
    forgotten, labels = SETS["forget"]
    wrong = torch.cat([(labels[:20] + 1) % 3, labels[20:]])  # these cost more than unseen data from the start
    unlearned = unlearn(memorised, **{**SETS, "forget": (forgotten, wrong)}, device="cpu", batch_size=64)
    settings, before = unlearned.settings, losses.classification(memorised, (forgotten, wrong)).detach()
    counted = float(before.clamp(max=settings["largest_loss"]).mean())
    assert settings["counted_forget_loss_before"] == pytest.approx(counted, rel=1e-5)
    assert settings["forget_loss_before"] == pytest.approx(float(before.mean()), rel=1e-5) != pytest.approx(counted)


def test_the_ascent_yields_as_the_retain_set_becomes_dearer(memorised, monkeypatch):
    steps = []

    def watched(*arguments, alpha, largest_weight, **named):
        step = descend(*arguments, alpha=alpha, largest_weight=largest_weight, **named)
        steps.append((largest_weight / (1 - alpha), float(step.retain_loss)))
        return step

    monkeypatch.setattr(DEFAULT, "descend", watched)
    settings = unlearn(memorised, **SETS, device="cpu", batch_size=64).settings
    shares, retain_losses = zip(*steps, strict=True)
    assert shares[0] == 1
    cheapest = max(range(len(steps)), key=lambda step: shares[step])
    dearest = min(range(len(steps)), key=lambda step: shares[step])
    before = [fmean(retain_losses[max(step - 8, 0) : step]) for step in (cheapest or len(steps), dearest)]
    assert 0 <= shares[dearest] < 0.9
    assert before[0] < before[1]
    assert before[1] > settings["retain_loss_before"]


def test_an_order_of_the_retain_set_that_begins_with_easy_rows_holds_no_push_back(monkeypatch):
    wrong = torch.arange(300) % 4 == 0  # a quarter of the labels, learned less well than the others
    rows = TRAIN[0], torch.where(wrong, (TRAIN[1] + 1) % 3, TRAIN[1])
    torch.manual_seed(0)
    original = fit(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)), *rows)
    retain = tuple(column[60:] for column in rows)
    order = torch.argsort(losses.classification(original, retain).detach())
    shares = []

    def watched(*arguments, alpha, largest_weight, **named):
        shares.append(largest_weight / (1 - alpha))
        return descend(*arguments, alpha=alpha, largest_weight=largest_weight, **named)

    monkeypatch.setattr(DEFAULT, "descend", watched)
    settings = unlearn(
        original,
        forget=tuple(column[:60] for column in rows),
        retain=DataLoader(TensorDataset(*(column[order] for column in retain)), batch_size=16),
        validation=VALIDATION,
        device="cpu",
        batch_size=16,
    ).settings
    assert settings["usual_retain_loss"] > 2 * min(trial["retain_loss"] for trial in settings["trials"])
    assert fmean(shares) > 0.5


def test_unseen_losses_that_are_all_alike_leave_room_above_their_mean(memorised):
    alike = tuple(column[:1].expand(10, *column.shape[1:]).contiguous() for column in VALIDATION)
    settings = unlearn(memorised, **{**SETS, "validation": alike}, device="cpu", batch_size=64).settings
    assert settings["largest_loss"] == pytest.approx(1.25 * settings["target_loss_before"])


def test_a_row_beyond_the_bound_is_pushed_no_further():
    rows, targets = torch.eye(4), torch.tensor([0, 1, 0, 1])
    model = nn.Linear(4, 2, bias=False)
    torch.nn.init.zeros_(model.weight)
    model.weight.data[:, 0] = torch.tensor([-3.0, 3.0])  # row 0 costs 6 nats
    sets = (rows[:2], targets[:2]), (rows[2:3], targets[2:3]), (rows[3:], targets[3:])
    for micro_batch_size in (None, 1):
        with Request(model, *sets, device="cpu", micro_batch_size=micro_batch_size).prepared() as problem:
            problem.largest_loss = 2.0
            batch, retain = (next(problem.in_order(one)) for one in (problem.forget, problem.retain))
            sgd = torch.optim.SGD(problem.trainable(), lr=0.1)
            step = descend(problem, sgd, batch, retain, alpha=0.5, target_loss=9.0)
            assert step.forget_loss == pytest.approx((2.0 + math.log(2)) / 2)
            assert torch.equal(problem.model.weight[:, 0], model.weight[:, 0])
            assert not torch.equal(problem.model.weight[:, 1], model.weight[:, 1])


def test_an_infinite_loss_is_found_although_losses_are_bounded(memorised):
    calls = []

    def infinite(model, rows):
        calls.append(len(rows[0]))
        return losses.classification(model, rows) + (math.inf if len(calls) > 150 else 0.0)

    with pytest.raises(NonFiniteLoss, match="inf"):
        unlearn(memorised, **SETS, device="cpu", batch_size=64, loss=infinite)


def test_weights_fade_where_the_forget_set_is_the_larger_as_far_as_the_retain_set_stands_it(memorised, monkeypatch):
    decays = []

    def watched(problem, optimizer, *arguments, alpha, largest_weight, **named):
        [group] = optimizer.param_groups
        lost = 1 - largest_weight / (1 - alpha)  # as a share of what was memorised
        decays.append((lost, group["weight_decay"]))
        return descend(problem, optimizer, *arguments, alpha=alpha, largest_weight=largest_weight, **named)

    monkeypatch.setattr(DEFAULT, "descend", watched)
    faded = unlearn(memorised, **SETS, device="cpu", batch_size=64)
    fading, rate = faded.settings["fading"], faded.settings["learning_rate"]
    assert fading == pytest.approx((1 / 2 - 1 / 3) / 2)  # two retain batches, three forget batches
    assert [decay for _, decay in decays] == pytest.approx(
        [1e-2 + fading * max(1 - 30 * lost, 0) / rate for lost, _ in decays]
    )
    assert decays[0][1] == pytest.approx(1e-2 + fading / rate)
    assert min(decays)[1] > max(decays)[1] == 1e-2
    decays.clear()
    monkeypatch.setattr(DEFAULT, "FADING_PASSES", math.inf)
    unfaded = unlearn(memorised, **SETS, device="cpu", batch_size=64)
    assert {decay for _, decay in decays} == {1e-2}
    assert faded.settings["target_loss_after"] < 0.8 * unfaded.settings["target_loss_after"]
    assert faded.settings["counted_forget_loss_after"] > 0.9 * faded.settings["counted_target_loss_after"]


def test_weights_do_not_fade_in_a_model_that_does_not_come_back_from_smaller_ones(memorised, monkeypatch):
    monkeypatch.setattr(trials, "SHRINKING", 1e-3)
    decays = []

    def watched(problem, optimizer, *arguments, **named):
        decays.extend(group["weight_decay"] for group in optimizer.param_groups)
        return descend(problem, optimizer, *arguments, **named)

    monkeypatch.setattr(DEFAULT, "descend", watched)
    settings = unlearn(memorised, **SETS, device="cpu", batch_size=64).settings
    assert settings["shrinking"] == 1
    assert settings["fading"] == 0
    assert set(decays) == {1e-2}


def test_weights_do_not_fade_where_the_retain_set_is_the_larger():
    sizes = SimpleNamespace(forget=SimpleNamespace(size=128, batches=2), retain=SimpleNamespace(size=128, batches=2))
    assert derive(sizes).fading == 0


def test_batches_that_scatter_about_a_target_that_is_met_hardly_push(memorised):
    def pushed(share):
        with Request(memorised, **SETS, device="cpu", batch_size=16).prepared() as problem:
            target = problem.mean_loss(problem.forget)
            running = RunningMean(target, share=share)
            still = torch.optim.SGD(problem.trainable(), lr=0.0)
            retain = next(problem.in_order(problem.retain))
            return fmean(
                descend(
                    problem, still, batch, retain, alpha=0.5, target_loss=target, unit=target, running=running
                ).ascent_weight
                for batch in problem.one_pass(problem.forget, problem.generator(0))
            )

    assert pushed(1 / 8) < pushed(1.0) / 3


def test_a_rate_that_harms_the_retain_set_is_not_taken(memorised):
    steep = copy.deepcopy(memorised)
    steep[0].weight.data /= 1e5  # of inputs so many times as large: a step counts so many times as much
    rates = []
    for model, scale in ((memorised, 1), (steep, 1e5)):
        sets = {name: (inputs * scale, targets) for name, (inputs, targets) in SETS.items()}
        with Request(model, **sets, device="cpu").prepared() as problem:
            rates.append(settle(problem, problem.mean_loss(problem.validation)).learning_rate)
    assert rates[0] == LEARNING_RATES[0]
    assert rates[1] < 1e-3


@pytest.fixture(scope="module")
def learning():
    torch.manual_seed(0)
    return fit(nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 3)), *TRAIN, steps=5, rate=1e-3)


def test_a_model_that_is_still_learning_takes_a_rate_that_leaves_it_what_it_is(learning, monkeypatch):
    """Its losses come back from any rate, as it would be trained further."""

    def settled():
        with Request(learning, **SETS, batch_size=64, device="cpu").prepared() as problem:
            start = settle(problem, problem.mean_loss(problem.validation))
            return start.learning_rate, problem.settings["trials"]

    rate, tried = settled()
    monkeypatch.setattr(trials, "LARGEST_MOVE", math.inf)
    highest, judged_by_their_mean = settled()
    assert rate < highest == LEARNING_RATES[0]
    assert judged_by_their_mean[0]["retain_loss"] < losses.classification(learning, SETS["retain"]).mean()
    assert [trial["moved"] for trial in tried[:-1]] == sorted((t["moved"] for t in tried[:-1]), reverse=True)


def test_rows_may_move_as_far_as_a_removed_label_has_to_go(learning):
    with Request(learning, **SETS, batch_size=64, device="cpu").prepared() as problem:
        rates = [settle(problem, problem.mean_loss(problem.validation), way).learning_rate for way in (0.0, 9.0)]
    assert rates[0] < rates[1] == LEARNING_RATES[0]


def test_what_the_statistics_of_batch_norm_move_is_no_rates_doing(monkeypatch):
    torch.manual_seed(0)
    layers = nn.Linear(6, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3)
    model = fit(nn.Sequential(*layers), *TRAIN)
    model[1].running_var *= 4  # as from inputs that were augmented
    monkeypatch.setattr(trials, "LEARNING_RATES", (1e-7, 1e-8))
    with Request(model, **SETS, batch_size=64, device="cpu").prepared() as problem:
        start = settle(problem, problem.mean_loss(problem.validation))
        after = problem.settings["trials"][0]
    assert after["retain_loss"] < start.retain_loss - 0.1
    assert after["moved"] < 1e-3


def test_the_retain_set_is_not_fitted_further_than_by_a_third_of_what_was_memorised(learning, monkeypatch):
    told = []

    def told_of(*arguments, retain_weight, **others):
        step = descend(*arguments, retain_weight=retain_weight, **others)
        told.append((retain_weight, float(step.retain_loss)))
        return step

    monkeypatch.setattr(trials, "LEARNING_RATES", (1e-2,) * 2)
    monkeypatch.setattr(trials, "LARGEST_MOVE", math.inf)
    monkeypatch.setattr(DEFAULT, "descend", told_of)
    settings = unlearn(learning, **SETS, batch_size=64, device="cpu").settings
    usual = mean = settings["usual_retain_loss"]
    for weight, retain_loss in told:
        assert (weight == 0) is (mean < usual - 4 * settings["loss_unit"] / 3)
        mean += (retain_loss - mean) / 8
    assert 5 < sum(weight == 0 for weight, _ in told) < len(told) - 5


def test_the_trial_is_undone(memorised):
    with Request(memorised, **SETS, device="cpu").prepared() as problem:
        settle(problem, 1.0)
        assert problem.steps == 0
        for parameter, original in zip(problem.model.parameters(), memorised.parameters(), strict=True):
            assert torch.equal(parameter, original)


FEWER = {  # of one batch
    "forget": tuple(column[:45] for column in TRAIN),
    "retain": tuple(column[45:] for column in TRAIN),
    "validation": VALIDATION,
}


def test_the_run_goes_on_while_the_retain_set_is_not_back(memorised, monkeypatch):
    monkeypatch.setattr(DEFAULT, "LEAST_STEPS", 20)  # far from back
    totals, alphas = [], set()

    def watched(*arguments, alpha, **named):
        alphas.add(alpha)
        return descend(*arguments, alpha=alpha, **named)

    monkeypatch.setattr(DEFAULT, "descend", watched)
    request = Request(memorised, **FEWER, device="cpu", batch_size=64)
    request.on_step = lambda done, total: totals.append(total)
    longer = request.run()
    settings = longer.settings
    planned, more = longer.epochs[: settings["epochs"]], longer.epochs[settings["epochs"] :]
    assert more
    assert alphas == {settings["alpha"]} == {0.25}  # 5/3 of 45 in 300
    assert settings["steps"] < settings["steps_done"] <= settings["most_steps"] == 2 * settings["steps"]
    assert sorted(set(totals)) == [settings["steps"], settings["most_steps"]]
    monkeypatch.setattr(DEFAULT, "REPAIRED", math.inf)
    ended = unlearn(memorised, **FEWER, device="cpu", batch_size=64)
    assert [replace(one, seconds=0.0) for one in ended.epochs] == [replace(one, seconds=0.0) for one in planned]
    assert settings["retain_loss_after"] < 0.9 * ended.settings["retain_loss_after"]


def test_the_forget_set_does_not_come_back_with_the_retain_set(memorised, monkeypatch):
    monkeypatch.setattr(DEFAULT, "LEAST_STEPS", 60)

    def unpushed_after_the_plan(problem, *arguments, **named):
        if problem.steps >= problem.settings["steps"]:
            named["largest_weight"] = 0.0
        return descend(problem, *arguments, **named)

    def forget_loss():
        unlearned = unlearn(memorised, **FEWER, device="cpu", batch_size=64)
        assert len(unlearned.epochs) == 2 * unlearned.settings["epochs"]
        return unlearned.settings["counted_forget_loss_after"]

    pushed = forget_loss()
    monkeypatch.setattr(DEFAULT, "descend", unpushed_after_the_plan)
    assert forget_loss() < 0.6 * pushed


@pytest.mark.parametrize(
    ("found", "looks"),
    [([9.0, 9.5], 2), ([9.0, 8.0, 8.5], 3), ([9.0, 8.0, 0.0], 3), ([9.0, 0.0], 2), ([0.0], 1)],
)
def test_passes_that_bring_nothing_back_end_the_run(memorised, monkeypatch, found, looks):
    """It is looked at after the planned passes, and then after every so many; enough and no gain both end it."""
    left = iter(found)

    def retain_loss(problem, retain_mean):
        return next(left) if problem.steps >= problem.settings["steps"] else 9.0

    monkeypatch.setattr(DEFAULT, "_retain_loss", retain_loss)
    unlearned = unlearn(memorised, **SETS, device="cpu", batch_size=64)
    settings = unlearned.settings
    assert settings["look_every"] == math.ceil(20 / 3)  # three batches a pass
    assert len(unlearned.epochs) == settings["epochs"] + (looks - 1) * settings["look_every"]


def test_a_plan_is_cut_short_once_both_sets_are_where_they_should_be(memorised, monkeypatch):
    looks, rates, totals = [], [], []

    def watched(problem, optimizer, *arguments, **named):
        rates.append(optimizer.param_groups[0]["lr"])
        return descend(problem, optimizer, *arguments, **named)

    def retain_loss(problem, retain_mean):
        looks.append(problem.steps)
        return 0.0

    monkeypatch.setattr(DEFAULT, "descend", watched)
    monkeypatch.setattr(DEFAULT, "_retain_loss", retain_loss)
    request = Request(memorised, **SETS, device="cpu", batch_size=64)
    request.on_step = lambda done, total: totals.append(total)
    unlearned = request.run()
    settings, batches = unlearned.settings, 3
    cut = settings["plan_cut_short_after"]
    assert cut in looks
    assert settings["counted_forget_loss_after"] > 0.8 * settings["counted_target_loss_after"]
    assert settings["steps_done"] == cut + settings["look_every"] * batches < settings["steps"]
    assert set(totals) == {settings["steps"]}
    first = settings["learning_rate"]
    planned = [first * (1 - 0.9 * epoch / settings["epochs"]) for epoch in range(cut // batches)]
    assert rates[:cut:batches] == pytest.approx(planned)
    falls = [earlier - later for earlier, later in pairwise(rates[cut:])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert rates[-1] - falls[0] == pytest.approx(first / 10)

    monkeypatch.setattr(target, "REACHED", math.inf)  # the forget set never is
    whole = unlearn(memorised, **SETS, device="cpu", batch_size=64).settings
    assert whole["steps_done"] == whole["steps"]
    assert "plan_cut_short_after" not in whole


def test_a_plan_that_was_cut_short_goes_on_while_the_retain_set_is_not_back(memorised, monkeypatch):
    after, rates = iter([9.0, 8.0, 0.0]), []

    def watched(problem, optimizer, *arguments, **named):
        rates.append(optimizer.param_groups[0]["lr"])
        return descend(problem, optimizer, *arguments, **named)

    def retain_loss(problem, retain_mean):
        return next(after) if "plan_cut_short_after" in problem.settings else 0.0

    monkeypatch.setattr(DEFAULT, "descend", watched)
    monkeypatch.setattr(DEFAULT, "_retain_loss", retain_loss)
    settings = unlearn(memorised, **SETS, device="cpu", batch_size=64).settings
    look = 3 * settings["look_every"]  # three batches a pass
    end = settings["plan_cut_short_after"] + look
    assert settings["steps_done"] == end + 2 * look
    assert rates[end:] == pytest.approx([settings["learning_rate"] / 10] * (2 * look))


@pytest.mark.parametrize(("dearer", "looks"), [(0.009, 0), (0.011, 1)])
def test_the_retain_set_is_back_within_a_hundredth_of_what_was_memorised(memorised, monkeypatch, dearer, looks):
    def retain_loss(problem, retain_mean):
        return problem.settings["usual_retain_loss"] + dearer * 4 * problem.settings["loss_unit"]

    monkeypatch.setattr(DEFAULT, "_retain_loss", retain_loss)
    unlearned = unlearn(memorised, **SETS, device="cpu", batch_size=64)
    more = len(unlearned.epochs) - unlearned.settings["epochs"]
    assert more == looks * unlearned.settings["look_every"]


def test_looks_and_rates_of_a_plan_that_is_not_cut_short():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    course, rates = Course(optimizer, epochs=10, look_every=3, batches=1), []
    assert [epoch for epoch in range(20) if course.is_look(epoch)] == [3, 6, 10, 13, 16, 19]  # at 9 no cut saves a pass
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step_done()
        course.pass_done()
    assert rates == pytest.approx([1 - 0.09 * min(epoch, 10) for epoch in range(13)])


def test_a_plan_is_not_cut_short_while_the_retain_set_costs_more_than_it_did(memorised):
    settings = unlearn(memorised, **SETS, device="cpu", batch_size=64).settings
    assert settings["steps_done"] >= settings["steps"]
    assert "plan_cut_short_after" not in settings


def test_a_plan_is_not_cut_short_by_a_few_batches_that_were_pushed_further_than_the_rest(memorised, monkeypatch):
    """The running mean is of a few batches; the forget set as a whole is measured before the plan is cut short."""
    monkeypatch.setattr(DEFAULT, "_retain_loss", lambda problem, retain_mean: 0.0)

    def cut(mean_of_batches, of_all):
        found = iter([mean_of_batches, of_all] * 1000)
        monkeypatch.setattr(DEFAULT, "reached", lambda loss, before, target_loss: next(found))
        return "plan_cut_short_after" in unlearn(memorised, **SETS, device="cpu", batch_size=64).settings

    assert cut(True, True)
    assert not cut(True, False)
    assert not cut(False, False)


def test_a_loader_that_ends_on_dearer_rows_is_back_where_its_first_batches_were(memorised, monkeypatch):
    """What the forget set costs is no measure of it: it may cost more than the retain set ever should."""
    inputs, targets = SETS["retain"]
    wrong = tuple(column.clone() for column in SETS["forget"])
    wrong[1][:60] = (wrong[1][:60] + 1) % 3  # never learned
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=64)
    monkeypatch.setattr(DEFAULT, "reached", lambda loss, before, target_loss: True)
    settings = unlearn(
        memorised, forget=wrong, retain=loader, validation=VALIDATION, device="cpu", batch_size=64
    ).settings
    assert settings["usual_retain_loss"] > 1
    assert "plan_cut_short_after" not in settings


def test_a_loader_with_an_order_of_its_own_is_judged_by_the_batches_it_gives(memorised, monkeypatch):
    monkeypatch.setattr(DEFAULT, "LEAST_STEPS", 60)
    opened = []

    class Counted(DataLoader):
        def __iter__(self):
            opened.append(self)
            return super().__iter__()

    loader = Counted(TensorDataset(*SETS["retain"]), batch_size=64)
    unlearned = unlearn(memorised, **{**SETS, "retain": loader}, device="cpu", batch_size=64)
    settings = unlearned.settings
    assert len(unlearned.epochs) > settings["epochs"]  # it went on
    passes = math.ceil(settings["steps_done"] / 2)  # two batches a pass
    before = len(opened) - passes
    monkeypatch.setattr(DEFAULT, "REPAIRED", math.inf)
    opened.clear()
    ended = unlearn(memorised, **{**SETS, "retain": loader}, device="cpu", batch_size=64)
    assert len(opened) - math.ceil(ended.settings["steps_done"] / 2) == before  # none was opened to look


def test_a_single_row_does_not_roll_past_its_target(memorised, monkeypatch):
    one = {**SETS, "forget": tuple(column[:1] for column in TRAIN), "retain": tuple(column[1:] for column in TRAIN)}

    def excess():
        settings = unlearn(memorised, **one, device="cpu").settings
        return settings["forget_loss_after"] - settings["target_loss_after"]

    braked = excess()
    monkeypatch.setattr(DEFAULT, "lose_momentum", lambda optimizer: None)
    assert braked < excess() / 2


def test_the_units_of_the_loss_do_not_matter(memorised):
    plain = unlearn(memorised, **SETS, device="cpu", batch_size=64)
    dear = unlearn(
        memorised,
        **SETS,
        device="cpu",
        batch_size=64,
        loss=lambda model, rows: 1000 * losses.classification(model, rows),
    )
    assert dear.settings["loss_unit"] == pytest.approx(1000 * plain.settings["loss_unit"])
    assert dear.settings["learning_rate"] == plain.settings["learning_rate"]
    for one, other in zip(plain.epochs[:10], dear.epochs[:10], strict=True):
        assert one.ascent_weight == pytest.approx(other.ascent_weight, rel=0.02, abs=0.01)
    assert dear.settings["forget_loss_after"] == pytest.approx(1000 * plain.settings["forget_loss_after"], rel=0.1)


@pytest.mark.parametrize(
    ("forget", "retain", "alpha"), [(1, 49_999, 0.05), (7_500, 42_500, 0.25), (47_500, 2_500, 0.5)]
)
def test_every_share_has_an_answer(forget, retain, alpha):
    with Request(nn.Linear(6, 3), **SETS, device="cpu").prepared() as problem:
        sized = replace(
            problem,
            forget=replace(problem.forget, size=forget, batches=math.ceil(forget / 256)),
            retain=replace(problem.retain, size=retain, batches=math.ceil(retain / 256)),
        )
        settings = derive(sized)
    assert settings.alpha == pytest.approx(alpha)
    assert settings.steps >= 160


class TwoHeads(nn.Module):
    """A model of which the loss sees one head."""

    def __init__(self, body):
        super().__init__()
        self.body, self.other = body, nn.Linear(6, 3)

    def forward(self, inputs):
        return self.body(inputs)


def test_weights_start_smaller_where_the_model_comes_back_from_it(memorised, monkeypatch):
    model, factors = TwoHeads(copy.deepcopy(memorised)), []
    shrink = trials.shrink
    for module in (trials, DEFAULT):
        monkeypatch.setattr(module, "shrink", lambda weights, factor: (factors.append(factor), shrink(weights, factor)))
    unlearned = unlearn(model, **SETS, device="cpu", batch_size=64)
    assert factors == [1.0] * (len(unlearned.settings["trials"]) - 1) + [0.9, 0.9]  # trials, the last of it, the run
    assert unlearned.settings["shrinking"] == 0.9
    assert torch.equal(unlearned.model.other.weight, model.other.weight)  # no gradient reaches it
    monkeypatch.setattr(trials, "LARGEST_MOVE", -1.0)  # nothing comes back
    assert unlearn(model, **SETS, device="cpu", batch_size=64).settings["shrinking"] == 1.0
    assert factors[-2:] == [0.9, 1.0]


def test_a_lowest_rate_that_is_taken_for_want_of_another_is_told(memorised, monkeypatch):
    assert "learning_rate_reason" not in unlearn(memorised, **SETS, device="cpu", batch_size=64).settings
    monkeypatch.setattr(trials, "LARGEST_MOVE", -1.0)  # nothing comes back
    settings = unlearn(memorised, **SETS, device="cpu", batch_size=64).settings
    assert settings["learning_rate"] == LEARNING_RATES[-1]
    assert settings["learning_rate_reason"].startswith("at every higher one a trial cost the retain set too much")


def test_a_loss_that_is_shifted_changes_nothing(memorised):
    """A log-likelihood of a density may be negative, and so may its mean."""
    plain, shifted = (
        unlearn(
            memorised,
            **SETS,
            device="cpu",
            batch_size=64,
            loss=lambda model, rows, by=by: losses.classification(model, rows) - by,
        )
        for by in (0.0, 5.0)
    )
    assert shifted.settings["target_loss_before"] < 0
    assert shifted.settings["largest_loss"] == pytest.approx(plain.settings["largest_loss"] - 5, abs=1e-4)
    assert shifted.settings["learning_rate"] == plain.settings["learning_rate"]
    assert shifted.settings["forget_loss_after"] == pytest.approx(plain.settings["forget_loss_after"] - 5, abs=0.05)
    assert shifted.reached_target is plain.reached_target
