"""Every public function has an example that runs, and names what it raises."""

import ast
import re
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

import nabla_tau
from tests.conftest import require

SOURCE = Path(nabla_tau.__file__).parent
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "cli.py")  # commands have theirs in --help
METHODS_PAGE = SOURCE.parent.parent / "docs" / "methods.md"
LOSSES_PAGE = METHODS_PAGE.with_name("losses.md")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def public(nodes, kind):
    return [node for node in nodes if isinstance(node, kind) and not node.name.startswith("_")]


def without(section, functions):
    return [f"{function.name}:{function.lineno}" for function in functions if section not in lines_of(function)]


def lines_of(function):
    return (ast.get_docstring(function) or "").splitlines()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_public_functions_have_an_example_and_say_what_they_raise(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    functions = public(body, FUNCTIONS)
    methods = [method for owner in public(body, ast.ClassDef) for method in public(owner.body, FUNCTIONS)]
    raising = [f for f in functions + methods if any(isinstance(node, ast.Raise) for node in ast.walk(f))]
    assert without("Example:", functions) == []
    assert [function.name for function in functions if ">>>" not in ast.get_docstring(function)] == []
    assert without("Raises:", raising) == []


class Heads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logits, self.price = torch.nn.Linear(6, 3), torch.nn.Linear(6, 1)

    def forward(self, images):
        return self.logits(images), self.price(images)


def rows_of(name):
    """A model and thirty rows for each loss of the page."""
    x, images, y = torch.randn(30, 6), torch.randn(30, 3, 4, 4), torch.arange(30) % 3
    masks = torch.randint(3, (30, 4, 4)).masked_fill(torch.rand(30, 4, 4) < 0.2, 255)
    triplets = {one: torch.randn(30, 6) for one in ("anchor", "positive", "negative")}
    return {
        "of_masks": (torch.nn.Conv2d(3, 3, 1), (images, masks)),
        "of_triplets": (torch.nn.Linear(6, 2), triplets),
        "of_both_heads": (Heads(), {"image": x, "labels": y, "price": torch.randn(30), "user_id": y}),
        "of_reconstruction": (torch.nn.Linear(6, 6), (x,)),
    }[name]


@pytest.mark.parametrize("name", ["of_masks", "of_triplets", "of_both_heads", "of_reconstruction"])
def test_the_losses_of_ones_own_on_the_page_run(name):
    torch.manual_seed(0)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", LOSSES_PAGE.read_text(encoding="utf-8"), re.DOTALL)[:-1]:
        exec(block, names)
    model, rows = rows_of(name)
    parts = nabla_tau.split(rows, fraction=0.2)
    unseen = rows_of(name)[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nabla_tau.unlearn(
            model, forget=parts.forget, retain=parts.retain, validation=unseen, loss=names[name], device="cpu"
        )
    assert not [one for one in caught if str(one.message).startswith(("loss:", "model:"))]


@pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning")  # there is nothing to forget
def test_the_method_of_ones_own_on_the_page_runs():
    require("optuna")
    section = METHODS_PAGE.read_text(encoding="utf-8").partition("## A method of your own")[2]
    defined, used, searched = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    sets = {"forget": (x[:10], y[:10]), "retain": (x[10:40], y[10:40]), "validation": (x[40:], y[40:])}
    names = {"model": torch.nn.Linear(4, 2), **sets}
    exec(defined, names)
    names["up_and_down"] = partial(names["up_and_down"], rate=0.01)
    exec(used, names)
    assert names["unlearned"].settings["steps_done"] == 1
    exec(searched.replace("trials=20", "trials=2"), names)
