"""What `audit()` costs besides the forward passes, at the sizes of CIFAR-10: seconds, their parts, and peak memory.

    python benchmarks/audit_cost.py --output results/audit_cost.json

An original and an unlearned model on 15,000 forget, 35,000 retain and 10,000 test images of 3x32x32, in 10 classes. The
images are noise that carries the logits of both models in its first numbers: the original is sure of what it was
trained on, the unlearned model treats forget samples as unseen ones. A linear layer on 512 numbers reads them out, so
the forward passes cost little; what they do cost is subtracted. (Inputs that carry logits give the sets away, so the
verdict means nothing here.) Every audit is a fresh process: one with the whole bank
of scores, one with a loss of the user's own, which has one score, to show what the number of measures does to memory,
and one under Python's profiler for the parts. Nothing here asserts a time: the target and whether it was met are part
of the output.
"""

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from nabla_tau import audit
from nabla_tau.bench.peak import peak_memory
from nabla_tau.bench.storing import write_json
from step_report import load, machine

FORGET, RETAIN, TEST = 15_000, 35_000, 10_000
CLASSES, FEATURES = 10, 512
TARGET_SECONDS = 180
AUDITS = ("whole bank", "one score", "profiled")
PARTS = {
    "the paper's attacks": "attack",
    "boosted trees": "boosted_attack",
    "bootstrap of the utility": "_utility",
    "energy distance": "energy_distance",
    "Kolmogorov-Smirnov": "kolmogorov_smirnov",
    "reading and checking every row": "survey_sets",
    "forward passes and scores": "score",
    "inputs alone, features": "input_features",
}
"""Part -> the function whose calls it is."""

Rows = tuple[Tensor, Tensor]
Json = dict[str, Any]


class Reader(nn.Module):
    """Reads logits off an image; counts what its forward passes cost."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(CLASSES, FEATURES).roll(first, 1))
            self.linear.bias.zero_()
        self.seconds = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, 10)."""
        started = time.perf_counter()
        logits: Tensor = self.linear(images.flatten(1)[:, :FEATURES])
        self.seconds += time.perf_counter() - started
        return logits


def images(size: int, surenesses: tuple[bool, bool]) -> Rows:
    """Noise that carries the logits of the original model and of the unlearned one, each sure of these rows or not."""
    pixels, targets = torch.randn(size, 3 * 32 * 32), torch.randint(CLASSES, (size,))
    for model, sure in enumerate(surenesses):
        lead = torch.distributions.Gamma(4.0, 1 / 3).sample((size,)) if sure else 4 + 4 * torch.randn(size)
        pixels[torch.arange(size), targets + model * CLASSES] += lead
    return pixels.reshape(size, 3, 32, 32), targets


def own_loss(model: nn.Module, batch: Rows) -> Tensor:
    """A loss that the library does not know."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def one_audit(kind: str) -> Json:
    torch.manual_seed(0)
    forget, retain, test = (
        images(size, sure) for size, sure in ((FORGET, (True, False)), (RETAIN, (True, True)), (TEST, (False, False)))
    )
    original, unlearned = Reader(0), Reader(CLASSES)
    sets: Json = {"forget": forget, "retain": retain, "test": test}
    loss = own_loss if kind == "one score" else None
    profile = cProfile.Profile()
    with peak_memory(torch.device("cpu")) as peak:
        started = time.perf_counter()
        if kind == "profiled":
            profile.enable()
        report = audit(unlearned, original=original, **sets, loss=loss, device="cpu")
        profile.disable()
        seconds, forward = time.perf_counter() - started, original.seconds + unlearned.seconds
    found: Json = {"seconds": seconds, "forward_seconds": forward, "peak_bytes": peak[0]}
    found["scores"] = len(report.data["models"][0]["attacks"])
    if kind == "profiled":
        found["parts_seconds"] = {part: cumulative(profile, name) for part, name in PARTS.items()}
    return found


def cumulative(profile: cProfile.Profile, name: str) -> float:
    """Seconds within the library's functions of this name."""
    functions: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    seconds = [row[3] for (file, _, called), row in functions.items() if called == name and "nabla_tau" in file]
    return float(sum(seconds))


def measured_alone(kind: str, threads: int) -> Json:
    command = [sys.executable, __file__, "--alone", kind, "--threads", str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: Json = json.loads(output.splitlines()[-1])
    return found


def show(found: Json) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(f"audit() of two models on {FORGET:,} forget, {RETAIN:,} retain and {TEST:,} test samples")
    table = Table()
    for heading in ("", "scores", "seconds", "of it forward", "peak memory"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for kind, audited in found["audits"].items():
        table.add_row(
            kind,
            str(audited["scores"]),
            f"{audited['seconds']:.1f}",
            f"{audited['forward_seconds']:.1f}",
            f"{audited['peak_bytes'] / 2**20:,.0f} MiB",
        )
    console.print(table, highlight=False)
    for part, seconds in found["audits"]["profiled"]["parts_seconds"].items():
        console.print(f"  {part}: {seconds:.1f} s (profiled)", highlight=False)
    seconds, met = found["seconds_besides_forward"], "met" if found["met"] else "missed"
    console.print(f"Besides the forward passes: {seconds:.1f} s; target {TARGET_SECONDS} s, {met}.", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--output", type=Path, help="JSON file to write (default: none)")
    parser.add_argument("--alone", choices=AUDITS, help="one audit in this process, as one line of JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        print(json.dumps(one_audit(args.alone)))
        return
    found: Json = {"benchmark": "audit_cost", "machine": machine(torch.device("cpu"))}
    found["settings"] = {"threads": args.threads, "forget": FORGET, "retain": RETAIN, "test": TEST}
    found["audits"] = {kind: measured_alone(kind, args.threads) for kind in AUDITS}
    whole = found["audits"]["whole bank"]
    found["seconds_besides_forward"] = whole["seconds"] - whole["forward_seconds"]
    found.update(target_seconds=TARGET_SECONDS, met=found["seconds_besides_forward"] < TARGET_SECONDS)
    found["machine"]["load_at_end"] = load()
    show(found)
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
