"""What a cell is: task × method × forget set × seed at a scale, and the names that it may have."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nabla_tau.bench.files import files_of
from nabla_tau.bench.storing import digest
from nabla_tau.bench.tasks import TASKS
from nabla_tau.facts import facts_of
from nabla_tau.methods import METHODS

FORMAT = 2
DONE, FAILED, NOT_APPLICABLE = "done", "failed", "not applicable"

ORIGINAL = "original"
RETRAINED = ("retrained-1", "retrained-2")
REFERENCES = (ORIGINAL, *RETRAINED)
"""Rows of every table: doing nothing, and two trainings without the forget set, whose difference is the floor."""

UNLEARNING = {name: method for name, method in METHODS.items() if name != "retrain"}
"""The methods that are compared, at their published settings."""

TUNED = {
    f"{name}+tuned": name
    for name, method in UNLEARNING.items()
    if (facts := facts_of(method)) is not None and facts.settings
}
"""The same, their settings searched on forget, retain and validation set; the search counts as cost."""


@dataclass(frozen=True, order=True)
class Cell:
    """Names one measurement.

    Example:
        >>> Cell("quick", "location30", 0, "class", "scrub").path
        PosixPath('quick/location30/seed-0/class/scrub.json')
    """

    scale: str
    task: str
    seed: int
    forget: str
    method: str

    @property
    def path(self) -> Path:
        """Below the folder of results."""
        return self.folder / f"{self.method}.json"

    @property
    def folder(self) -> Path:
        """Of this forget set."""
        return Path(self.scale, self.task, f"seed-{self.seed}", self.forget)


@dataclass(frozen=True)
class Bench:
    """Where a slice is measured.

    Attributes:
        models: trained models, shared by all methods.
        device: of training, unlearning and audit.
        data: folder of the data sets; None is `NABLA_TAU_DATA`.
    """

    models: Path
    device: torch.device
    data: Path | None = None


def key_of(cell: Cell, bench: Bench) -> str:
    """Digest of what is measured, apart from the code: the recipe, and which files of data.

    Example:
        >>> bench = Bench(Path("models"), torch.device("cpu"), data=Path("data"))
        >>> one, other = (Cell("quick", "location30", seed, "class", "scrub") for seed in (0, 1))
        >>> key_of(one, bench) == key_of(other, bench)
        True
    """
    task = TASKS[cell.task]
    files = files_of(task.data_set, bench.data) if task.data_set else ()
    return digest({"format": FORMAT, "recipe": asdict(task.recipes[cell.scale]), "files": files})
