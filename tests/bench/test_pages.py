"""Tables inside pages follow from the cells, and no figure of them is typed."""

import re

import pytest
from typer.testing import CliRunner

from nabla_tau.bench.alpha import STUDY
from nabla_tau.bench.cells import RETRAINED
from nabla_tau.bench.pages import BLOCK, TABLES, filled
from nabla_tau.bench.reading import grouped
from nabla_tau.bench.tables import OURS, PUBLISHED
from nabla_tau.cli import app
from nabla_tau.errors import InvalidRequest
from tests.bench.records import record, write
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "docs" / "findings.md"]
SHIFTS = {
    "original": 0.3,
    "retrained-1": 0.0,
    "retrained-2": 0.02,
    OURS: 0.03,
    PUBLISHED: 0.2,
    "ssd": 0.3,
    "scrub": 0.1,
}


@pytest.fixture
def cells():
    return [record(method, seed, shift) for method, shift in SHIFTS.items() for seed in (3, 4)]


def page_of(folder, *blocks):
    page = folder / "pages" / "page.md"
    page.parent.mkdir()
    page.write_text("\n".join(f"<!-- bench: {block} -->\nold\n<!-- /bench -->" for block in blocks) + "\nafter\n")
    return page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_show_what_the_cells_say(page):
    assert page.read_text(encoding="utf-8") == filled(page), "run: nabla-tau bench fill README.md docs/findings.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_with_an_interval_is_typed(page):
    assert re.findall(r"\d \[-?\d+\.\d, -?\d+\.\d\]", BLOCK.sub("", page.read_text(encoding="utf-8"))) == []


def test_a_page_is_filled_and_the_rest_of_it_stays(cells, tmp_path):
    write(tmp_path / "results", *cells)
    page = page_of(tmp_path, *(f"{name} ../results" for name in TABLES))
    result = CliRunner().invoke(app, ["bench", "fill", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("<!-- /bench -->\nafter\n")
    assert filled(page) == text
    assert "| cifar10 | random-0.15 | 2 | 29.1 [29.1, 29.1] |" in text  # 0.3 for 0.01; JS 0.3
    assert "| cifar10 | random-0.15 | 0 of 2 | 0 of 2 | 0 of 2 | 0 of 4 |" in text  # audits of records find residue


def test_a_component_that_another_is_nearer_in_is_told(cells):
    for one in cells:
        if one["cell"]["method"] == OURS:
            one["js_to_retrained"] = dict.fromkeys(RETRAINED, 0.5 + one["cell"]["seed"] / 100)
    lines = TABLES["losses"](grouped(cells))[2:]
    assert [line.partition("[")[0] for line in lines] == [
        "| cifar10 | random-0.15 | JS | nabla_tau_published | 33.5 ",
        "| cifar10 | random-0.15 | JS | scrub | 43.5 ",  # the best baseline
    ]


def test_the_grid_comes_apart_with_the_references_of_its_own_seeds(cells):
    grid = [record(name, 0, 0.1) for name in (*STUDY, "original", *RETRAINED)]
    rest, study = grouped([*cells, *grid])
    assert (rest.study, set(rest.values("original")["test"])) == (False, {3, 4})
    assert (study.study, set(study.values("original")["test"])) == (True, {0})
    assert study.methods == ["original", "retrained", *STUDY]
    assert [group.study for group in grouped(grid)] == [True]


def test_all_that_is_wrong_with_a_page_is_told_at_once(cells, tmp_path):
    write(tmp_path / "results", *cells)
    page = page_of(tmp_path, "shares ../results", "sharse ../results", "shares ../nowhere", "rows ../no.json")
    before = page.read_text()
    result = CliRunner().invoke(app, ["bench", "fill", str(page)])
    assert result.exit_code == 1
    assert "expected one of glance, gaps," in result.output
    assert "got sharse" in result.output
    assert "nowhere" in result.output
    assert "expected rows in" in result.output
    assert page.read_text() == before


def test_cells_of_two_kinds_are_not_put_into_one_table(cells, tmp_path):
    write(tmp_path / "results", *cells, record(OURS, 3, scale="full"))
    with pytest.raises(InvalidRequest, match="got scale full, code 0a; scale quick, code 0a"):
        filled(page_of(tmp_path, "gaps ../results"))


@pytest.mark.parametrize(("content", "words"), [(b"\xff", "in UTF-8"), (b"one\r\n", "end as on Unix")])
def test_a_page_of_another_kind_is_told(tmp_path, content, words):
    (tmp_path / "page.md").write_bytes(content)
    with pytest.raises(InvalidRequest, match=words):
        filled(tmp_path / "page.md")


def test_a_place_without_an_end_is_refused(tmp_path):
    page = page_of(tmp_path, "shares ../results")
    page.write_text(page.read_text().replace("<!-- /bench -->", ""))
    with pytest.raises(InvalidRequest, match="got 0 that are whole of 1"):
        filled(page)
