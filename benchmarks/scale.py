"""What a step of ∇τ costs beside plain training as the model, the processes and the memory at hand change.

    python benchmarks/scale.py --output results/scale.json --picture results/step_profile.svg

- parameters: a step on 128 + 128 samples beside one of plain training on 256, for networks of 10⁴ to 10⁸ parameters;
- processes: the same steps on one process and on two (gloo, on this machine's cores), and how far weights are apart;
- share of time: where the passes of a ResNet-18 spend it, and how much is no forward or backward pass or optimiser;
- memory: peaks of fresh processes, above what was there: plain training, `unlearn`, and with less memory at hand.

Steps take turns on one thread, in seconds of the processor, and the quickest of each counts: what else the machine does
only adds. Processes are timed by the clock on the wall. Nothing asserts a time: targets, and whether they were met, are
in the output.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from nabla_tau import UnlearningWarning, methods
from nabla_tau.bench.networks import resnet18
from nabla_tau.bench.storing import write_json
from nabla_tau.memory import describe
from nabla_tau.objective import descend
from nabla_tau.problem import Problem
from nabla_tau.unlearning import Request
from step_memory import LOOPS, VARIANTS, measured_alone
from step_report import load, machine

WIDTHS = {10**4: 90, 10**5: 310, 10**6: 995, 10**7: 3157, 10**8: 9995}  # of an MLP of three square layers, nearly
FEATURES, CLASSES, BATCH = 16, 4, 128
OUTSIDE_TARGET = 0.05
CPU = torch.device("cpu")


def mlp(width: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)]
    return nn.Sequential(*layers)


def rows(count: int, seed: int, shape: tuple[int, ...] = (FEATURES,), classes: int = CLASSES) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator), torch.randint(classes, (count,), generator=generator)


def seconds(step: Callable[[], None]) -> float:
    """Of the processor: one thread, so that other programs do not count."""
    started = time.process_time()
    step()
    return time.process_time() - started


def of_parameters(width: int, repeats: int) -> dict[str, Any]:
    """A step of ∇τ with ascent, one without, and one of plain training on as many samples."""
    model = mlp(width)
    sets = rows(BATCH, 1), rows(BATCH, 2), rows(BATCH, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        with Request(model, *sets, batch_size=BATCH, device="cpu").prepared() as problem:
            optimizer = problem.adamw(1e-5, 1e-2)
            both = tuple(torch.cat(columns) for columns in zip(*sets[:2], strict=True))
            plain_optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

            def plain() -> None:
                functional.cross_entropy(model(both[0]), both[1]).backward()  # type: ignore[no-untyped-call]
                plain_optimizer.step()
                plain_optimizer.zero_grad()

            def ours(target: float) -> None:
                descend(problem, optimizer, sets[0], sets[1], alpha=0.5, target_loss=target)

            turns: dict[str, list[float]] = {"plain": [], "active": [], "inactive": []}
            for turn in range(repeats + 1):
                for name, step in (("plain", plain), ("active", lambda: ours(1e3)), ("inactive", lambda: ours(-1e3))):
                    found = seconds(step)
                    turns[name] += [found] if turn else []  # the first warms up
    parameters = sum(parameter.numel() for parameter in model.parameters())
    least = {name: min(found) for name, found in turns.items()}
    ratios = {name: least[name] / least["plain"] for name in ("active", "inactive")}
    return {"parameters": parameters, "ratio": ratios, **{f"{name}_seconds": value for name, value in least.items()}}


def request_of_processes() -> dict[str, Any]:
    torch.manual_seed(0)
    network = resnet18(8, 10).double()
    shape, classes = (3, 16, 16), 10
    sets = [rows(count, seed, shape, classes) for seed, count in enumerate((256, 512, 128))]
    names = ("forget", "retain", "validation")
    cast: dict[str, Any] = {name: (x.double(), y) for name, (x, y) in zip(names, sets, strict=True)}
    return {"model": network, **cast, "batch_size": 128, "device": "cpu"}


def as_process(folder: Path) -> None:
    """One process of the comparison: its weights and the seconds of a step."""
    torch.set_num_threads(1)
    ticks: list[float] = []
    arguments = request_of_processes()
    request = Request(arguments.pop("model"), **arguments, on_step=lambda *_: ticks.append(time.perf_counter()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        with request.prepared() as problem:
            optimizer = problem.adamw(1e-4, 1e-2)
            for _ in range(12):
                pair = next(problem.in_order(problem.forget)), next(problem.in_order(problem.retain))
                descend(problem, optimizer, *pair, alpha=0.3, target_loss=9.0)
    weights = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    steps = torch.tensor([later - earlier for earlier, later in pairwise(ticks)])
    save_file({**weights, "seconds": steps}, folder / f"{os.environ.get('RANK', '0')}.safetensors")


def of_processes() -> dict[str, Any]:
    found: dict[int, dict[str, torch.Tensor]] = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
            subprocess.run([*command, __file__, "--as-process", folder], check=True, capture_output=True)
            found[count] = load_file(Path(folder) / "0.safetensors")
    median = {count: float(result.pop("seconds").median()) for count, result in found.items()}
    apart = max(float((found[1][name] - found[2][name]).abs().max()) for name in found[1])
    return {"seconds": median, "speed_up": median[1] / median[2], "weights_apart": apart, "load": load()}


class Clock:
    """Seconds of the processor by the name of what was called."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def around(self, owner: Any, method: str, name: str) -> Iterator[None]:
        """Measure every call of a method while inside."""
        original = getattr(owner, method)

        @wraps(original)
        def timed(*args: Any, **more: Any) -> Any:
            started = time.process_time()
            try:
                return original(*args, **more)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started

        setattr(owner, method, timed)
        try:
            yield
        finally:
            setattr(owner, method, original)


