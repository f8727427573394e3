"""A Matplotlib drawing as SVG that lives inside a page: its text is text, its colours are the page's."""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib wants fixed colours; these stand for the page's variables, which differ between light and dark.
FORGET, TEST, RETAIN = "#0000a1", "#0000a2", "#0000a3"
ORIGINAL, UNLEARNED, RETRAINED = "#0000b1", "#0000b2", "#0000b3"
INK, MUTED, LINE, BAND = "#0000c1", "#0000c2", "#0000c3", "#0000c4"
VARIABLES = {
    FORGET: "forget",
    TEST: "test",
    RETAIN: "retain",
    ORIGINAL: "original",
    UNLEARNED: "unlearned",
    RETRAINED: "retrained",
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    BAND: "band",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
}


def drawing(name: str, paint: Callable[[Axes], None], *, width: float, height: float) -> Markup:
    """Draw on fresh axes; the user's Matplotlib settings are neither used nor changed.

    Args:
        name: tells this drawing's inner ids from those of others on the page.
        paint: draws, with the colours of this module.
        width: in SVG units; text is 10.5 of them high.
        height: in SVG units.

    Returns:
        One `<svg>` element without a fixed size. All text in it is escaped.

    Example:
        >>> text = drawing("line", lambda axes: axes.set_title("a < b", color=FORGET), width=200, height=100)
        >>> text.startswith("<svg"), "a &lt; b" in text, "fill: var(--forget)" in text
        (True, True, True)
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        paint(figure.add_subplot())
        file = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # the date would differ in every page
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Markup(_inline(file.getvalue()))  # Matplotlib has escaped all text


def _inline(svg: str) -> str:
    """Cut off what only a file of its own needs: prolog, name spaces, size, document-wide styles, unused ids."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', svg)
    svg = re.sub(r"<svg[^>]*>", f"<svg {view.group() if view else ''}>", svg, count=1)
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r"font: (?:[a-z0-9]+ )*?([0-9.]+px) [^;\"]*", r"font-size: \1", svg)  # Matplotlib before 3.10
    return re.sub("(fill|stroke): (#0000[abc][1-4])", lambda found: f"{found[1]}: {_variable(found[2])}", svg)


def _variable(colour: str) -> str:
    return f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour


__all__ = ["BAND", "FORGET", "INK", "LINE", "MUTED", "ORIGINAL", "RETAIN", "RETRAINED", "TEST", "UNLEARNED", "drawing"]
