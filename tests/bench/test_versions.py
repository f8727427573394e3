"""Versions of the code that give the same numbers, and originals that do not."""

import copy
import json

import pytest
from typer.testing import CliRunner

from nabla_tau.bench.reading import read_groups
from nabla_tau.bench.versions import SAME, Versions, compared, read_versions, write_same
from nabla_tau.cli import app
from nabla_tau.errors import InvalidRequest, Problems
from tests.bench.records import record, write


def cell(method, seed, *, code, method_code=None, number=0.5, original="5c"):
    """A cell as far as versions are concerned."""
    unlearning = [{"settings": {"original_fingerprint": original}}]
    found = record(method, seed, forget="class")
    return {
        **found,
        "code": code,
        "method_code": method_code,
        "steps": 3,
        "audit": {
            **found["audit"],
            "number": number,
            "fingerprint": original if method == "original" else "9f",
        },
        **({} if method == "original" else {"unlearning": unlearning}),
    }


OLD = cell("original", 0, code="0a"), cell("ssd", 0, code="0a", method_code="7f")
NEW = cell("original", 0, code="1b"), cell("ssd", 0, code="1b", method_code="8e")


def test_cells_of_versions_that_were_shown_to_be_the_same_stand_in_one_group(tmp_path):
    older, newer = write(tmp_path / "older", *OLD), write(tmp_path / "newer", *NEW)
    more = cell("original", 1, code="1b"), cell("ssd", 1, code="1b", method_code="8e")
    results = write(tmp_path / "results", *OLD, *more)
    assert len(read_groups(results)) == 2  # apart, as long as nothing was shown
    ran = CliRunner().invoke(app, ["bench", "same", str(older), str(newer), "--results", str(results)])
    assert ran.exit_code == 0, ran.output
    assert "2 pairs of other versions give the same numbers" in ran.output
    (group,) = read_groups(results)
    assert (group.code, sorted(group.cells["ssd"])) == ("1b", [0, 1])
    assert read_groups(results / "quick" / "cifar10") == [group]  # a part of the results is read as they are
    shown = {entry["method"]: entry["cells"] for entry in json.loads((results / SAME).read_text())["same"]}
    assert shown == {name: [f"quick/cifar10/seed-0/class/{name}.json"] for name in ("original", "ssd")}


def test_another_wording_is_no_other_result(tmp_path):
    reworded, judged = copy.deepcopy(NEW[0]), copy.deepcopy(NEW[0])
    reworded["audit"]["verdict"]["sentence"] = "Put otherwise."
    judged["audit"]["verdict"]["kind"] = "another"
    older = write(tmp_path / "older", OLD[0])
    assert compared(older, write(tmp_path / "reworded", reworded))[1] == []
    assert compared(older, write(tmp_path / "judged", judged))[1] == [
        "quick/cifar10/seed-0/class/original.json: other numbers"
    ]


@pytest.mark.parametrize("change", [{"audit": {"number": 0.5000001}}, {"steps": 4}, {"key": "other data"}])
def test_a_single_other_number_shows_nothing(tmp_path, change):
    unlike = {**copy.deepcopy(NEW[1]), **change}
    older, newer = write(tmp_path / "older", *OLD), write(tmp_path / "newer", NEW[0], unlike)
    ran = CliRunner().invoke(app, ["bench", "same", str(older), str(newer), "--results", str(tmp_path / "results")])
    assert ran.exit_code == 1
    assert "quick/cifar10/seed-0/class/ssd.json: other numbers" in ran.output
    versions = read_versions(tmp_path / "results", Problems())
    assert (dict(versions.measuring), dict(versions.methods)) == ({"cifar10": {"0a": "1b", "1b": "1b"}}, {})


@pytest.mark.parametrize("place", [0, 1])
def test_a_reference_or_an_unchanged_method_that_differs_spoils_the_task(tmp_path, place):
    newer = [copy.deepcopy(one) for one in (*NEW, cell("retrained-1", 0, code="1b"))]
    newer[1]["method_code"] = OLD[1]["method_code"]
    newer[place]["audit"]["number"] = 0.6
    older = write(tmp_path / "older", *OLD, cell("retrained-1", 0, code="0a"))
    entries, others = compared(older, write(tmp_path / "newer", *newer))
    assert (entries, len(others)) == ([], 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "failed"}, "not finished in both"),
        ({"dirty": True}, "not committed"),
        ({"processor": "other"}, "other machines"),
    ],
)
def test_only_finished_cells_of_one_machine_and_committed_code_show_anything(tmp_path, change, why):
    older = write(tmp_path / "older", *OLD)
    entries, others = compared(older, write(tmp_path / "newer", NEW[0], {**NEW[1], **change}))
    assert [entry["method"] for entry in entries] == ["original"]
    assert why in others[0]


