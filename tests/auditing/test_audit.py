"""The audit on models whose truth is known: it names what is there, and does not when nothing is."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from nabla_tau import InvalidRequest, Report, Unlearned, audit, losses, split
from nabla_tau.storage import fingerprint
from tests.conftest import clusters, fit

TRAIN, TEST = clusters(400, 1, noise=1.0), clusters(300, 3, noise=1.0)
FORGET, RETAIN = tuple(c[:150] for c in TRAIN), tuple(c[150:] for c in TRAIN)


def network(seed, rows):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return fit(nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 3)), *rows)


@pytest.fixture(scope="module")
def original():
    return network(0, TRAIN)


@pytest.fixture(scope="module")
def retrained():
    return [network(seed, RETAIN) for seed in (1, 2, 3)]


def audited(model, **changed):
    sets = {"forget": FORGET, "retain": RETAIN, "test": TEST, "device": "cpu"}
    return audit(model, **{**sets, **changed})


@pytest.fixture(scope="module")
def report(original, retrained):
    return audited(retrained[0], original=original, retrained=retrained)


def test_a_model_that_never_saw_the_forget_set_passes(report):
    assert report.verdict["kind"] == "none_detectable"
    assert "No residual membership detectable above a margin of 0." in report.verdict["sentence"]
    assert "150 forget and 300 unseen" in report.verdict["sentence"]
    controls = report.data["controls"]
    assert controls["original"]["alarm"]
    assert not controls["test_vs_test"]["alarm"]
    assert not controls["blind"]["alarm"]


def test_doing_nothing_is_found_out(original):
    found = audited(original, original=original)
    assert found.verdict["kind"] == "residual"
    assert found.data["models"][0]["attacks"] == found.data["models"][1]["attacks"]
    ours = found.data["models"][1]
    assert ours["residual"]["fraction"]["value"] > 0.8
    assert found.data["pair"]["auc"]["value"] == 0.5  # nothing changed: the pair reveals nothing


def test_what_was_pushed_too_far_is_over_forgotten(original):
    pushed = copy.deepcopy(original)
    fit(pushed, torch.cat([FORGET[0], RETAIN[0]]), torch.cat([(FORGET[1] + 1) % 3, RETAIN[1]]), steps=200)
    found = audited(pushed, original=original)
    assert found.verdict["kind"] == "over_forgotten"
    assert found.data["models"][1]["attacks"][0]["auc"]["value"] < 0.4


def test_a_model_that_memorised_nothing_gives_no_pass(retrained):
    found = audited(retrained[0], original=retrained[1])
    assert found.verdict["kind"] == "nothing_memorised"
    assert "a pass would mean nothing" in found.verdict["sentence"]


def test_a_test_set_of_another_kind_is_not_answerable(original, retrained):
    found = audited(retrained[0], original=original, test=(TEST[0] + 3, TEST[1]))
    assert found.verdict["kind"] == "not_answerable"


def test_a_removed_class_is_compared_with_itself(original):
    rows = TRAIN[1] == 2
    forget, retain = tuple(c[rows] for c in TRAIN), tuple(c[~rows] for c in TRAIN)
    found = audited(network(4, retain), original=original, forget=forget, retain=retain)
    assert found.verdict["test_samples"] == int((TEST[1] == 2).sum())


def test_a_removed_class_of_one_output_is_compared_with_itself():
    """A model that always says no: the rows of one class cost more than those of the other, on any set."""
    inputs, targets = torch.randn(900, 6), (torch.arange(900) % 2).float()[:, None]
    no = nn.Linear(6, 1)
    nn.init.zeros_(no.weight)
    nn.init.constant_(no.bias, -1.0)
    sets = {"forget": targets[:300] == 1, "retain": targets[:300] == 0}
    rows = {name: (inputs[:300][mask[:, 0]], targets[:300][mask[:, 0]]) for name, mask in sets.items()}
    report = audit(no, **rows, test=(inputs[300:], targets[300:]), loss=losses.binary, device="cpu")
    assert report.verdict["test_samples"] == 300
    assert report.data["sets"]["forget"]["classes"] == {"1": 150}


def test_reference_bands_and_their_factor(report):
    reference = report.data["reference"]
    assert reference["models"] == 3
    assert reference["factor"] == pytest.approx(4.97, abs=0.01)
    assert 0 < reference["divergence"]["floor"] < 1
    assert {band["measure"] for band in reference["bands"]} >= {"test accuracy", "AUC loss", "paper, losses"}


def test_without_original_and_retrained_it_says_what_cannot_be_said(retrained):
    found = audited(retrained[0])
    assert [model["name"] for model in found.data["models"]] == ["unlearned"]
    assert {"pair", "power", "reference", "epochs", "original"} <= set(found.data["absent"])
    assert "cannot be said" in str(found)


def test_saved_whole_and_read_back(report, tmp_path):
    report.save(tmp_path / "run")
    assert Report.load(tmp_path / "run").data == json.loads(json.dumps(report.data))
    with pytest.raises(FileExistsError, match=r"report\.json"):
        report.save(tmp_path / "run")


def test_batch_size_and_the_order_of_a_loader_change_nothing(original, retrained, report):
    loader = DataLoader(TensorDataset(*FORGET), batch_size=7, shuffle=True)
    other = audited(retrained[0], original=original, retrained=retrained, forget=loader, batch_size=32)
    for ours, theirs in zip(report.data["models"], other.data["models"], strict=True):
        for one, two in zip(ours["attacks"], theirs["attacks"], strict=True):
            assert one["auc"]["value"] == pytest.approx(two["auc"]["value"], abs=1e-4)
        assert ours["residual"]["worst"] == theirs["residual"]["worst"]


def test_the_models_are_left_as_found(original):
    model = copy.deepcopy(original).train()
    state = torch.get_rng_state()
    audited(model, original=model)
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert not model._forward_hooks


def test_batch_norm_is_left_as_found_and_read_in_eval_mode():
    models = [nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train() for _ in range(3)]
    before = copy.deepcopy([model.state_dict() for model in models])
    found = audited(models[0], original=models[1], retrained=models[2:])
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        model.eval()
    again = audited(models[0], original=models[1], retrained=models[2:])
    assert [model["utility"] for model in found.data["models"]] == [model["utility"] for model in again.data["models"]]


def test_samples_that_change_or_have_no_known_order_are_refused(original):
    class Augmented(Dataset):
        def __len__(self):
            return 50

        def __getitem__(self, row):
            return FORGET[0][row] + torch.randn(6), FORGET[1][row]

    with pytest.raises(InvalidRequest, match="forget: expected rows that read the same each time"):
        audited(original, forget=Augmented())
    drawn = WeightedRandomSampler(torch.ones(250), 250)
    with pytest.raises(InvalidRequest, match="retain: expected rows in a known order"):
        audited(original, retain=DataLoader(TensorDataset(*RETAIN), batch_size=32, sampler=drawn))


def test_copies_in_the_test_set_are_dropped_and_said(original, retrained):
    test = tuple(torch.cat([theirs, ours[[3, 5]]]) for theirs, ours in zip(TEST, FORGET, strict=True))
    found = audited(retrained[0], original=original, test=test)
    assert found.verdict["test_samples"] == 300
    assert "2 rows of test have the same content as rows of forget" in found.data["warnings"][0]


def test_other_tasks_bring_their_own_measures():
    torch.manual_seed(0)
    inputs, labels = torch.randn(120, 6), torch.randint(2, (120, 4))
    rows = [tuple(c[part] for c in (inputs, labels)) for part in (slice(0, 40), slice(40, 80), slice(80, 120))]
    names = ("forget", "retain", "test")
    found = audit(nn.Linear(6, 4), **dict(zip(names, rows, strict=True)), device="cpu")
    assert "macro_f1" in found.data["models"][0]["utility"]["test"]
    targets = torch.randn(120, 1)
    rows = [tuple(c[part] for c in (inputs, targets)) for part in (slice(0, 40), slice(40, 80), slice(80, 120))]
    found = audit(nn.Linear(6, 1), **dict(zip(names, rows, strict=True)), device="cpu")
    assert {"r2", "mean_absolute_error"} <= set(found.data["models"][0]["utility"]["test"])
    found = audit(
        nn.Linear(6, 1), **dict(zip(names, rows, strict=True)), device="cpu",
        loss=lambda model, batch: losses.regression(model, batch),
    )  # fmt: skip
    assert [attack["score"] for attack in found.data["models"][0]["attacks"]] == ["loss"]


def test_large_losses_leave_room_for_what_they_are():
    x, generator = torch.randn(200, 4), torch.Generator().manual_seed(0)
    y = 30_000 * torch.randn(200, 1, generator=generator)
    sets = {name: (x[cut], y[cut]) for name, cut in (("forget", slice(60)), ("retain", slice(60, 120)))}
    found = audit(nn.Linear(4, 1), original=nn.Linear(4, 1), test=(x[120:], y[120:]), **sets, device="cpu")
    lines = str(found).splitlines()
    (line,) = (line for line in lines if line.strip("│ ").startswith("forget loss"))
    assert "e+08" in line
    assert line.endswith("│")


def test_problems_come_together(original):
    data = TensorDataset(*TRAIN)
    broken = copy.deepcopy(original)
    broken[0].weight.data[0, 0] = torch.nan
    with pytest.raises(InvalidRequest) as caught:
        audited(broken, forget=Subset(data, [1, 2]), test=Subset(data, [2, 3]), retrained=[broken])
    text = str(caught.value)
    assert "forget and test: expected disjoint sets" in text
    assert "unlearned" in text
    assert "retrained 1" in text


def test_too_few_samples(original):
    with pytest.raises(InvalidRequest) as caught:
        audited(original, forget=tuple(c[:19] for c in FORGET), retain=tuple(c[:15] for c in RETAIN))
    assert "forget: expected at least 20 comparable samples, got 19" in str(caught.value)
    assert "retain: expected at least 20 comparable samples, got 15" in str(caught.value)


def test_a_test_set_that_was_the_validation_set_is_refused_for_that(original):
    with pytest.raises(InvalidRequest, match=r"test: .* got 0, after 300 that are repeats or stand in another set too"):
        audited(original, validation=tuple(column.clone() for column in TEST))


def test_retrained_models_of_another_shape(original):
    with pytest.raises(InvalidRequest, match="retrained 1: expected 3 outputs"):
        audited(original, retrained=[nn.Linear(6, 5)])


def test_no_content_enters_the_report(report):
    text = json.dumps(report.data)
    value = np.format_float_positional(float(FORGET[0][0, 0]), precision=5, trim="-")
    assert value not in text


def test_ids_stand_in_the_report_under_the_salt_alone(original):
    columns = {"input": TRAIN[0], "labels": TRAIN[1], "person": [f"person-{row // 5}" for row in range(len(TRAIN[1]))]}
    parts = split(columns, ids=[f"person-{number}" for number in range(30)], id_column="person")
    test = {"input": TEST[0], "labels": TEST[1]}
    found = audited(original, forget=parts.forget, retain=parts.retain, test=test, salt=b"0" * 32)
    assert "person-" not in json.dumps(found.data)
    assert len(found.data["sets"]["forget"]["ids"]) == 30
    assert found.data["sets"]["retain"]["ids"] is None  # those who are kept are nobody's business
    assert found.data["controls"]["group"] is None
    other = audited(original, forget=parts.forget, retain=parts.retain, test=test, salt=b"1" * 32)
    assert set(found.data["sets"]["forget"]["ids"]).isdisjoint(other.data["sets"]["forget"]["ids"])
    assert audited(original).data["sets"]["forget"]["ids"] is None


def told(found):
    return " ".join(found.data["warnings"])


def test_every_copy_is_left_out(retrained):
    """Whichever set is the larger: fifteen test rows that are one forget row are no fifteen unseen samples."""
    for rows in (60, 20):
        test = tuple(torch.cat([column[:1].repeat(15, *[1] * (column.ndim - 1)), other[:rows]])
                     for column, other in zip(FORGET, TEST, strict=True))  # fmt: skip
        assert audited(retrained[0], test=test).verdict["test_samples"] == rows


def test_rows_that_repeat_are_no_further_samples(retrained):
    whole = TensorDataset(*TEST)
    with pytest.raises(InvalidRequest, match="test: expected at least 20 comparable samples, got 1"):
        audited(retrained[0], test=Subset(whole, [7] * 50))
    found = audited(retrained[0], test=Subset(whole, [*range(100), *range(30)]), forget=Subset(TensorDataset(*FORGET), [
        *range(80), 5]))  # fmt: skip
    assert (found.verdict["forget_samples"], found.verdict["test_samples"]) == (80, 100)
    assert "test: 30 of 130 rows repeat" in told(found)
    assert "forget: 1 of 81 rows repeat" in told(found)


def test_a_stray_row_does_not_hide_that_a_class_was_removed(original):
    rows = TRAIN[1] == 2
    astray = rows.clone()
    astray[[int(rows.nonzero()[0]), int((~rows).nonzero()[0])]] ^= True
    forget, retain = tuple(c[astray] for c in TRAIN), tuple(c[~astray] for c in TRAIN)
    found = audited(network(4, retain), forget=forget, retain=retain)
    assert found.verdict["test_samples"] == int((TEST[1] == 2).sum())
    assert found.verdict["forget_samples"] == int(rows.sum()) - 1
    assert "1 forget samples of other classes" in told(found)


def test_classes_in_another_mix_are_told(retrained):
    rows = torch.cat([(FORGET[1] == label).nonzero()[:count, 0] for label, count in ((0, 40), (1, 10), (2, 10))])
    assert "not mixed alike (class 0 is 67%" in told(audited(retrained[0], forget=tuple(c[rows] for c in FORGET)))


def test_the_loss_is_that_of_the_unlearned(retrained):
    result = Unlearned(retrained[0], [], {"loss": "focal"}, True)
    with pytest.raises(InvalidRequest, match=r"loss: expected the loss that unlearn.* was given, 'focal'"):
        audited(result)
    many = FORGET[0], nn.functional.one_hot(FORGET[1], 3).float()
    sets = {name: (x, nn.functional.one_hot(y, 3).float()) for name, (x, y) in
            (("retain", RETAIN), ("test", TEST))}  # fmt: skip
    with pytest.raises(InvalidRequest, match="fix the task"):
        audited(retrained[0], forget=many, **sets)
    result.settings["loss"] = "multi_label"
    assert audited(result, forget=many, **sets).data["settings"]["audit_loss"] == "multi_label"


@pytest.mark.parametrize(
    ("argument", "value"),
    [("seed", bad) for bad in (-1, 2**70, 1.5, "3")]
    + [("batch_size", bad) for bad in (0, 1.5, "3")]
    + [("salt", bad) for bad in ("abc", 5, [1], b"", b"short")]
    + [("retrained", bad) for bad in (3, [None] * 3, {"a": nn.Linear(6, 3)}, "model")]
    + [("request", bad) for bad in ("17", {"number": 17})]
    + [("loss", nn.functional.mse_loss), ("device", "gpu"), ("original", "model")],
)
def test_arguments_that_cannot_be_used_are_named(original, argument, value):
    with pytest.raises(InvalidRequest, match=f"1. {argument}"):
        audited(original, **{argument: value})


def test_models_may_come_alone_or_as_results(original, retrained):
    with pytest.raises(InvalidRequest, match=r"unlearned model: expected a torch\.nn.Module, got NoneType"):
        audited(None)
    result = Unlearned(retrained[0], [], {}, True)
    found = audited(retrained[1], original=result, retrained=retrained[2])
    assert [model["name"] for model in found.data["models"]] == ["original", "unlearned", "retrained 1"]


def test_models_are_compared_by_what_all_of_them_have(original, retrained):
    class Half(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x) / 2

    found = audited(retrained[0], original=original, retrained=[Half(retrained[0]), *retrained[1:]])
    assert "gradient norm" in found.data["absent"]
    assert "gradient" not in str(found).partition("not available")[0]


def test_losses_are_known_by_what_they_are(retrained):
    class Regression:
        __name__, __hash__ = "regression", None

        def __call__(self, model, batch):
            return losses.classification(model, batch)

    for loss, name in ((Regression(), "own regression"), (partial(losses.classification), "own classification")):
        found = audited(retrained[0], loss=loss).data
        assert found["settings"]["audit_loss"] == name
        assert "scores" in found["absent"]


def test_what_draws_at_random_is_refused(retrained):
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    with pytest.raises(InvalidRequest, match="retrained 1 model: expected the same losses each time"):
        audited(retrained[0], retrained=[Noisy(6, 3)])

    def collate(rows):
        x, y = torch.utils.data.default_collate(rows)
        return x + torch.randn_like(x), y

    loader = DataLoader(TensorDataset(*FORGET), batch_size=50, collate_fn=collate)
    with pytest.raises(InvalidRequest, match=r"forget: expected rows that read the same each time.*collate_fn"):
        audited(retrained[0], forget=loader)


def test_models_that_count_or_read_the_batch():
    class Counting(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = Counting()
    assert "unlearned: batch norm without running statistics (1)" in told(audited(model))
    assert model.calls == 0


def test_every_model_that_fails_later_is_named(retrained):
    class Failing(nn.Linear):
        def forward(self, x):
            if len(x) == 300 - 256:  # the second batch of the test set
                raise RuntimeError("no memory")
            return super().forward(x)

    with pytest.raises(InvalidRequest) as refused:
        audited(retrained[0], retrained=[Failing(6, 3), nn.Linear(6, 3), Failing(6, 3)])
    assert [text.split(":")[0] for text in refused.value.problems] == [
        f"retrained {number} on test" for number in (1, 3)]  # fmt: skip
    with pytest.raises(InvalidRequest, match=r"1\. retrained 1 model: expected outputs"):
        audited(retrained[0], retrained=[nn.Linear(7, 3)])


def test_another_loss_than_that_of_the_run_is_told(original):
    result = Unlearned(original, [], {"loss": "binary"}, reached_target=True)
    warnings = audited(result, loss=losses.classification).data["warnings"]
    assert any(text.startswith("loss: classification, and unlearn() was given binary") for text in warnings)


def test_models_in_each_others_place_are_refused(original, retrained):
    result = Unlearned(retrained[0], [], {"original_fingerprint": fingerprint(original)}, True)
    with pytest.raises(InvalidRequest, match=r"original: expected the model before(?s:.*)swap the two"):
        audited(original, original=result)
    assert audited(result, original=original).verdict["kind"] != "not_answerable"


def test_rows_of_one_person_count_once(original):
    train = {"input": TRAIN[0], "labels": TRAIN[1], "person": [f"person-{row // 5}" for row in range(len(TRAIN[1]))]}
    test = {"input": TEST[0], "labels": TEST[1], "person": [f"other-{row // 10}" for row in range(len(TEST[1]))]}
    parts = split(train, ids=[f"person-{number}" for number in range(40)], id_column="person")
    sets = {"forget": parts.forget, "retain": parts.retain}
    found = audited(original, **sets, test=test)
    assert (found.verdict["forget_samples"], found.verdict["test_samples"]) == (40, 30)
    assert "forget: its 200 rows belong to 40 ids; one row of each" in told(found)
    assert "test: its 300 rows belong to 30 ids; one row of each" in told(found)
    nameless = audited(original, **sets, test={key: test[key] for key in ("input", "labels")})
    assert (nameless.verdict["forget_samples"], nameless.verdict["test_samples"]) == (40, 300)


def test_losses_that_float32_rounds_to_nothing_keep_their_order():
    inputs = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    seen, unseen = 0.3 * inputs[:150] + 1, 0.3 * inputs[150:300]  # of both, all more certain than float32 can tell
    classes = torch.zeros(150, dtype=torch.long)
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        model[0].bias.copy_(torch.tensor([12.0, -12.0]))
    assert losses.classification(model, (torch.cat([seen, unseen]), torch.cat([classes, classes]))).max() == 0
    retain = (inputs[300:], torch.zeros(100, dtype=torch.long))
    found = audited(model, forget=(seen, classes), retain=retain, test=(unseen, classes))
    assert found.data["models"][0]["attacks"][0]["auc"]["value"] > 0.9


def test_probabilities_in_place_of_logits_are_told(retrained):
    assert "as probabilities do, and classification reads logits" in told(
        audited(nn.Sequential(retrained[0], nn.Softmax(1)))
    )
    assert "probabilities" not in told(audited(retrained[0]))


def test_a_model_that_tells_nothing_is_told():
    silent = nn.Linear(6, 3)
    nn.init.zeros_(silent.weight)
    assert "it answers every unseen sample alike" in told(audited(silent))


def test_references_that_saw_the_forget_set_or_are_one_are_told(original, retrained):
    seen = network(7, TRAIN)
    text = told(audited(retrained[0], original=original, retrained=[seen, retrained[1], retrained[1]]))
    assert "retrained 1: the primary attack tells the forget set on it" in text
    assert "retrained 2: the primary" not in text
    assert "retrained: some have the same weights" in text


def test_a_reference_that_is_none_is_told(original, retrained):
    warnings = audited(retrained[0], original=original, retrained=[original, retrained[1]]).data["warnings"]
    (told,) = (text for text in warnings if "it is no reference" in text)
    assert told.startswith("retrained 1: it has the weights of the original")


def test_the_rows_of_a_few_are_not_compared_with_others(original):
    names = [f"person-{row // 50}" for row in range(len(TRAIN[1]))]
    columns = {"input": TRAIN[0], "labels": TRAIN[1], "person": names}
    parts = split(columns, ids=["person-0", "person-1"], id_column="person")
    test = {"input": TEST[0], "labels": TEST[1], "person": ["person-0"] * len(TEST[1])}
    with pytest.raises(InvalidRequest, match=r"expected different ids(?s:.*)matched=True"):
        audited(original, forget=parts.forget, retain=parts.retain, test=test)
    others = {key: test[key] for key in ("input", "labels")}
    found = audited(original, forget=parts.forget, retain=parts.retain, test=others)
    assert found.verdict["kind"] == "not_answerable"
    assert "belong to 2 ids alone" in found.verdict["sentence"]
    assert "with matched=True" in found.verdict["advice"]
    found = audited(original, forget=parts.forget, retain=parts.retain, test=test, matched=True)
    assert found.verdict["kind"] == "residual"
    mixed = {**test, "person": ["person-1", *test["person"][1:-2], "person-7", "person-8"]}
    with pytest.raises(InvalidRequest, match=rf"got 2 of {len(TEST[1])} rows with other ids \(places"):
        audited(original, forget=parts.forget, retain=parts.retain, test=mixed, matched=True)


def test_what_unlearning_warned_about_and_another_request_are_said(original):
    settings = {"samples": {"forget": 7}, "original_fingerprint": "11", "loss": "classification"}
    result = Unlearned(original, [], settings, reached_target=False, warnings=["the target was not reached"])
    warnings = " ".join(audited(result, original=original).data["warnings"])
    assert "unlearning: the target was not reached" in warnings
    assert "unlearn() was given 7; is this the request that was unlearned?" in warnings
    assert "original: its weights are not those" in warnings
