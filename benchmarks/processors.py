"""Whether kinds of processor train the same weights, and under which restrictions of the libraries below torch.

    NABLA_TAU_DATA=DIR python benchmarks/processors.py --output results/processors.json

Each network of the benchmark takes a few steps of its recipe, on one thread; a line of the table is a digest of its
weights. Every mode runs in a process of its own, because the libraries read their settings when they are loaded. A file
that is there takes this processor's lines beside those of others; a mode under which they agree would let seeds of one
be measured on another.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nabla_tau.bench.cells import ORIGINAL, Bench, Cell
from nabla_tau.bench.slices import Setting
from nabla_tau.bench.storing import write_json
from nabla_tau.bench.tasks import TASKS
from nabla_tau.bench.training import trained
from nabla_tau.digests import weights_digest
from step_report import machine

ROWS, EPOCHS = 512, 2

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
MODES = {
    "as installed": {},
    "AVX2": {**AVX2, "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "AVX2, MKL compatible": {**AVX2, "MKL_CBWR": "COMPATIBLE"},
    "scalar, MKL compatible": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}
"""What is asked of ATen, oneDNN and MKL."""


def weights() -> dict[str, str]:
    """Task -> fingerprint of its network after a few steps."""
    torch.set_num_threads(1)
    device, found = torch.device("cpu"), {}
    for task in TASKS:
        setting = Setting(Cell("quick", task, 0, "random-0.15", ORIGINAL), Bench(Path(), device))
        rows = setting.take(setting.split.train[:ROWS])
        model = trained(setting.task, replace(setting.recipe, epochs=EPOCHS), rows, 0, device)
        found[task] = weights_digest(model.state_dict().items())
    return found


def under(mode: dict[str, str]) -> dict[str, str]:
    """`weights` in a process that is started under a mode."""
    code = "import json, processors; print(json.dumps(processors.weights()))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **mode},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, str] = json.loads(run.stdout)
    return found


def table(found: dict[str, Any]) -> str:
    """A line for each mode and processor, a column for each task; equal digests are equal weights."""
    lines = [f"| mode | processor | {' | '.join(TASKS)} |", f"| --- | --- |{' --- |' * len(TASKS)}"]
    for mode in MODES:
        for name, one in found.items():
            digests = " | ".join(one["weights"][mode][task][:8] for task in TASKS)
            lines.append(f"| {mode} | {name} | {digests} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file that this processor's lines are added to.")
    output = parser.parse_args().output
    found = json.loads(output.read_text()) if output is not None and output.exists() else {}
    about = machine(torch.device("cpu"))
    found[about["processor"]] = {"machine": about, "weights": {name: under(mode) for name, mode in MODES.items()}}
    if output is not None:
        write_json(output, found)
    print(table(found))


if __name__ == "__main__":
    main()
