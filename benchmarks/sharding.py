"""What each of several processes holds, with the model spread over them and without.

    python benchmarks/sharding.py --output results/sharding.json

Starts itself under torchrun: on one process, on two, and on two with `shard=True`. The original model, which every
process is given, is there before the start and not counted. Peaks are of fresh processes, whose allocator gives back
what is freed: the one of glibc keeps the blocks that come and go, unless MALLOC_MMAP_THRESHOLD_ is set.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nabla_tau import methods, unlearn
from nabla_tau.bench.peak import peak_memory
from nabla_tau.bench.storing import write_json
from nabla_tau.facts import facts_of
from nabla_tau.planning import plan
from nabla_tau.problem import Epoch, Problem
from nabla_tau.shards import bytes_held
from nabla_tau.unlearning import Request
from step_report import load, machine

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {}),
    "two processes": (2, {}),
    "two processes, sharded": (2, {"shard": True}),
}
"""Name -> processes, and what `unlearn` is given besides."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
EPOCHS = 4
BATCH = 16


class Residual(nn.Module):
    """Blocks of two wide layers."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        blocks = (nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)) for _ in range(depth))
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(width, 10)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits."""
        for block in self.blocks:
            hidden = hidden + block(hidden)
        output: Tensor = self.head(hidden)
        return output


def watched(found: dict[str, int]) -> Any:
    """The default method for a few passes, and what a process holds in its second step."""

    def few(problem: Problem) -> Iterator[Epoch]:
        def gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            found["gradients"] = bytes_held(p.grad for p in parameters if p.grad is not None)

        def look(optimizer: torch.optim.Optimizer) -> None:
            if not found:
                optimizer.register_step_pre_hook(gradients)
            states = optimizer.state.values()
            found["weights"] = bytes_held(problem.model.parameters())
            found["moments"] = bytes_held(state[name] for state in states for name in ("exp_avg", "exp_avg_sq"))

        problem.after_step = look
        yield from islice(methods.nabla_tau_published(problem), EPOCHS)

    few.facts = facts_of(methods.nabla_tau_published)  # type: ignore[attr-defined]
    return few


def work(folder: Path, name: str, width: int, depth: int) -> None:
    """What one process of a case finds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Residual(width, depth)
    labels = torch.randint(10, (8 * BATCH,))
    rows = torch.randn(8 * BATCH, width)
    cuts = {"forget": slice(0, BATCH), "retain": slice(BATCH, 7 * BATCH), "validation": slice(7 * BATCH, 8 * BATCH)}
    sets: dict[str, Any] = {part: (rows[cut], labels[cut]) for part, cut in cuts.items()}
    held: dict[str, int] = {}
    options = {"batch_size": BATCH, "device": "cpu", **CASES[name][1]}
    with warnings.catch_warnings(), peak_memory(torch.device("cpu")) as peak:
        warnings.simplefilter("ignore")
        unlearned = unlearn(model, **sets, **options, method=watched(held))
    planned = plan(Request(model, **sets, **options, method=methods.nabla_tau_published)).step_bytes
    said = {**held, "planned": planned, "peak": peak[0], "seconds": unlearned.seconds}
    said["original"] = bytes_held(model.parameters())
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(said))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def measure(name: str, width: int, depth: int) -> dict[str, Any]:
    """The larger figure of the processes of a case."""
    processes = CASES[name][0]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, __file__, "--width", str(width), "--depth", str(depth), "--work", folder, name]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT})
        said = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    return {key: max(one[key] for one in said) for key in said[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(Path(options.work[0]), options.work[1], options.width, options.depth)
        return
    found: dict[str, Any] = {"machine": machine(torch.device("cpu")), "width": options.width, "depth": options.depth}
    found["environment"] = ENVIRONMENT
    found["cases"] = {}
    for name in CASES:
        one = found["cases"][name] = measure(name, options.width, options.depth)
        sizes = ", ".join(f"{key} {value / 2**20:.1f} MiB" for key, value in one.items() if key != "seconds")
        print(f"{name}: {sizes}, {one['seconds']:.1f} s", flush=True)
    found["machine"]["load_at_end"] = load()
    if options.output is not None:
        write_json(options.output, found)


if __name__ == "__main__":
    main()
