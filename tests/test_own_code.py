"""The digest of the code that a run depends on: what it says counts, how it is written does not."""

import shutil

import pytest

from nabla_tau import methods, own_code
from nabla_tau.own_code import PACKAGE, code_of


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Changes a file of a copy of the package, and gives the digest of ∇τ then."""
    package = shutil.copytree(PACKAGE, tmp_path / "nabla_tau", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(own_code, "PACKAGE", package)

    def changed(file="", old="", new=""):
        if file:
            text = (package / file).read_text()
            assert old in text
            (package / file).write_text(text.replace(old, new))
        for cached in (own_code._tree, own_code._does):
            cached.cache_clear()
        return code_of(methods.nabla_tau)

    yield changed
    for cached in (own_code._tree, own_code._does):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("methods/nabla_tau.py", "MOST_EPOCHS = 80", "MOST_EPOCHS = 81"),
        ("objective.py", "weight == 0", "weight <= 0"),
        ("sets.py", "seed_all(seed)", "seed_all(seed + 1)"),
        ("randomness.py", "seed % 2**32", "seed % 2**31"),
    ],
)
def test_what_the_method_and_all_beneath_it_do_counts(copied, file, old, new):
    before = copied()
    assert copied() == before
    assert copied(file, old, new) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("methods/nabla_tau.py", "MOST_EPOCHS = 80", "MOST_EPOCHS  =  80  # so many"),
        ("problem.py", '"""What a method works on', '"""On what a method works'),
        ("methods/scrub.py", "import", "import os\nimport"),
        ("console.py", "REFUSED, WITH", "WITH"),
    ],
)
def test_layout_comments_and_other_methods_do_not(copied, file, old, new):
    before = copied()
    assert copied(file, old, new) == before


def test_a_method_of_the_users_own_counts_with_its_function():
    def one(problem):
        yield from methods.finetune(problem)

    def other(problem):
        """Says more."""
        yield from methods.finetune(problem)

    def third(problem):
        yield from methods.scrub(problem)

    bodies = [code_of(function) for function in (one, other, third)]
    assert len(set(bodies)) == 3  # their names count too
    assert all(bodies)
    assert code_of(len) != code_of(one)


def test_source_that_is_not_there_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(own_code, "PACKAGE", tmp_path)
    assert code_of(methods.nabla_tau) is None
