"""Gap, comparison, tables and plots from cells."""

import copy
import json

import numpy as np
import pytest

from nabla_tau.bench.alpha import STUDY
from nabla_tau.bench.cells import RETRAINED
from nabla_tau.bench.comparing import LOSS, MARGIN, TIE, WIN, compare, mean_of
from nabla_tau.bench.figures import plot_alpha_rho, plot_gaps, rule_in_rows
from nabla_tau.bench.gap import ATTACKS, COMPONENTS, distances, gap
from nabla_tau.bench.reading import FLOOR, grouped, read_groups
from nabla_tau.bench.shares import plot_shares
from nabla_tau.bench.tables import glance_table, tables
from nabla_tau.errors import InvalidRequest
from tests.bench.records import record, write
from tests.conftest import REPOSITORY


@pytest.fixture
def records():
    shifts = {"original": 0.3, "retrained-1": -0.01, "retrained-2": 0.01, "nabla_tau": 0.05, "ssd": 0.2}
    noise = np.random.default_rng(0).normal(0, 0.002, (3, len(shifts)))
    return [
        record(method, seed, shift + noise[seed, place])
        for seed in range(3)
        for place, (method, shift) in enumerate(shifts.items())
    ]


def test_gap_by_hand():
    references = [record("retrained-1", 0, -0.02), record("retrained-2", 0, 0.04)]  # mean 61
    ours = record("nabla_tau", 0, 0.05)  # 65 everywhere, JS 5
    found = distances(ours, references)
    assert set(found) == {component.name for component in COMPONENTS} >= set(ATTACKS)
    assert found.pop("JS") == pytest.approx(5)
    assert set(np.round(list(found.values()), 9)) == {4}
    assert gap(ours, references) == pytest.approx((6 * 4 + 5) / 7)
    assert distances(references[0], references)["test"] == pytest.approx(6)  # the floor, one against the other


def test_student_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    means = [mean_of(generator.normal(3, 2, 5).tolist()) for _ in range(2000)]
    assert abs(np.mean([one.low < 3 < one.high for one in means]) - 0.95) < 0.02


def test_a_comparison_is_paired_and_antisymmetric():
    generator = np.random.default_rng(2)
    hard = generator.normal(20, 10, 5)  # some seeds are hard for both
    ours, theirs = dict(enumerate(hard)), dict(enumerate(hard + 2 + generator.normal(0, 0.1, 5)))
    assert compare(ours, theirs).outcome == WIN
    assert compare(theirs, ours).outcome == LOSS
    assert compare(ours, {seed: value + MARGIN / 2 for seed, value in ours.items()}).outcome == TIE
    assert compare(ours, {9: 1.0}) is None


def test_no_mean_stands_without_its_interval(records):
    lines = tables(grouped(records)).splitlines()
    for line in [line for line in lines if line.startswith(("| nabla", "| original", "| retrained"))][:3]:
        cells = [cell.strip() for cell in line.strip("|").split("|")][2:]
        assert all("[" in cell and "]" in cell for cell in cells), line
    alone = tables(grouped([one for one in records if one["cell"]["seed"] == 0]))
    assert "(1 seed)" in alone
    assert "[" not in alone


def test_tables_show_references_wins_and_headroom(records):
    text = tables(grouped(records))
    assert "| original | 3 | 90" in text
    assert "| retrained | 3 | 60" in text
    assert "| ssd | 1 | 0 | 0 | 0 | 7 | 0 | 0 | 0 |" in text  # nabla_tau is nearer by gap and by every component
    assert "invalid" not in text
    for one in records:
        one["audit"]["paper_attacks"]["losses"]["accuracy"] = 0.52
    assert "The scale is invalid here" in tables(grouped(records))
    for one in records:
        one["cell"]["scale"] = "full"
    assert "Little to forget" in tables(grouped(records))


def test_a_seed_without_both_retrained_models_has_no_gap(records):
    group = grouped([one for one in records if (one["cell"]["method"], one["cell"]["seed"]) != ("retrained-2", 1)])[0]
    assert set(group.gaps("ssd")) == set(group.gaps(FLOOR)) == {0, 2}


