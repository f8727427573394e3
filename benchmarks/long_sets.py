"""Memory and time of one request beside retain sets of 10⁴ to 10⁷ generated rows, and of 1 to 10⁶ rows to be forgotten.

    python benchmarks/long_sets.py --output results/long_sets.json

Each request is a process of its own: a network of 10⁴ parameters, batches of 256, the default method; how long the
check of all rows took (it reads them, hashes them and looks for copies), and the method. Memory is the peak of what
the process itself holds (RssAnon: pages of a mapped file can be dropped at any time and are not counted), above what it
held before the sets were opened. Retain sets: tensors, a stream, or a Hugging Face dataset mapped from disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset

from nabla_tau import UnlearningWarning, methods
from nabla_tau.bench.peak import resident
from nabla_tau.bench.storing import write_json
from nabla_tau.memory import describe
from nabla_tau.outcome import measure
from nabla_tau.unlearning import Request
from step_report import machine

FEATURES, CLASSES, HIDDEN = 16, 4, 476  # 10⁴ parameters
RETAIN = [10**power for power in range(4, 8)]
FORGET = [10**power for power in range(7)]
CHUNK = 10_000
Columns = dict[str, torch.Tensor]


class Classifier(nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, 16) -> logits (N, 4)."""
        found: torch.Tensor = self.layers(x)
        return found


def rows(count: int, seed: int) -> Columns:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=generator)
    return {"x": x, "labels": torch.randint(CLASSES, (count,), generator=generator)}


class Generated(IterableDataset[Columns]):
    """Rows that are made when they are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Columns]:
        for start in range(0, self.count, CHUNK):
            columns = rows(min(CHUNK, self.count - start), start + 1)
            for x, label in zip(columns["x"], columns["labels"], strict=True):
                yield {"x": x, "labels": label}


def mapped(count: int, folder: str) -> Any:
    """The same rows in a file of Arrow, written in pieces and mapped."""
    import datasets
    import pyarrow as pa

    path = Path(folder) / "rows.arrow"
    kind = pa.schema({"x": pa.list_(pa.float32(), FEATURES), "labels": pa.int64()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, kind) as writer:
        for start in range(0, count, CHUNK):
            columns = rows(min(CHUNK, count - start), start + 1)
            x = pa.FixedSizeListArray.from_arrays(pa.array(columns["x"].numpy().ravel()), FEATURES)
            writer.write(pa.record_batch([x, pa.array(columns["labels"].numpy())], schema=kind))
    return datasets.Dataset.from_file(str(path))


def retain_set(kind: str, count: int, folder: str) -> Any:
    if kind == "mapped":
        return mapped(count, folder)
    return Generated(count) if kind == "stream" else rows(count, 1)


class Peak:
    """The largest RssAnon, looked at fifty times a second."""

    def __init__(self) -> None:
        self.before = self.highest = resident("RssAnon")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.highest = max(self.highest, resident("RssAnon"))

    def bytes(self) -> int:
        """Bytes above what was held at the start."""
        self.done.set()
        self.thread.join()
        return self.highest - self.before


def one_request(forget: int, retain: int, kind: str) -> dict[str, Any]:
    """Times and memory of a request, in this process."""
    torch.manual_seed(0)
    model = Classifier()
    with tempfile.TemporaryDirectory() as folder:
        sets: dict[str, Any] = {"forget": rows(forget, 2**40), "validation": rows(1000, 2**41)}
        sets["retain"] = retain_set(kind, retain, folder)
        small = {**sets, "forget": rows(10, 3), "retain": rows(100, 4)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnlearningWarning)
            Request(model, **small, device="cpu").run()  # what is loaded at the first use
            peak, started = Peak(), time.perf_counter()
            with Request(model, **sets, batch_size=256, device="cpu").prepared() as problem:
                checked = time.perf_counter()
                measure(problem)
                begun = time.perf_counter()
                passes = len(list(methods.nabla_tau(problem)))
                ended = time.perf_counter()
    return {
        "forget": forget,
        "retain": retain,
        "kind": kind,
        "check_seconds": checked - started,
        "measure_seconds": begun - checked,
        "method_seconds": ended - begun,
        "steps": problem.steps,
        "passes": passes,
        "peak_bytes": peak.bytes(),
    }


def slope(sizes: list[int], values: list[float]) -> float:
    """Exponent between the two largest: 1 is linear."""
    return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))


def alone(forget: int, retain: int, kind: str) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--one", str(forget), str(retain), kind]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(output.splitlines()[-1], flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """Seconds of check and method, steps and peak memory, for each request."""
    lines = ["| forget rows | retain rows | as | check | method | steps | peak |", f"| {' | '.join(['---'] * 7)} |"]
    for run in [run for name in ("tensors", "stream", "mapped", "forget") for run in found[name]]:
        cells = [f"{run['forget']:,}", f"{run['retain']:,}", run["kind"]]
        cells += [f"{run['check_seconds']:.1f} s", f"{run['method_seconds']:.1f} s", f"{run['steps']:,}"]
        lines.append(f"| {' | '.join([*cells, describe(max(run['peak_bytes'], 0))])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, metavar=("FORGET", "RETAIN", "KIND"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one:
        print(json.dumps(one_request(int(args.one[0]), int(args.one[1]), args.one[2])))
        return
    where = machine(torch.device("cpu"))
    found: dict[str, Any] = {
        kind: [alone(1000, retain, kind) for retain in RETAIN] for kind in ("tensors", "stream", "mapped")
    }
    found["forget"] = [alone(forget, 10_000, "tensors") for forget in FORGET]
    found["slopes"] = {
        name: {
            part: slope([run["forget" if name == "forget" else "retain"] for run in runs], [run[part] for run in runs])
            for part in ("check_seconds", "method_seconds")
        }
        for name, runs in found.items()
    }
    print(table(found))
    if args.output:
        write_json(args.output, {"benchmark": "long_sets", "machine": where, **found})


if __name__ == "__main__":
    main()
