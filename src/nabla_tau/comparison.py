"""The page that compares all methods, written from what the methods say of themselves.

python -m nabla_tau.comparison > docs/baselines.md
"""

import inspect
import sys
from collections.abc import Iterable, Iterator

from nabla_tau.facts import NEEDS, Facts, facts_of
from nabla_tau.losses import LOSSES
from nabla_tau.methods import METHODS

HEAD = """\
# Methods compared

Written by `python -m nabla_tau.comparison` from the facts that each method in `src/nabla_tau/methods/` states; a test
keeps it so. How ∇τ itself works is in [methods.md](methods.md).

```python
from functools import partial
from nabla_tau import methods, unlearn

unlearned = unlearn(model, forget=forget, retain=retain, validation=validation, method=methods.scrub)
unlearned = unlearn(model, ..., method=partial(methods.scrub, temperature=2.0))  # other settings
unlearned = unlearn(model, ..., method=partial(methods.retrain, train=my_training))  # (dataset, seed) -> nn.Module
```

Labels are needed where they are replaced or compared, class structure where the classes of a set count. Every method
takes any model and any set that `unlearn` takes; `unlearn` itself reads all three sets, to check them and to measure.
"""


SOURCES = {
    "finetune": "the notebooks of Trippa et al., ∇τ, arXiv:2403.14339 (2024)",
    "neggrad": "the command published with Fan et al., SalUn, arXiv:2310.12508 (2023)",
    "neggrad_plus": "β and rate: its authors, for small sets; epochs and momentum: ours; its paper searches by task",
    "scrub": "the comparison in Trippa et al., ∇τ",
    "scrub_rewind": "as `scrub`",
    "scrub_small": "its authors, for small sets; batches of 32 and 64 there",
    "ssd": "the comparison in Trippa et al., ∇τ",
    "amnesiac": "the comparison in Trippa et al., ∇τ; batches of 128 there",
    "bad_teacher": "the comparison in Foster et al., SSD, arXiv:2308.07707 (2023)",
    "random_label": "the command and the order of passes published with SalUn",
    "salun": "as `random_label`",
    "l1_sparse": "epochs and rate: the command published with SalUn; penalty: ours; its paper searches it task by task",
}
"""Where a baseline's default settings come from."""


def page() -> str:
    """The whole page, as Markdown.

    Example:
        >>> "| `scrub` |" in page()
        True
    """
    found = {name: facts for name, method in METHODS.items() if (facts := facts_of(method)) is not None}
    return "\n".join(
        [
            HEAD,
            "## What a method needs",
            "",
            *_table(["method", *NEEDS, "tasks"], ([f"`{n}`", *_marks(f), _tasks(f)] for n, f in found.items())),
            "",
            "## What it costs",
            "",
            "Passes over the sets at the default settings. D_f is the forget set, D_r the retain set, D_v the",
            "validation set; n_f and n_r are batches. A method that can be continued takes `checkpoint=`. In",
            "*eval* there is no dropout, and batch norm normalises by its running statistics, which stay as they",
            "are; under `nabla_tau` they follow the retain set. *train* is as the model was trained. `nabla_tau`",
            "reads up to 140 batches of D_r more in trials of its rate.",
            "",
            *_table(
                ["method", "passes", "mode", "can be continued"],
                ([f"`{n}`", f.passes, f.mode, _continued(f)] for n, f in found.items()),
            ),
            "",
            "## What it can and cannot forget",
            "",
            *_table(
                ["method", "forgets", "cannot, or leaves behind", "reference"],
                ([f"`{n}`", f.forgets, f.keeps, f.reference] for n, f in found.items()),
            ),
            "",
            "## Settings",
            "",
            "∇τ has none. Few papers name settings for data of any kind, so the baselines' defaults come from where\n"
            "the method was run, by rivals in part. A search (`nabla-tau tune`) fits them to a model, as far as the\n"
            "AUC of losses tells, and of a removed class whether it is still predicted: it sees no retrained model,\n"
            "and may take worse settings than these. Batches are the request's, for every method.",
            "",
            *_table(
                ["method", "its defaults are those of"],
                ([f"`{n}`", SOURCES[n]] for n, f in found.items() if f.settings),
            ),
            "",
            "A search tries the values of the last column.",
            "",
            *_table(["method", "setting", "default", "allowed", "searched"], _settings(found)),
            "",
        ]
    )


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _marks(facts: Facts) -> list[str]:
    return ["✓" if need in facts.needs else "" for need in NEEDS]


def _continued(facts: Facts) -> str:
    return "✓" if facts.not_continued is None else f"no: {facts.not_continued}"


def _tasks(facts: Facts) -> str:
    """Any, all but a few, or a few."""
    if facts.tasks is None:
        return "any, and losses of your own"
    left_out = [name for name in LOSSES if name not in facts.tasks]
    if len(left_out) < len(facts.tasks) - 1:
        return f"all but {', '.join(left_out)}"
    return ", ".join(facts.tasks)


def _settings(found: dict[str, Facts]) -> Iterator[list[str]]:
    for name, facts in found.items():
        parameters = inspect.signature(METHODS[name]).parameters
        for setting, allowed in facts.settings.items():
            searched = f"{allowed.search[0]:g} … {allowed.search[1]:g}, {allowed.scale}" if allowed.search else ""
            yield [f"`{name}`", f"`{setting}`", f"{parameters[setting].default:g}", str(allowed), searched]


if __name__ == "__main__":
    sys.stdout.write(page())
