"""Bad input: one error with every problem, nothing changed; doubts are warned about with count and rows."""

import functools
import re
import threading
import warnings
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler, default_collate

from nabla_tau import InvalidRequest, UnlearningWarning, losses, methods, split, unlearn
from nabla_tau.outcome import measure
from nabla_tau.problem import Epoch
from nabla_tau.survey import content_hashes
from nabla_tau.unlearning import Request
from tests.conftest import clusters, fit, require


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


def test_ids_are_compared_with_those_of_the_same_column(sets):
    """Held-out rows that were chosen by the ids of something else."""
    inputs, targets = sets["retain"]
    size = len(targets)
    columns = {"input": inputs, "labels": targets, "user": torch.arange(size) // 2, "doc": 100 + torch.arange(size)}
    parts = split(columns, ids=[0, 1], id_column="user")
    held = {"input": inputs[:4] + 1, "labels": targets[:4], "user": torch.tensor([1, 700, 800, 900])}
    for docs, found in (([50, 51, 52, 53], True), ([0, 51, 52, 53], True)):
        by_doc = split({**held, "doc": torch.tensor(docs)}, ids=[53], id_column="doc").retain
        told = problems(model(), forget=parts.forget, retain=parts.retain, validation=by_doc)
        assert any("1 rows of validation with an id that is to be forgotten (places 0)" in one for one in told) is found


def test_weights_in_float16_are_not_trained(sets):
    half = model().half()
    assert "got float16 in weight, bias: call model.float()" in problems(half, **sets)[0]
    half.weight.requires_grad_(False)
    assert "got float16 in bias: call model.float()" in problems(half, **sets)[0]


def test_labels_on_padding_are_told():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(9, 9)

        def forward(self, input_ids, attention_mask):
            return self.words(input_ids)

    ids = torch.randint(9, (12, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    rows = lambda *where: {"input_ids": ids[slice(*where)], "attention_mask": mask[slice(*where)]}  # noqa: E731
    sets = {"forget": rows(0, 3), "retain": rows(3, 8), "validation": rows(8, 12)}
    asked = {"loss": losses.causal_language_model, "device": "cpu"}
    padded = {name: {**columns, "labels": columns["input_ids"]} for name, columns in sets.items()}
    for told, given in ((False, sets), (True, padded)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            unlearn(Language(), **given, **asked)
        texts = [str(one.message) for one in caught]
        said = (
            "forget: 1 of 3 samples have labels where attention_mask is 0, which count; -100 there leaves padding out"
        )
        assert any(said in text for text in texts) is told


def test_columns_that_came_as_lists_are_named(sets):
    class Named(nn.Linear):
        def forward(self, pixels):
            return super().forward(pixels)

    def loaded(inputs, targets):
        rows = [{"pixels": one, "labels": target} for one, target in zip(inputs, targets, strict=True)]
        stacked = lambda batch: {  # noqa: E731
            "pixels": [row["pixels"] for row in batch],
            "labels": torch.stack([row["labels"] for row in batch]),
        }
        return DataLoader(rows, 8, collate_fn=stacked)

    found = problems(Named(6, 3), **{name: loaded(*columns) for name, columns in sets.items()})
    assert any("'pixels' came as a list, no tensor; call set_format('torch')" in text for text in found)


def test_targets_out_of_range_name_their_rows(sets):
    inputs, targets = sets["retain"]
    targets = targets.clone()
    targets[7], targets[100] = 3, -1
    found = problems(model(), **{**sets, "retain": Subset(TensorDataset(inputs, targets), range(5, 120))})
    assert found == [
        "retain: expected targets that fit the model's 3 outputs, got 2 that do not (rows 7, 100): correct them, or "
        "give the model the outputs."
    ]


def test_yes_and_no_of_one_output_are_told_their_loss(sets):
    halves = {name: (inputs, targets % 2) for name, (inputs, targets) in sets.items()}
    found = problems(nn.Linear(6, 1), loss=losses.classification, **halves)
    assert len(found) == 3
    assert all("pass loss=losses.binary if 1 is yes and 0 is no." in text for text in found)


class Texts(nn.Module):
    """A causal model as Transformers has them, of twelve tokens and eight positions; token 0 pads."""

    config = SimpleNamespace(pad_token_id=0, max_position_embeddings=8)

    def __init__(self):
        super().__init__()
        self.embedding, self.positions, self.head = nn.Embedding(12, 8), nn.Embedding(8, 8), nn.Linear(8, 12)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.embedding(input_ids) + self.positions(torch.arange(input_ids.shape[1])))


def texts(length=6, **columns):
    ids = torch.randint(1, 12, (60, length), generator=torch.Generator().manual_seed(0))
    rows = {"input_ids": ids, **columns}
    cuts = {"forget": slice(0, 20), "retain": slice(20, 40), "validation": slice(40, 60)}
    return {name: {key: column[cut].clone() for key, column in rows.items()} for name, cut in cuts.items()}


def test_a_set_without_any_token_to_predict_is_refused():
    sets = texts(labels=torch.full((60, 6), -100))
    found = problems(Texts(), loss=losses.causal_language_model, **sets)
    assert sorted(text.partition(":")[0] for text in found) == ["forget", "retain", "validation"]
    assert all("expected rows with a token to predict, got 20 without any" in text for text in found)


def test_tokens_that_a_model_cannot_take_are_named_in_the_first_batch_too():
    sets = texts()
    sets["forget"]["input_ids"][3, 2] = 12
    (found,) = problems(Texts(), loss=losses.causal_language_model, **sets)
    assert "its embedding holds tokens in [0, 12), the batch has 1 to 12; encode the texts with" in found
    (found,) = problems(Texts(), loss=losses.causal_language_model, **texts(length=9))
    assert "it has 8 positions, the rows hold 9 tokens; cut them with max_length=8" in found


def test_a_column_that_is_no_labels_of_tokens_is_named():
    (found,) = problems(Texts(), loss=losses.causal_language_model, **texts(label=torch.arange(60) % 2))
    assert "column 'label' is read as labels; rename it if it is something else" in found


def test_padding_that_counts_is_told():
    sets = texts()
    for columns in sets.values():
        columns["input_ids"][:5, 4:] = 0
    told = [text for text in warned(Texts(), loss=losses.causal_language_model, **sets) if "padding token" in text]
    assert len(told) == 3
    assert told[0].startswith("forget: 5 of 20 samples have the padding token among their labels, which counts")
    for columns in sets.values():
        columns["attention_mask"] = columns["input_ids"].ne(0).long()
    assert not any("padding" in text for text in warned(Texts(), loss=losses.causal_language_model, **sets))


def test_what_a_tokenizer_returns_is_a_set():
    sets = {name: UserDict(columns) for name, columns in texts().items()}
    model = Texts()
    assert warned(model, loss=losses.causal_language_model, **sets) == warned(
        model, loss=losses.causal_language_model, **texts()
    )


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
        (lambda model, batch: losses.classification(model, batch).long(), "torch.int64 values"),
        (lambda model, batch: losses.classification(model, batch).detach(), "depend on trainable weights"),
        (lambda model, batch: fail(KeyError), "in fail: KeyError: 'row 33 is corrupt'"),
        (lambda model: 0, "takes 1 positional argument but 2 were given"),
        (nn.MSELoss(), "torch's MSELoss, which is given outputs and targets"),
        (functools.partial(nn.functional.cross_entropy, reduction="none"), "torch's cross_entropy"),
        (losses.masked_language_model, "call masked_language_model with its settings"),
        (losses.regression, "outputs and targets of the same shape"),
        (losses.token_classification, "labels (N, T)"),
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
    with pytest.raises(InvalidRequest) as caught:
        unlearn(model(), **sets, seed="3", batch_size=0, device="gpu", method="scrub", loss=3)
    found = caught.value.problems
    assert sorted(text.split(":")[0] for text in found) == ["batch_size", "device", "loss", "method", "seed"]
    assert any("expected one of cpu" in text for text in found)
    assert any("pass methods.scrub" in text for text in found)


@pytest.mark.parametrize(
    "argument", [{"seed": -1}, {"seed": 2**40}, {"seed": None}, {"batch_size": 1.5}, {"batch_size": 2**40}]
)
def test_numbers_out_of_range(sets, argument):
    (name,) = argument
    assert problems(model(), **sets, **argument)[0].startswith(f"{name}: expected a whole number in [")


class Rows(Dataset):
    """Samples of which one cannot be read."""

    def __init__(self, bad):
        self.bad, self.size = bad, 40

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        return self.bad() if row == 33 else (torch.randn(6), row % 3)


def fail(kind=OSError):
    raise kind("row 33 is corrupt")


@pytest.mark.parametrize(
    ("retain", "words"),
    [
        ((), "an empty set"),
        (
            DataLoader(TensorDataset(torch.zeros(3, 6), torch.zeros(3).long()), batch_size=9, drop_last=True),
            "one batch",
        ),
        (Rows(fail), "test_checks.py:"),
        (Rows(fail), "in fail: OSError: row 33 is corrupt (after 32 samples)"),
        (DataLoader(Rows(fail), batch_size=8, num_workers=1), "OSError: row 33 is corrupt (after 32 samples)"),
        (Rows(lambda: (torch.randn(5), 0)), "stack expects each tensor to be equal size"),
        (Rows(lambda: (None, 0)), "after 32 samples"),
        (DataLoader(Rows(lambda: 0), batch_size=8, collate_fn=lambda rows: None), "got NoneType"),
        (Subset(TensorDataset(torch.zeros(3, 6), torch.zeros(3).long()), [7]), "row positions in [0, 3)"),
        ((torch.zeros(9, 6), [str(place) for place in range(9)]), "<U1 values at place 1"),
        ((torch.zeros(9, 6), torch.zeros(9, dtype=torch.complex64)), "got 9 that do not"),
        ((torch.zeros(9, 5), torch.zeros(9).long()), "float32 of shape (9, 5)"),
    ],
)
def test_a_set_that_cannot_be_used(sets, retain, words):
    with torch.random.fork_rng():
        found = problems(model(), **{**sets, "retain": retain}, batch_size=16)
    assert any(words in text for text in found), found
    assert all(text.startswith(("retain: ", "model: ")) for text in found if words in text)


def test_a_forget_loader_whose_collate_drops_samples(sets):
    loader = DataLoader(TensorDataset(*sets["forget"]), batch_size=8, collate_fn=lambda rows: default_collate(rows[:5]))
    assert "30 samples in a pass, got 20" in problems(model(), **{**sets, "forget": loader})[0]


def test_a_sampler_that_may_read_the_other_set_is_doubted(task):
    original, _, retain, validation = task
    data = TensorDataset(*retain)
    loader = DataLoader(data, sampler=WeightedRandomSampler([1.0] * 170, 20), batch_size=64)
    texts = warned(original, forget=Subset(data, range(5)), retain=loader, validation=validation)
    assert any("was not checked" in text for text in texts)


class Columnwise(nn.Module):
    """Reads a dict batch by name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, features):
        return self.layer(features)


def as_columns(sets, **renamed):
    names = {"x": "features", "y": "labels", **renamed}
    return {name: {names["x"]: x, names["y"]: y} for name, (x, y) in sets.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sets: as_columns(sets, x="x"), "forward takes 'features', the batch has 'x', 'labels'"),
        (lambda sets: as_columns(sets, y="answer"), "under labels, label, label_ids, target, targets"),
        (
            lambda sets: as_columns({name: (x.double().numpy(), y) for name, (x, y) in sets.items()}),
            "inputs are float64, the model's weights float32",
        ),
        (
            lambda sets: as_columns({name: (x, y.tolist()) for name, (x, y) in sets.items()}, x="labels", y="features"),
            "of shape",
        ),
        (
            lambda sets: as_columns({name: ([str(row) for row in x], y) for name, (x, y) in sets.items()}),
            "some of its inputs are no tensors",
        ),
    ],
)
def test_a_batch_that_the_model_cannot_take(sets, change, words):
    assert words in problems(Columnwise(), **change(sets))[0]


def test_columns_of_text_that_the_model_does_not_read_are_left_alone(task):
    _, *parts = task
    sets = as_columns(dict(zip(("forget", "retain", "validation"), parts, strict=True)))
    sets["retain"]["user_id"] = np.array([f"user-{row}" for row in range(170)])
    warned(Columnwise(), **sets)


def spoilt(change):
    made = model()
    change(made)
    return made


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: nn.LazyLinear(3), "lazy"),
        (lambda: nn.Linear(6, 3, device="meta"), "meta device"),
        (lambda: nn.Linear(6, 3, dtype=torch.complex64), "complex"),
        (lambda: nn.DataParallel(model()), "model.module"),
        (lambda: torch.jit.script(model()), "ScriptModule"),
        (lambda: nn.Embedding(6, 3, sparse=True), "sparse=False"),
        (lambda: spoilt(lambda made: setattr(made, "lock", threading.Lock())), "can be copied"),
        (lambda: spoilt(lambda made: setattr(made, "forward", lambda x: None)), "got NoneType"),
        (lambda: spoilt(lambda made: setattr(made, "forward", lambda x: x.detach()[:, :3])), "depend on trainable"),
        (lambda: spoilt(lambda made: setattr(made, "forward", lambda x: x.mean(0, keepdim=True))), "got (1, 6) and"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_that_cannot_be_used(sets, bad, words):
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        unlearn(bad(), device="cpu", **sets)


@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")])
def test_a_call_that_would_silently_do_something_else(sets, region):
    made = model()
    with region():
        assert "gradients on and without autocast" in problems(made, **sets)[0]


def test_inputs_that_are_not_finite_are_told_with_their_rows(task):
    original, forget, (inputs, targets), validation = task
    inputs = inputs.clone()
    inputs[130, 2] = float("nan")
    with pytest.warns(UnlearningWarning, match=r"retain: 1 of 170 .* \(rows 130\)"), pytest.raises(ArithmeticError):
        unlearn(original, forget=forget, retain=(inputs, targets), validation=validation, batch_size=64, device="cpu")


def test_ids_that_were_skipped_are_in_the_result(task):
    _, _, retain, validation = task
    columns = {**as_columns({"all": retain})["all"], "user": torch.arange(170) // 2}
    parts = split(columns, ids=[3, 999], id_column="user", skip_unknown=True)
    held_out = as_columns({"all": validation})["all"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unlearned = unlearn(Columnwise(), forget=parts.forget, retain=parts.retain, validation=held_out, device="cpu")
    assert unlearned.settings["skipped_ids"] == 1
    assert unlearned.warnings[0].startswith("forget: 1 of the ids")


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


def test_rows_that_repeat_are_counted(task):
    original, forget, retain, validation = task
    again = tuple(torch.cat([column, column[[3, 3]]]) for column in forget)
    texts = warned(original, forget=again, retain=retain, validation=validation)
    assert any(
        text.startswith("forget: 2 of 32 rows repeat the content of rows before them (rows 30, 31)") for text in texts
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


def test_tokens_that_the_embedding_does_not_hold_are_named():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 2)

        def get_input_embeddings(self):
            return self.embedding

        def forward(self, input_ids):
            return self.embedding(input_ids).sum(1)

    def rows(count):
        return {"input_ids": torch.randint(50, (count, 3)), "labels": torch.arange(count) % 2}

    sets = {"forget": rows(8), "retain": rows(40), "validation": rows(30)}
    sets["retain"]["input_ids"][33, 1] = 50  # beyond the first batch
    (found,) = problems(Bag(), **sets, batch_size=16)
    assert found.startswith("retain: expected token ids in [0, 50), which the model's embedding holds, got others in 1")
    assert "(rows 33)" in found


def test_what_stands_beside_a_text_is_content_too():
    class Captioned(nn.Module):
        def forward(self, input_ids, attention_mask, pixel_values, token_type_ids):
            raise NotImplementedError

    def hashes(pixels, mask):
        texts = {"input_ids": torch.ones(1, 4).long(), "attention_mask": mask, "token_type_ids": mask}
        return list(content_hashes(Captioned(), {**texts, "pixel_values": pixels}))

    image, whole, padded = torch.rand(1, 3, 2, 2), torch.tensor([[1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 0]])
    assert hashes(image, whole) == hashes(image.clone(), whole)
    assert hashes(image, whole) != hashes(image + 1, whole)
    assert hashes(image, whole) != hashes(image, padded)


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
def test_a_loss_of_tokens_by_another_name_is_served_as_what_it_reads():
    loss = losses.TokenLoss("my_tokens", shifted=True)
    sets = {name: (tokens := torch.randint(9, (8, 4)), tokens) for name in ("forget", "retain", "validation")}
    method = functools.partial(methods.scrub, epochs=1)
    text = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    assert unlearn(text, **sets, loss=loss, method=method, device="cpu").settings["loss"] == "my_tokens"


def test_what_gave_no_push_is_told_by_the_first_target(task):
    def rest(problem):
        yield Epoch(target_loss=0.1, ascent_weight=0.0)

    _, forget, retain, validation = task
    torch.manual_seed(0)
    with pytest.warns(UnlearningWarning) as told:
        unlearn(nn.Linear(6, 3), forget=forget, retain=retain, validation=validation, method=rest, device="cpu")
    assert any("not below that of unseen data, 0.1: the target gave no push" in str(one.message) for one in told)


def test_forget_set_that_costs_more_than_unseen_data(task):
    original, _, retain, validation = task
    wrong = validation[0][:40] + 5, (original(validation[0][:40] + 5).argmin(1))
    texts = warned(original, forget=wrong, retain=retain, validation=clusters(100, 7))
    assert "gave no push" in texts[0]
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


def test_a_loss_that_changes_its_shape_later():
    calls = []

    def loss(model, batch):
        calls.append(0)
        values = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return values.mean() if len(calls) > 8 else values

    rows = torch.randn(12, 4), torch.arange(12) % 2
    parts = {name: tuple(c[cut] for c in rows) for name, cut in zip(
        ("forget", "retain", "validation"), (slice(0, 4), slice(4, 8), slice(8, 12)), strict=True)}  # fmt: skip
    with pytest.raises(InvalidRequest, match=r"shape \(4,\), got \(\) from loss on a later batch"):
        unlearn(nn.Linear(4, 2), **parts, loss=loss, device="cpu")


def test_as_many_rows_of_the_retain_set_are_measured_as_of_unseen_data(task):
    original, forget, retain, validation = task
    rows = []

    def counted(model, batch):
        rows.append(len(batch[1]))
        return losses.classification(model, batch)

    retain = DataLoader(TensorDataset(*retain), batch_size=4)
    few = tuple(column[:40] for column in validation)
    request = Request(original, forget, retain, few, loss=counted, device="cpu")
    with request.prepared() as problem:
        rows.clear()
        measure(problem)
    assert rows[:11] == [4] * 10 + [40]


def test_probabilities_in_place_of_logits_are_told(task):
    original, forget, retain, validation = task
    sets = {"forget": forget, "retain": retain, "validation": validation}
    assert not any(text.startswith("model: its outputs") for text in warned(original, **sets))
    (told,) = (text for text in warned(nn.Sequential(original, nn.Softmax(1)), **sets) if text.startswith("model: its"))
    assert "leave the sigmoid or softmax at its end out" in told


def test_a_batch_size_that_loaders_do_not_heed_is_told(task):
    original, _, retain, validation = task

    def told(batch_size):
        loaders = {"retain": DataLoader(TensorDataset(*retain), batch_size=batch_size)}
        rest = {"forget": tuple(column[:20] for column in validation), "validation": validation}
        return [text for text in warned(original, **rest, **loaders) if text.startswith("batch_size")]

    assert told(32)[0].startswith(
        "batch_size: 64 has no effect on DataLoaders, whose own batches are kept: retain (32)"
    )
    assert not told(64)


@pytest.mark.filterwarnings("ignore:forget. it cost")
def test_a_target_that_was_not_reached_is_told_with_a_way_on(sets):
    def rest(problem):
        problem.settings["learning_rate_reason"] = "for a reason"
        yield Epoch()

    def advice(batch_size):
        with pytest.warns(UnlearningWarning, match="was not reached") as told:
            unlearn(model(), **sets, method=rest, batch_size=batch_size, device="cpu")
        return next(str(one.message) for one in told if "was not reached" in str(one.message))

    assert "The learning rate is low: for a reason. All of it was one batch: a smaller batch_size" in advice(64)
    assert "Rows to keep that teach the same hold it up" in advice(4)


@pytest.mark.filterwarnings("ignore:the target was not reached")
def test_a_difference_that_is_no_more_than_chance_is_told():
    rows = clusters(300, 0)
    model = fit(nn.Linear(6, 3), *clusters(300, 1))  # it saw none of them
    cuts = (slice(200, 300), slice(100, 200), slice(0, 100))  # the first costs less, by less than two standard errors
    parts = [tuple(column[cut] for column in rows) for cut in cuts]
    sets = dict(zip(("forget", "retain", "validation"), parts, strict=True))

    def little(problem):
        problem.steps += 1
        yield Epoch(ascent_weight=0.1)

    with pytest.warns(UnlearningWarning, match="no more apart than by chance: there was little to forget"):
        unlearn(model, **sets, method=little, device="cpu")
    known = fit(nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 3)), *parts[0])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        unlearn(known, **sets, method=little, device="cpu")
    assert not any("by chance" in str(one.message) for one in told)


def test_overshoot_and_damage_are_said():
    def push(problem):
        with torch.no_grad():
            for parameter in problem.model.parameters():
                parameter.mul_(-9)
        yield Epoch()

    rows = clusters(60, 0)
    model = fit(nn.Linear(6, 3), *rows)
    parts = {name: tuple(c[cut] for c in rows) for name, cut in (("forget", slice(0, 20)), ("retain", slice(20, 60)))}
    with pytest.warns(UnlearningWarning) as told:
        unlearned = unlearn(model, **parts, validation=clusters(50, 1), method=push, device="cpu")
    texts = " ".join(str(one.message) for one in told)
    assert "unseen data costs" in texts
    assert "the retain set costs" in texts
    assert unlearned.settings["damaged"]
    assert "model DAMAGED" in str(unlearned)


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
@pytest.mark.parametrize(("ascent_weight", "overshot"), [(None, True), (0.1, True), (0.0, False)])
def test_far_past_the_target_if_it_was_pushed(ascent_weight, overshot):
    def push(problem):
        problem.model.weight.data[:, 0] = 0  # the feature of the forgotten row alone
        problem.model.weight.data[0, 0] = 9
        yield Epoch(ascent_weight=ascent_weight)

    x, y = torch.eye(30), torch.arange(30) % 3
    model = nn.Linear(30, 3, bias=False)
    model.weight.data = 5 * nn.functional.one_hot(y, 3).T.float()
    model.weight.data[:, 20:] = 0
    parts = {"forget": (x[1:2], y[1:2]), "retain": (x[2:20], y[2:20]), "validation": (x[20:], y[20:])}
    model.weight.data = model.weight.data[:, [1, 0, *range(2, 30)]]  # row 1 has feature 0
    parts["forget"] = (x[:1], y[1:2])
    unlearned = unlearn(model, **parts, method=push, device="cpu")
    costs, unseen = (unlearned.settings[f"{name}_loss_after"] for name in ("forget", "target"))
    said = f"went past its target: it costs {costs:.4g}, unseen data {unseen:.4g}. "
    assert any(said in text for text in unlearned.warnings) == overshot
    assert unlearned.settings["overshot"] == overshot
    assert not unlearned.settings["damaged"]


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")
def test_what_was_past_the_target_from_the_start_did_not_go_past_it():
    def nothing(problem):
        yield Epoch()

    rows = lambda *costs: (torch.tensor(costs)[:, None].sqrt(), torch.zeros(len(costs), 1))  # noqa: E731
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1)  # f(x) = x, so a row costs its square
    sets = {"forget": rows(9.0, 9.5), "retain": rows(0.2, 0.3), "validation": rows(1.0, 1.5)}
    unlearned = unlearn(model, **sets, method=nothing, loss=losses.regression, device="cpu")
    assert not unlearned.settings["overshot"]
    assert ["gave no push" in warning for warning in unlearned.warnings] == [True]
