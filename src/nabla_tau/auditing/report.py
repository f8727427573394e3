"""What an audit found: printed, saved as JSON, read back."""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nabla_tau.auditing.page import page
from nabla_tau.storage import move_whole, require_writable, staging

REPORT, PAGE = "report.json", "report.html"
LABEL_WIDTH, LARGE = 17, 1_000.0  # of the table on a terminal: its first column; numbers without decimals


@dataclass(frozen=True)
class Report:
    """An audit's findings.

    Attributes:
        data: everything, as JSON takes it. Samples appear by position alone, never with their content.
    """

    data: dict[str, Any]

    @property
    def verdict(self) -> dict[str, Any]:
        """kind, sentence, over_forgetting, primary, margin and numbers of samples."""
        verdict: dict[str, Any] = self.data["verdict"]
        return verdict

    def __str__(self) -> str:
        """A table that fits a terminal of 80 columns."""
        console = Console(width=80, record=True, file=io.StringIO(), highlight=False)
        console.print(self.verdict["sentence"])
        console.print(self.verdict["over_forgetting"])
        console.print(self.verdict["advice"])
        console.print(self._table())
        for line in self._controls():
            console.print(line)
        for warning in self.data["warnings"]:
            console.print(f"warning: {warning}", markup=False)
        for key, reason in self.data["absent"].items():
            console.print(f"not available: {key} ({reason})", markup=False)
        return console.export_text()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.json` and the page `report.html`, both or neither.

        Args:
            folder: made if it does not exist; may hold other files, and an `unlearning.json`.

        Returns:
            The folder.

        Raises:
            FileExistsError: if it already holds a report.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     where = Report({"verdict": {}}).save(folder)
            ...     Report.load(folder).data, sorted(path.name for path in where.iterdir())
            ({'verdict': {}}, ['report.html', 'report.json'])
        """
        target = Path(folder)
        require_no_report(target)
        text = json.dumps(self.data, indent=2, ensure_ascii=False)
        with staging(target) as place:
            for name, content in ((REPORT, text), (PAGE, page(self.data))):
                (place / name).write_text(content, encoding="utf-8", errors="replace")
            move_whole(place, target, [PAGE, REPORT])  # the report last: a folder with report.json is complete
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Report":
        """Read `report.json` back.

        Raises:
            FileNotFoundError: if there is none.
        """
        return cls(json.loads((Path(folder) / REPORT).read_text(encoding="utf-8")))

    def _table(self) -> Table:
        """A column each for original and unlearned, and one for the mean of the retrained models."""
        models = self.data["models"]
        retrained = [model for model in models if model["name"].startswith("retrained")]
        columns = [[model] for model in models if model not in retrained] + ([retrained] if retrained else [])
        table = Table(pad_edge=False)
        table.add_column("", min_width=LABEL_WIDTH)
        for column in columns:
            many = f"retrained, mean of {len(column)}" if len(column) > 1 else column[0]["name"]
            table.add_column(many, justify="right", no_wrap=len(column) == 1)
        rows = [_rows(model) for model in models]
        for label in dict.fromkeys(label for row in rows for label in row):
            of = {model["name"]: row.get(label) for model, row in zip(models, rows, strict=True)}
            table.add_row(label, *(_short([of[model["name"]] for model in column]) for column in columns))
        return table

    def _controls(self) -> list[str]:
        controls, power = self.data["controls"], self.data["power"]
        lines = [f"control, test vs. test: p = {controls['test_vs_test']['p']:.2g}"]
        if controls["original"] is not None:
            lines.append(f"control, original vs. test: AUC {_short(controls['original']['auc'])}")
        if controls["blind"] is not None:
            lines.append(f"control, inputs alone: AUC {_short(controls['blind']['auc'])}")
        if power is not None and power["smallest_fraction"] is not None:
            lines.append(
                f"power: {power['smallest_fraction']:.1%} of the forget set still memorised would have been "
                f"detected with probability {power['power']:.0%}"
            )
        elif power is not None:
            lines.append(
                f"power: too few samples, or too little memorised: with nothing forgotten, {1 - power['power']:.0%} of "
                "such audits or more would have found nothing either"
            )
        return lines


def require_no_report(folder: Path) -> None:
    """Make sure, before models are run, that a report could be written and none would be overwritten.

    Raises:
        FileExistsError: if there is one.
        NotADirectoryError: if the folder would lie below a file.
        PermissionError: if nothing can be written there.

    Example:
        >>> require_no_report(Path("no such folder"))
    """
    taken = [name for name in (REPORT, PAGE) if (folder / name).exists()]
    if taken:
        raise FileExistsError(
            f"Expected a folder without {' and '.join(taken)}, got {folder}: choose another folder or move the file."
        )
    require_writable(folder)


def _rows(model: dict[str, Any]) -> dict[str, Any]:
    """Label of a line -> its estimate, or None."""
    rows: dict[str, Any] = {}
    for key, measures in model["utility"].items():
        rows |= {f"{key} {measure.replace('_', ' ')}": estimate for measure, estimate in measures.items()}
    for name, found in model["paper_attacks"].items():
        rows[f"paper's attack, {name}"] = found and {"value": found["accuracy"], **found}
    for attack in model["attacks"]:
        star = " (primary)" if attack["primary"] else ""
        rows[f"AUC {attack['score'].replace('_', ' ')}{star}"] = attack["auc"]
    rows["AUC boosted trees"] = model["boosted"]["auc"]
    rows["KS distance"] = {"value": model["ks"]["value"], "low": None, "high": None}
    rows["residual fraction"] = model["residual"]["fraction"]
    return rows


def _short(estimates: Any) -> str:
    """One estimate with its interval, or the mean of several."""
    estimates = estimates if isinstance(estimates, list) else [estimates]
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        return "-"
    value = sum(estimate["value"] for estimate in known) / len(known)
    if len(known) > 1 or known[0]["low"] is None or known[0]["high"] is None:
        return _figure(value, 3)
    return f"{_figure(value, 3)} [{_figure(known[0]['low'], 2)}, {_figure(known[0]['high'], 2)}]"


def _figure(value: float, decimals: int) -> str:
    """With so many decimals, and no more digits than a column of the terminal has room for."""
    return f"{value:.{decimals}f}" if abs(value) < LARGE else f"{value:.{decimals}g}"