def shares() -> dict[str, float]:
    """Where the passes of a real call spend their time, the checks before them left out."""
    shape, classes = (3, 32, 32), 10
    torch.manual_seed(0)
    model, clock = resnet18(16, classes), Clock()
    sets = rows(512, 1, shape, classes), rows(1024, 2, shape, classes), rows(128, 3, shape, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        with Request(model, *sets, batch_size=128, device="cpu").prepared() as problem:
            next(methods.nabla_tau(problem))  # torch loads much of itself at the first step
            with (
                clock.around(Problem, "_read_part", "forward"),
                clock.around(Problem, "backward", "backward"),
                clock.around(torch.optim.AdamW, "step", "optimiser"),
                clock.around(Problem, "place", "reading"),
            ):
                started = time.process_time()
                for passed, _ in enumerate(methods.nabla_tau(problem), 1):
                    if passed == 4:
                        break
                total = time.process_time() - started
    known = {name: value / total for name, value in clock.seconds.items()}
    return {**known, "rest": 1 - sum(known.values())}


def draw(found: dict[str, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1.8), layout="constrained")
    left = 0.0
    for name, share in found.items():
        axes.barh([0], [100 * share], left=[left], label=f"{name} {100 * share:.1f} %")
        left += 100 * share
    axes.set(yticks=[], xlim=(0, 100), xlabel="percent of the processor time of the passes")
    figure.legend(ncols=len(found), loc="outside upper center", frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def of_memory(width: int, batch: int) -> dict[str, Any]:
    found = {
        loop: measured_alone(loop, width=width, batch_size=batch, device=CPU, threads=1) for loop in (*LOOPS, *VARIANTS)
    }
    model_bytes = found["plain"]["model_bytes"]
    peaks = {name: run["peak_bytes"] for name, run in found.items()}
    return {
        "width": width,
        "batch": batch,
        "model_bytes": model_bytes,
        "peak_bytes": peaks,
        "ratio": {name: peak / peaks["plain"] for name, peak in peaks.items()},
    }


def table(found: dict[str, Any]) -> str:
    """Steps by parameters, and memory."""
    lines = ["| parameters | plain step | with ascent | without |", "| --- | --- | --- | --- |"]
    for run in found["parameters"]:
        ratios = (f"x {run['ratio'][name]:.2f}" for name in ("active", "inactive"))
        lines.append(f"| {run['parameters']:,} | {run['plain_seconds']:.3g} s | {' | '.join(ratios)} |")
    lines += ["", "| peak memory of | above the start | beside plain training |", "| --- | --- | --- |"]
    peaks, ratio = found["memory"]["peak_bytes"], found["memory"]["ratio"]
    return "\n".join([*lines, *(f"| {name} | {describe(peaks[name])} | x {ratio[name]:.2f} |" for name in peaks)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as-process", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.as_process:
        as_process(args.as_process)
        torch.distributed.destroy_process_group()
        return
    found: dict[str, Any] = {"benchmark": "scale", "machine": machine(CPU)}
    found["memory"] = of_memory(64, 32)
    print(json.dumps(found["memory"]), flush=True)
    found["processes"] = of_processes()
    print(json.dumps(found["processes"]), flush=True)
    found["share_of_time"] = shares()
    outside = found["share_of_time"]["reading"] + found["share_of_time"]["rest"]
    found["outside"] = {"share": outside, "target": OUTSIDE_TARGET, "met": outside <= OUTSIDE_TARGET}
    print(json.dumps(found["share_of_time"]), flush=True)
    found["parameters"] = []
    for size, width in WIDTHS.items():
        found["parameters"].append(of_parameters(width, args.repeats if size < 10**8 else 2))
        print(json.dumps(found["parameters"][-1]), flush=True)
    found["machine"]["load_at_end"] = load()
    print(table(found))
    if args.picture:
        draw(found["share_of_time"], args.picture)
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
