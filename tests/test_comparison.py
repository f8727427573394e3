"""The page that compares the methods is what the methods say of themselves."""

import re

from nabla_tau import methods
from nabla_tau.comparison import page
from tests.conftest import REPOSITORY


def test_the_page_is_up_to_date():
    written = (REPOSITORY / "docs" / "baselines.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m nabla_tau.comparison > docs/baselines.md"


def test_every_method_is_in_each_table():
    for name in methods.METHODS:
        assert len(re.findall(rf"^\| `{name}` \|", page(), flags=re.MULTILINE)) >= 3