def test_a_method_in_several_versions_is_refused(records, tmp_path):
    for one in records:
        one["method_code"] = "0a"
    records[-1]["method_code"] = "1b"
    write(tmp_path, *records)
    with pytest.raises(InvalidRequest, match=r"expected one version of \w+ on \w+ at quick, got 2 \(0a, 1b\)"):
        read_groups(tmp_path)


def test_a_cell_that_is_there_twice_is_refused(records, tmp_path):
    write(tmp_path / "before", *records)
    write(tmp_path / "after", records[-1])
    with pytest.raises(InvalidRequest, match=r"1 problem .*\n.*expected each cell once, got .*after.* and .*before"):
        read_groups(tmp_path)


@pytest.mark.parametrize("change", [{"device": "a GPU"}, {"key": "other data"}, {"threads": 2}])
def test_seeds_of_other_devices_or_data_are_not_averaged_over(records, tmp_path, change):
    for one in records:
        one.update(change if one["cell"]["seed"] == 1 else {})
    write(tmp_path, *records)
    with pytest.raises(InvalidRequest, match="expected cells of cifar10 at quick from one kind of device"):
        read_groups(tmp_path)


def test_a_baseline_without_all_seeds_is_named_and_never_the_best(records):
    records = [one for one in records if (one["cell"]["method"], one["cell"]["seed"]) != ("ssd", 2)]
    more = [record("scrub", seed, 0.25) for seed in range(3)]
    text = tables(grouped([*records, *more]))
    assert "Not measured on every seed of nabla_tau, so never the best baseline: ssd\n" in text
    assert "(scrub)" in text
    assert "| ssd | 2 |" in text


def test_the_first_table_stands_on_the_seeds_of_the_method(records):
    more = [record(method, 3, 0.9) for method in ("original", "retrained-1")] + [record("retrained-2", 3, -0.9)]
    assert glance_table(grouped(records)) == glance_table(grouped([*records, *more]))


def test_the_first_table_says_where_a_column_has_fewer_seeds(records):
    fewer = [one for one in records if (one["cell"]["method"], one["cell"]["seed"]) != ("original", 2)]
    assert any(", 2 seeds |" in line for line in glance_table(grouped(fewer)))
    assert not any("seeds |" in line for line in glance_table(grouped(records))[3:])


def test_other_code_and_other_scales_come_apart(records):
    other = copy.deepcopy(records)
    for one in other:
        one["code"] = "1b"
    full = copy.deepcopy(records)
    for one in full:
        one["cell"]["scale"] = "full"
    headings = [line for line in tables(grouped([*records, *other, *full])).splitlines() if line.startswith("# ")]
    assert headings == ["# Scale full, code 0a", "# Scale quick, code 0a", "# Scale quick, code 1b"]


def test_failed_cells_are_named_and_counted_nowhere(records):
    records[-1].update(status="failed", reason=["out of memory"])
    text = tables(grouped(records))
    assert "failed: ssd (out of memory), seed 2" in text
    assert set(grouped(records)[0].gaps("ssd")) == {0, 1}


def test_a_file_that_is_no_cell_is_named(tmp_path):
    (tmp_path / "half.json").write_text('{"cell": {')
    with pytest.raises(InvalidRequest, match=r"expected a cell in .*half\.json"):
        read_groups(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"audit": {}}, "something else ('utility')"),
        ({"seconds": None}, "something else (float"),
        ({"retraining_seconds": 0}, "division by zero"),
        ({"seconds": float("nan")}, "nan where a number should be"),
        ({"js_to_retrained": {"retrained-1": float("inf")}}, "inf where a number should be"),
        ({"seconds": "2 s"}, "could not convert"),
        ({"commit": ...}, "something else ('commit')"),
        ({"audit": {**record("ssd", 0)["audit"], "verdict": None}}, "something else ('NoneType'"),
        ({"unlearning": [{}]}, "something else ('settings')"),
        ({"status": "failed"}, "something else ('reason')"),
        ({"status": "perhaps"}, "status 'perhaps'"),
        ({"cell": {"task": "cifar10"}}, "missing"),
        ({"cell": {**record("ssd", 7)["cell"]}}, "to lie in quick/cifar10/seed-7/random-0.15/ssd.json"),
    ],
)
def test_cells_that_were_changed_by_hand_or_moved_are_named_all_at_once(records, tmp_path, change, said):
    write(tmp_path, *records)
    first = tmp_path / "quick/cifar10/seed-0/random-0.15/nabla_tau.json"
    first.write_text("[]")
    place = tmp_path / "quick/cifar10/seed-0/random-0.15/ssd.json"
    changed = {**json.loads(place.read_text()), **change}
    place.write_text(json.dumps({name: value for name, value in changed.items() if value is not ...}))
    with pytest.raises(InvalidRequest, match="2 problems found") as refused:
        read_groups(tmp_path)
    assert str(first) in refused.value.problems[0]
    assert str(place) in refused.value.problems[1]
    assert said in refused.value.problems[1]