def test_a_method_that_does_not_apply_spoils_nothing(tmp_path):
    refused = [{**one, "status": "not applicable"} for one in (OLD[1], {**NEW[1], "method_code": "7f"})]
    older, newer = write(tmp_path / "older", OLD[0], refused[0]), write(tmp_path / "newer", NEW[0], refused[1])
    entries, others = compared(older, newer)
    assert ([entry["method"] for entry in entries], others) == (["original"], [])


def test_an_entry_the_other_way_round_is_refused(tmp_path):
    older, newer = write(tmp_path / "older", *OLD), write(tmp_path / "newer", *NEW)
    write_same(compared(older, newer)[0], tmp_path / SAME)
    with pytest.raises(InvalidRequest, match="expected the older version first"):
        write_same(compared(newer, older)[0], tmp_path / SAME)
    write_same(compared(older, older)[0], tmp_path / "elsewhere" / SAME)
    assert not (tmp_path / "elsewhere").exists()


def test_what_was_shown_on_one_task_says_nothing_about_another(tmp_path):
    entries, _ = compared(write(tmp_path / "older", *OLD), write(tmp_path / "newer", *NEW))
    (tmp_path / SAME).write_text(json.dumps({"same": entries}))
    versions = read_versions(tmp_path, Problems())
    elsewhere = copy.deepcopy(OLD[1])
    elsewhere["cell"]["task"] = "go_emotions"
    found = versions.newest(elsewhere)
    assert (found["code"], found["method_code"]) == ("0a", "7f")
    assert versions.newest(OLD[1])["method_code"] == "8e"


def test_versions_that_were_set_against_one_older_stand_together(tmp_path):
    for code in ("8e", "9d"):
        newer = write(tmp_path / code, OLD[0], cell("ssd", 0, code="0a", method_code=code))
        write_same(compared(write(tmp_path / "older", *OLD), newer)[0], tmp_path / SAME)
    versions = read_versions(tmp_path, Problems())
    codes = {versions.newest(cell("ssd", 0, code="0a", method_code=code))["method_code"] for code in ("7f", "8e", "9d")}
    assert codes == {"9d"}


def test_one_column_of_the_study_shows_its_code_for_all_of_them(tmp_path):
    folders = [tmp_path / name for name in ("older", "newer")]
    for folder, code in zip(folders, ("7f", "8e"), strict=True):
        write(folder, cell("original", 0, code="0a"), cell("alpha-0.25", 0, code="0a", method_code=code))
    write_same(compared(*folders)[0], tmp_path / SAME)
    versions = read_versions(tmp_path, Problems())
    assert versions.newest(cell("alpha-0.5", 0, code="0a", method_code="7f"))["method_code"] == "8e"
    assert versions.newest(cell("ssd", 0, code="0a", method_code="7f"))["method_code"] == "7f"


def test_code_that_differs_with_one_of_its_settings_was_not_shown_to_be_the_same(tmp_path):
    folders = [tmp_path / name for name in ("older", "newer")]
    for folder, code, number in zip(folders, ("7f", "8e"), (0.5, 0.6), strict=True):
        other = cell("alpha-0.5", 0, code="0a", method_code=code, number=number)
        write(folder, cell("original", 0, code="0a"), cell("alpha-0.25", 0, code="0a", method_code=code), other)
    same, others = compared(*folders)
    assert same == []
    assert "alpha-0.5" in others[0]


ODD = {"task": ["cifar10"], "method": 3, **{key: {"code": 1, "method_code": {}} for key in ("older", "newer")}}


@pytest.mark.parametrize("content", [{"same": [{"task": "cifar10"}]}, {"same": 3}, [1], {"same": [ODD]}])
def test_a_file_of_something_else_is_named(tmp_path, content):
    (tmp_path / SAME).write_text(json.dumps(content))
    problems = Problems()
    assert read_versions(tmp_path, problems) == Versions()
    assert "expected what `nabla-tau bench same` writes in " in problems[0]


def test_methods_of_one_seed_on_two_originals_are_refused(tmp_path):
    results = write(tmp_path, OLD[0], cell("ssd", 0, code="0a", original="77"))
    with pytest.raises(
        InvalidRequest, match=r"expected one original model of cifar10, class, seed 0 at quick, got .* 2"
    ):
        read_groups(results)


def test_what_a_method_shows_says_nothing_about_a_search_of_its_settings(tmp_path):
    older, newer = write(tmp_path / "older", *OLD), write(tmp_path / "newer", *NEW)
    write_same(compared(older, newer)[0], tmp_path / SAME)
    versions = read_versions(tmp_path, Problems())
    searched = {**OLD[1], "cell": {**OLD[1]["cell"], "method": "ssd+tuned"}}
    assert [versions.newest(one)["method_code"] for one in (OLD[1], searched)] == ["8e", "7f"]


def test_cells_without_numbers_are_in_no_version(tmp_path):
    refused = {**NEW[1], "cell": {**NEW[1]["cell"], "seed": 1}, "status": "not applicable", "reason": ["no"]}
    refused["code"] = OLD[1]["code"]
    (group,) = read_groups(write(tmp_path / "results", *OLD, refused))
    assert sorted(group.cells["ssd"]) == [0, 1]
