"""Bad input: one error with every problem, nothing changed; doubts are warned about with count and rows."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from nabla_tau import InvalidRequest, UnlearningWarning, losses, split, unlearn
from tests.conftest import clusters, require


def problems(model, **arguments):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InvalidRequest) as caught:
        unlearn(model, device="cpu", **arguments)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) or value.isnan().any()
    return caught.value.problems


def warned(model, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unlearned = unlearn(model, device="cpu", batch_size=64, **arguments)
    texts = [str(w.message) for w in caught if issubclass(w.category, UnlearningWarning)]
    assert texts == unlearned.warnings
    return texts


@pytest.fixture
def sets(task):
    return dict(zip(("forget", "retain", "validation"), task[1:], strict=True))


def model():
    return nn.Linear(6, 3)


def test_all_problems_come_together(sets):
    bad = model().requires_grad_(False)
    bad.weight.data[0, 0] = float("nan")
    found = problems(bad, **{**sets, "forget": (torch.zeros(0, 6), torch.zeros(0).long()), "retain": 3})
    assert len(found) == 4
    for text, words in zip(found, ["trainable", "NaN or infinity in weight", "empty", "map-style"], strict=True):
        assert words in text


def test_no_module(sets):
    with pytest.raises(InvalidRequest, match=r"torch\.nn\.Module, got str"):
        unlearn("model", **sets)


def test_the_same_dataset_twice(sets):
    data = TensorDataset(*sets["forget"])
    assert "the same dataset twice" in problems(model(), **{**sets, "forget": data, "validation": data})[0]
    assert "the same dataset twice" in problems(model(), **{**sets, "validation": sets["forget"]})[0]
    loader = DataLoader(data, shuffle=True)
    assert "the same dataset twice" in problems(model(), **{**sets, "forget": data, "retain": loader})[0]


def test_the_same_rows_in_two_sets(sets):
    data = TensorDataset(*sets["retain"])
    found = problems(model(), **{**sets, "forget": Subset(data, [1, 2, 3]), "retain": Subset(data, [2, 3, 4])})
    assert "2 rows in both (rows 2, 3)" in found[0]


def test_the_same_ids_in_two_sets(sets):
    inputs, targets = sets["retain"]
    columns = {"input": inputs, "labels": targets, "user": torch.arange(len(targets)) // 2}
    parts = split(columns, ids=[0, 1], id_column="user")
    held_out = {"input": sets["validation"][0][:3], "labels": targets[:3], "user": torch.tensor([500, 1, 600])}
    found = problems(model(), forget=parts.forget, retain=parts.retain, validation=held_out)
    assert "1 rows of validation with an id that is to be forgotten (places 1)" in found[0]


def test_targets_out_of_range_name_their_rows(sets):
    inputs, targets = sets["retain"]
    targets = targets.clone()
    targets[7], targets[100] = 3, -1
    found = problems(model(), **{**sets, "retain": Subset(TensorDataset(inputs, targets), range(5, 120))})
    assert found == [
        "retain: expected targets that fit the model's 3 outputs, got 2 that do not (rows 7, 100): correct them, or "
        "give the model the outputs."
    ]


def test_batches_of_different_structure(sets):
    inputs, targets = sets["validation"]
    found = problems(model(), **{**sets, "validation": (inputs.double(), targets)})
    assert "one structure" in found[0]
    assert "float64" in found[0]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda model, batch: losses.classification(model, batch).mean(), "one number per sample, shape (30,), got ()"),
        (lambda model, batch: 3.0, "got float"),
        (lambda model, batch: losses.classification(model, batch) / 0, "NaN or infinity"),
    ],
)
def test_a_loss_of_another_kind(sets, loss, words):
    assert words in problems(model(), **sets, loss=loss)[0]


def test_a_doubtful_task_names_the_choices(sets):
    found = problems(nn.Linear(6, 1), **{name: (x, y.clamp(max=1).float()) for name, (x, y) in sets.items()})
    assert "losses.binary, losses.regression" in found[0]


def test_a_forget_loader_that_drops_samples(sets):
    loader = DataLoader(TensorDataset(*sets["forget"]), batch_size=8, drop_last=True)
    assert "drop_last=False" in problems(model(), **{**sets, "forget": loader})[0]


def test_wrong_arguments(sets):
    found = problems(model(), **sets, batch_size=0, method="scrub", loss=3)
    assert [text.split(":")[0] for text in found] == ["batch_size", "method", "loss"]
    assert "methods.nabla_tau, methods.nabla_tau_published" in found[1]


def test_a_model_that_keeps_a_graph_cannot_be_copied(sets):
    bad = model()
    bad.kept = bad(torch.zeros(1, 6))
    assert "detach" in problems(bad, **sets)[0]


def test_equal_content_is_counted_with_its_rows(task):
    original, forget, retain, validation = task
    copied = tuple(torch.cat([column, extra[[4, 9]]]) for column, extra in zip(retain, forget, strict=True))
    texts = warned(original, forget=forget, retain=copied, validation=validation)
    assert (
        "2 rows of retain have the same content as rows of forget (retain rows 170, 171; forget rows 4, 9)" in texts[0]
    )


def test_padding_does_not_hide_a_copy():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 2)

        def forward(self, input_ids, attention_mask):
            return (self.embedding(input_ids) * attention_mask[..., None]).sum(1)

    def rows(ids, length):
        padded = torch.zeros(len(ids), length, dtype=torch.long)
        padded[:, :3] = ids
        return {"input_ids": padded, "attention_mask": (padded > 0).long(), "labels": torch.arange(len(ids)) % 2}

    ids = torch.randperm(48)[:48].reshape(16, 3) + 1
    sets = {"forget": rows(ids[:4], 3), "retain": rows(ids[[9, 3, 10, 11]], 7), "validation": rows(ids[12:], 5)}
    assert any("(retain rows 1; forget rows 3)" in text for text in warned(Bag(), **sets))


def test_nothing_to_push(task):
    _, forget, retain, validation = task
    texts = warned(model(), forget=validation, retain=retain, validation=forget)
    assert "gives no push" in texts[0] or "not reached" in texts[-1]


def test_forget_set_that_costs_more_than_unseen_data(task):
    original, _, retain, validation = task
    wrong = validation[0][:40] + 5, (original(validation[0][:40] + 5).argmin(1))
    texts = warned(original, forget=wrong, retain=retain, validation=clusters(100, 7))
    assert "gives no push" in texts[0]
    assert "does not show that nothing is remembered" in texts[0]


def test_samples_without_labels_take_no_part_and_are_reported():
    transformers = require("transformers")
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    language_model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(1, 20, (30, 6), generator=torch.Generator().manual_seed(0))

    def rows(part):
        return {"input_ids": ids[part], "labels": ids[part].clone()}

    sets = {"forget": rows(slice(0, 6)), "retain": rows(slice(6, 20)), "validation": rows(slice(20, 30))}
    sets["forget"]["labels"][[2, 5]] = -100
    without = {**sets, "forget": {key: value[[0, 1, 3, 4]] for key, value in sets["forget"].items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [unlearn(language_model, **given, device="cpu") for given in (sets, without)]
    assert "2 of 6 samples have no labelled token and take no part (rows 2, 5)" in results[0].warnings[0]
    before = [result.settings["forget_loss_before"] for result in results]
    assert before[0] == pytest.approx(before[1], rel=1e-6)