def test_plots_are_the_same_again(records, tmp_path):
    first, again = (plot_gaps(grouped(records), tmp_path / name)[0] for name in ("one", "two"))
    assert first.read_bytes() == again.read_bytes()
    assert first.read_text().count("<path") > 20
    assert first.name == "gap-quick-cifar10-0a.svg"


def test_curves_over_the_shares_have_gaps_where_nothing_was_measured(tmp_path):
    found = []
    for share in ("random-0.03", "random-0.15", "random-0.50"):
        found += [record(name, seed, forget=share) for name in (*RETRAINED, "nabla_tau") for seed in (0, 1)]
        found += [record(name, seed, 0.2, forget=share) for name in ("original", "scrub") for seed in (0, 1)]
    found += [record("nabla_tau_published", 0, 0.1, forget="random-0.15")]
    (path,) = plot_shares(grouped(found), tmp_path)
    assert path.name == "shares-quick-cifar10-0a.svg"
    text = path.read_text()
    assert all(f"<!-- {name} -->" in text for name in ("original", "best baseline", "nabla_tau_published", "15 %"))
    assert text.count("<!-- 3 % -->") == 3  # a tick of each panel
    assert plot_shares(grouped([one for one in found if one["cell"]["forget"] != "random-0.50"]), tmp_path) == []


def test_intervals_are_cut_where_no_value_can_be():
    def row(shifts, utility):
        found = [record(name, seed) for name in RETRAINED for seed in (0, 1)]
        found += [record("ssd", seed, shift) for seed, shift in enumerate(shifts)]
        for one in found:
            for part in one["audit"]["utility"].values():
                part[utility] = part.pop("accuracy", None) or part[utility]
        (line,) = [line for line in tables(grouped(copy.deepcopy(found))).splitlines() if line.startswith("| ssd | 2")]
        return [cell.strip() for cell in line.split("|")[3:10]]

    test, *_, gap = row((0.1, 0.3), "accuracy")
    assert test.startswith("80.0 [0.0, 100.0]")
    assert gap.startswith("20.0")
    assert row((-0.5, 0.3), "r2")[0] == "50.0 [-458.2, 100.0]"  # R² has no least


def test_the_grid_marks_the_best_alpha_of_each_fraction(tmp_path):
    found = []
    for fraction, best in (("random-0.05", "alpha-0.1"), ("random-0.3", "alpha-0.5")):
        found += [record(name, 0, forget=fraction) for name in RETRAINED]
        found += [record(name, 0, 0.02 if name == best else 0.3, forget=fraction) for name in STUDY]
    (path,) = plot_alpha_rho(grouped(found), tmp_path)
    text = path.read_text()
    assert text.count("<!-- 2.0 ★ -->") == 2
    assert text.count("<!-- 30.0 -->") == 2 * (len(STUDY) - 1)
    inside, outside = rule_in_rows([0.3, 0.5])
    assert inside == pytest.approx(len(STUDY) - 1)
    assert np.isnan(outside)  # 5/3 · ½ is above the grid: no row of it is the rule


RESULTS = REPOSITORY / "results" / "bench"


@pytest.mark.parametrize("results", [RESULTS, RESULTS.parent / "frozen"], ids=lambda path: path.name)
def test_the_committed_tables_follow_from_the_committed_cells(results):
    assert (results / "table.md").read_text(encoding="utf-8") == tables(read_groups(results))
