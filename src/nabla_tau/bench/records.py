"""Cells as they lie in a folder of results."""

import json
from pathlib import Path

from nabla_tau.bench.cells import ORIGINAL, Cell
from nabla_tau.bench.storing import Json
from nabla_tau.errors import InvalidRequest

ROWS = "rows.json"
"""Name of the file beside the cells that holds the numbers of their rows."""


def read_cell(path: Path) -> Json | None:
    """A finished cell; None where there is none.

    Raises:
        InvalidRequest: if the file is no cell.

    Example:
        >>> read_cell(Path("nowhere.json")) is None
        True
    """
    if not path.is_file():
        return None
    try:
        record: Json = json.loads(path.read_text(encoding="utf-8"))
        Cell(**record["cell"]), record["key"], record["status"], record["code"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            [
                f"results: expected a cell in {path}, got one that is damaged, or something else ({error}): remove it, "
                "and the same run measures it again."
            ]
        ) from None
    return record


def original_of(record: Json) -> str | None:
    """Fingerprint of the original model that a cell is about; None for a retrained one, and where nothing was found.

    Example:
        >>> original_of({"cell": {"method": "ssd"}, "unlearning": [{"settings": {"original_fingerprint": "5c"}}]})
        '5c'
    """
    if record["cell"]["method"] == ORIGINAL:
        fingerprint: str | None = record.get("audit", {}).get("fingerprint")
    else:
        requests = record.get("unlearning") or [{"settings": {}}]
        fingerprint = requests[0]["settings"].get("original_fingerprint")
    return fingerprint
