"""The demo must show something: the original memorises, and its attack stands clear of the retrained model's."""

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from nabla_tau.cli import app
from nabla_tau.console import REFUSED
from nabla_tau.demo import Attack, run_demo, verdict
from nabla_tau.terminal import demo_view


@pytest.fixture(scope="module")
def demo():
    return run_demo(seed=0)


def test_it_shows_forgetting(demo):
    before, after, retrained = (scores.loss_attack for scores in (demo.before, demo.after, demo.retrained))
    assert before.accuracy >= 0.6
    assert before.low > retrained.high
    assert after.low <= retrained.high
    assert retrained.low <= after.high
    assert demo.unlearned.reached_target
    assert demo.after.test_accuracy > demo.before.test_accuracy - 0.06
    assert demo.after.retain_accuracy > 0.97


def test_what_is_printed_says_it(demo):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(demo_view(demo))
    text = console.export_text()
    for row in ("before", "after", "retrained"):
        assert re.search(rf"{row}.*\d+\.\d .*\[\d+, \d+\]", text)
    assert "deleted" not in text
    assert f"{demo.before.loss_attack.accuracy:.0%} of the time before" in " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(("low", "words"), [(0.52, "its interval overlaps that"), (0.6, "its interval is still apart")])
def test_the_sentence_says_what_the_intervals_do(demo, low, words):
    after = replace(demo.after, loss_attack=Attack(low + 0.05, low, low + 0.1, samples=180))
    retrained = replace(demo.retrained, loss_attack=Attack(0.5, 0.45, 0.55, samples=180))
    assert words in verdict(replace(demo, after=after, retrained=retrained))


def test_json_and_the_picture(monkeypatch, tmp_path, demo):
    monkeypatch.setattr("nabla_tau.demo.run_demo", lambda *_: demo)
    picture, folder = tmp_path / "demo.svg", str(tmp_path / "demo")
    result = CliRunner().invoke(app, ["demo", "--json", "--output", folder, "--svg", str(picture)])
    assert picture.read_text().startswith("<svg")
    nowhere = CliRunner().invoke(app, ["demo", "--output", folder, "--svg", str(tmp_path / "no" / "demo.svg")])
    assert nowhere.exit_code == REFUSED
    assert "--svg: expected" in nowhere.stderr
    assert [model["name"] for model in json.loads(result.stdout)["models"]] == ["before", "after", "retrained"]
