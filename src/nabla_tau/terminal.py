"""What a terminal shows: tables, a histogram of losses, progress. Colour on a terminal only."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nabla_tau.demo import Demo, verdict
from nabla_tau.membership import Attack, Numbers
from nabla_tau.storage import Unlearned

BARS = " ▁▂▃▄▅▆▇█"
BINS = 44

# Rich's own format without the web fonts it would fetch.
SVG_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def demo_view(demo: Demo) -> Group:
    """The demo's three rows, histogram and verdict.

    Example:
        >>> from nabla_tau.demo import Scores
        >>> result = Attack(accuracy=0.55, low=0.5, high=0.6, samples=9)
        >>> models = [Scores(name, 1, 1, 0.5, result, result, np.ones(9), np.ones(9)) for name in ("a", "b", "c")]
        >>> unlearned = Unlearned(None, [], {"steps_done": 160}, reached_target=True, seconds=1.0)
        >>> from nabla_tau.auditing.report import Report
        >>> report = Report({"verdict": {"sentence": "No residual membership detectable above ..."}})
        >>> table, *_ = demo_view(Demo(*models, unlearned, retraining_seconds=2.0, report=report)).renderables
        >>> list(table.columns[4].cells)
        ['55.0 [50, 60]', '55.0 [50, 60]', '55.0 [50, 60]']
    """
    table = Table(title="Forget a random 15 % of the training rows", title_justify="left", pad_edge=False)
    for heading in ("", "retain", "forget", "test", "loss attack", "entropy attack"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for scores in (demo.before, demo.after, demo.retrained):
        accuracies = (scores.retain_accuracy, scores.forget_accuracy, scores.test_accuracy)
        attacks = (scores.loss_attack, scores.entropy_attack)
        style = {"after": "bold green"}.get(scores.name, "")
        table.add_row(scores.name, *(f"{100 * a:.1f}" for a in accuracies), *map(_interval, attacks), style=style)
    ratio = demo.unlearned.seconds / demo.retraining_seconds
    note = Text(
        "Accuracy on each set, and the two attacks with their 95 % interval (50 is guessing), all in percent. "
        "Accuracies are low because 40 % of the labels are wrong, in every set: a network fits such rows by "
        "memory alone, so that there is something to forget.\n"
        f"Unlearning took {demo.unlearned.settings['steps_done']} steps and {ratio:.2f} of the time of this retraining "
        "(which, for so small a network, is short).",
        style="dim",
    )
    return Group(table, note, Text(), histogram(demo), Text(), Panel(verdict(demo), title="Verdict", expand=False))


def histogram(demo: Demo) -> Group:
    """Losses in nats on a logarithmic axis: forgotten rows before, after and retrained, and rows never seen.

    Example:
        >>> from types import SimpleNamespace
        >>> model = SimpleNamespace(forget_losses=np.array([0.01, 1.0]), test_losses=np.array([1.0]))
        >>> view = histogram(SimpleNamespace(before=model, after=model, retrained=model))
        >>> print(view.renderables[2])
        forgotten rows, before █ █
    """
    groups: list[tuple[str, Numbers]] = [
        ("forgotten rows, before", demo.before.forget_losses),
        ("forgotten rows, after", demo.after.forget_losses),
        ("forgotten rows, retrained", demo.retrained.forget_losses),
        ("rows never seen, after", demo.after.test_losses),
    ]
    edges = np.linspace(-4, 1.5, BINS + 1)
    lines = [Text(f"{'Losses in nats':<27}", style="bold")]
    for name, losses in groups:
        counts, _ = np.histogram(np.clip(np.log10(np.maximum(losses, 1e-12)), edges[0], edges[-1]), edges)
        upper, lower = bars(counts / len(losses))
        style = "green" if name.endswith("rows, after") else "cyan"
        lines.append(Text(" " * 27).append(upper, style=style))
        lines.append(Text(f"{name:<27}").append(lower, style=style))
    marks = [" "] * (BINS + 3)
    for power, label in ((-4, "≤.0001"), (-3, ".001"), (-2, ".01"), (-1, ".1"), (0, "1"), (1, "10")):
        place = round((power + 4) / 5.5 * BINS)
        marks[place : place + len(label)] = label
    lines.append(Text(" " * 27 + "".join(marks), style="dim"))
    return Group(*lines)


def bars(shares: Numbers) -> tuple[str, str]:
    """Bars two lines high, the tallest filling both.

    Args:
        shares: heights ≥ 0, shape (n,).

    Returns:
        Upper and lower line, n characters each.

    Example:
        >>> bars(np.array([0.0, 0.5, 1.0]))
        ('  █', ' ██')
    """
    heights = np.ceil(16 * shares / max(float(shares.max()), 1e-12)).astype(int)
    upper = "".join(BARS[max(height - 8, 0)] for height in heights)
    lower = "".join(BARS[min(height, 8)] for height in heights)
    return upper, lower


def unlearned_view(unlearned: Unlearned) -> Group:
    """Every pass (twelve of them, where there are more), and how it ended; warnings were shown when they came up.

    Example:
        >>> before = {"forget_loss_before": 0.1, "retain_loss_before": 0.1, "target_loss_before": 2.2}
        >>> after = {"forget_loss_after": 2.0, "retain_loss_after": 0.1, "target_loss_after": 2.1}
        >>> settings = {"method": "nabla_tau", "steps_done": 160, "damaged": False, **before, **after}
        >>> view = unlearned_view(Unlearned(None, [], settings, True))
        >>> print(view.renderables[-1])
        nabla_tau: 0 epochs, 160 steps, 0.0 s
        mean loss: forget 0.1 -> 2, retain 0.1 -> 0.1, unseen 2.2 -> 2.1
        target reached
    """
    table = Table(title="Mean losses and ascent weight of each pass", title_justify="left", pad_edge=False)
    for heading in ("epoch", "α", "target", "forget", "retain", "ascent weight", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = _some(len(unlearned.epochs))
    for number in shown:
        epoch = unlearned.epochs[number]
        values = (epoch.alpha, epoch.target_loss, epoch.forget_loss, epoch.retain_loss, epoch.ascent_weight)
        shown_values = ("–" if value is None else f"{value:.4g}" for value in values)
        table.add_row(str(number + 1), *shown_values, f"{epoch.seconds:.2f}")
    style = "green" if unlearned.reached_target and not unlearned.settings["damaged"] else "bold yellow"
    return Group(table, Text(str(replace(unlearned, warnings=[])), style=style))


@contextmanager
def progress_bar(console: Console) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """A bar with steps and time left; gives (say what is being done, report a step).

    Args:
        console: where to; nothing is shown where it is no terminal.

    Example:
        >>> with progress_bar(Console(stderr=True, force_terminal=False)) as (say, step):
        ...     say("unlearning")
        ...     step(1, 160)
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking the sets", total=None)
        stage = ["unlearning"]

        def say(text: str) -> None:
            stage[0] = text
            progress.reset(task, description=text, total=None)

        def step(done: int, total: int) -> None:
            progress.update(task, description=stage[0], completed=done, total=total)

        yield say, step


def _interval(result: Attack) -> str:
    return f"{100 * result.accuracy:.1f} [{100 * result.low:.0f}, {100 * result.high:.0f}]"


def _some(count: int, most: int = 12) -> list[int]:
    """At most so many row numbers, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def save_picture(view: Group, path: Path) -> None:
    """What a terminal would show, as an SVG file that fetches nothing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_picture(Group(Text("forgotten")), Path(folder) / "demo.svg")
        ...     "forgotten" in (Path(folder) / "demo.svg").read_text()
        True
    """
    picture = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    picture.print(view)
    picture.save_svg(str(path), title="nabla-tau demo", code_format=SVG_FORMAT)
