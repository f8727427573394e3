"""Requests in every form, and what does not fit the data."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from nabla_tau import InvalidRequest, split
from nabla_tau.sets import open_set
from nabla_tau.splitting import without_ids
from tests.conftest import require

INPUTS, TARGETS = torch.arange(20.0)[:, None], torch.arange(20) % 4


def forgotten(**request):
    return list(split((INPUTS, TARGETS), **request).forget.indices)


@pytest.mark.parametrize("rows", [[3, 1], np.array([3, 1]), torch.tensor([3, 1]), range(1, 4, 2), {1, 3}])
def test_rows(rows):
    assert forgotten(forget=rows) == [1, 3]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_mask(kind):
    assert forgotten(forget=kind([row in (1, 3) for row in range(20)])) == [1, 3]


def test_predicate_sees_each_sample():
    assert forgotten(forget=lambda sample: sample[0] > 17) == [18, 19]


def test_parts_are_the_whole_and_hold_the_samples():
    parts = split(TensorDataset(INPUTS, TARGETS), classes=[2])
    assert sorted([*parts.forget.indices, *parts.retain.indices]) == list(range(20))
    forget, retain = parts
    assert {int(target) for _, target in forget} == {2}
    assert {int(target) for _, target in retain} == {0, 1, 3}
    batch = next(iter(open_set(forget, 256).ordered()))
    assert batch[0].flatten().tolist() == [2, 6, 10, 14, 18]


def test_fraction_follows_the_seed():
    assert forgotten(fraction=0.25) == forgotten(fraction=0.25)
    assert forgotten(fraction=0.25) != forgotten(fraction=0.25, seed=1)
    assert len(forgotten(fraction=0.25)) == 5


def test_classes_of_multi_label_data_are_rows_that_carry_one():
    labels = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]])
    assert split((torch.zeros(4, 1), labels), classes=[1]).forget.indices == [1, 3]
    columns = {"x": torch.zeros(4), "labels": labels}
    assert split(columns, classes=[0]).forget.indices == [0, 1]


@pytest.mark.parametrize("count", [2, 3])
def test_classes_in_a_column_are_classes(count):
    targets = torch.arange(12)[:, None] % count
    parts = split((torch.zeros(12, 1), targets), classes=[0])
    assert parts.forget.indices == list(range(0, 12, count))


def test_hugging_face_columns():
    datasets = require("datasets")
    data = datasets.Dataset.from_dict(
        {"text": list("abcd"), "user": [7, 8, 7, 9], "label": [0, 1, 1, 0], "labels_of": [[0], [0, 2], [1], [2]]}
    )
    parts = split(data, ids=["7"], id_column="user")
    assert parts.forget.indices == [0, 2]
    assert parts.forget.ids == [7, 7]
    assert split(data, classes=[1]).forget.indices == [1, 2]
    assert split(data, forget=lambda row: row["text"] == "c").forget.indices == [2]
    many = data.remove_columns("label").rename_column("labels_of", "labels")
    assert split(many, classes=[2]).forget.indices == [1, 3]
    with pytest.raises(ValueError, match=r"'usr'.*'user'"):
        split(data, ids=[7], id_column="usr")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "exactly one"),
        ({"forget": [1], "classes": [1]}, "exactly one"),
        ({"forget": []}, "nothing to unlearn"),
        ({"forget": range(20)}, "nothing would be left"),
        ({"forget": [1, 1, 99, -1]}, r"2 outside \[0, 20\).*1 named more than once"),
        ({"forget": [True, False]}, "one entry for each of 20 rows"),
        ({"forget": ["a"]}, "row positions"),
        ({"classes": [9]}, r"\[9\]"),
        ({"fraction": 1.0}, r"\(0, 1\)"),
        ({"fraction": 0.0}, r"\(0, 1\)"),
        ({"ids": [1]}, "together"),
        ({"ids": "user-1", "id_column": "user"}, r"ids: .*write \['user-1'\]"),
        ({"ids": ["user-1"], "id_column": "user"}, "samples without column names: pass a dict"),
        ({"forget": 3}, r"forget: .*write \[3\]"),
        ({"forget": [0, 1] * 10}, "convert it to booleans"),
        ({"forget": [[1], [2, 3]]}, "inhomogeneous"),
        (
            {"forget": lambda sample: sample["age"]},
            r"test_splitting\.py:\d+, in <lambda>: TypeError.*on row 0, a tuple",
        ),
        ({"forget": lambda sample: None}, "neither True nor False"),
        ({"classes": 3}, r"classes: .*write \[3\]"),
        ({"classes": [99, "a"]}, r"\[99, 'a'\]"),
        ({"classes": [[1]]}, "unhashable"),
        ({"fraction": "half"}, "'half'"),
        ({"fraction": 0.5, "seed": 1.5}, r"seed: expected a whole number"),
    ],
)
def test_what_does_not_fit(request_, message):
    with pytest.raises(InvalidRequest, match=message):
        forgotten(**request_)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([1])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (DataLoader(TensorDataset(INPUTS)), r"loader\.dataset"),
        (None, "got NoneType"),
        (Stream(), "a stream cannot be read by row"),
        ((), "empty set"),
        ((INPUTS, TARGETS[:4]), r"\[4, 20\] rows"),
        ({"x": INPUTS, "labels": np.array(["a"] * 19 + [3], dtype=object)}, "in 'labels'"),
    ],
)
def test_what_cannot_be_split(train, message):
    with pytest.raises(InvalidRequest, match=message):
        split(train, forget=[1])


def test_problems_come_together():
    with pytest.raises(InvalidRequest) as caught:
        split(None, ids="user-1", fraction=2)
    assert [text.split(":")[0] for text in caught.value.problems] == ["split", "ids", "ids", "fraction", "train"]


USERS = {"x": INPUTS, "labels": TARGETS, "user_id": np.array([f"user-{row // 2}" for row in range(20)])}


def test_ids_may_be_text():
    parts = split(USERS, ids=["user-3"], id_column="user_id")
    assert parts.forget.indices == [6, 7]
    batch = next(iter(open_set(parts.forget, 4).ordered()))
    assert batch["user_id"] == ["user-3", "user-3"]


def test_unknown_ids_are_refused_or_skipped_and_said():
    ids = ["user-3", *(f"gone-{number}" for number in range(15))]
    with pytest.raises(InvalidRequest, match=r"15 of 16 that do not .* 5 more") as caught:
        split(USERS, ids=ids, id_column="user_id")
    assert caught.value.details == {"unknown_ids": sorted(ids[1:])}
    forget = split(USERS, ids=ids, id_column="user_id", skip_unknown=True).forget
    assert (forget.indices, forget.unknown_ids) == ([6, 7], sorted(ids[1:]))
    assert "15 of the ids" in forget.remark


def test_a_column_of_another_name_is_suggested():
    with pytest.raises(InvalidRequest, match="write 'user_id'"):
        split(USERS, ids=["user-3"], id_column="userid")


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_row_without_an_id_is_nobodys(missing):
    rows = [{"x": torch.zeros(1), "user": missing if row % 2 else f"user-{row}"} for row in range(6)]
    found = split(rows, ids=["user-2", "None", "nan"], id_column="user", skip_unknown=True)
    assert found.forget.indices == [2]
    with pytest.raises(InvalidRequest, match="expected ids, got 1 that are None or NaN"):
        split(rows, ids=["user-2", missing], id_column="user")


def test_a_column_of_text_may_have_gaps_as_pandas_reads_them():
    users = np.array(["user-1", float("nan"), "user-2", None], dtype=object)
    found = split({"x": torch.zeros(4, 1), "user": users}, ids=["user-2"], id_column="user")
    assert (found.forget.indices, found.retain.indices) == ([2], [0, 1, 3])
    with pytest.raises(InvalidRequest, match="got object values in 'user'"):
        split({"x": torch.zeros(2, 1), "user": np.array(["user-1", {}], dtype=object)}, ids=["a"], id_column="user")


def test_ids_that_became_decimals_are_told():
    rows = [{"x": torch.zeros(1), "user": value} for value in (17.0, 18.0, float("nan"))]
    with pytest.raises(InvalidRequest, match=r"holds decimals, as 17\.0 for 17: make them whole numbers"):
        split(rows, ids=[17], id_column="user")


def test_a_table_is_no_list_of_ids():
    class Table(dict):
        columns = ("user",)

    with pytest.raises(InvalidRequest, match="got a table: pass its column of ids"):
        split([{"user": 1}, {"user": 2}], ids=Table(), id_column="user")


class Renamed(Subset):
    def __getitem__(self, row):
        return {"x": self.dataset[self.indices[row]]["x"], "user": f"of-{row}"}

    def __getitems__(self, rows):
        return [self[row] for row in rows]


def test_ids_that_a_subset_of_the_users_own_gives_are_its_own():
    inner = [{"x": torch.zeros(1), "user": f"of-{5 - row}"} for row in range(6)]
    assert split(Renamed(inner, [0, 1, 2]), ids=["of-0"], id_column="user").forget.indices == [0]


def test_ids_may_be_tensors():
    rows = [{"x": torch.zeros(1), "user": torch.tensor(10 + row)} for row in range(4)]
    assert split(rows, ids=[11, 13], id_column="user").forget.indices == [1, 3]
    assert without_ids(rows, ["12"], "user").indices == [0, 1, 3]
