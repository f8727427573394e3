"""Training throughput of the benchmark's loop against a plain `DataLoader` loop, in one run, turn about.

    python benchmarks/training_cost.py --images 2000 --width 16 --output results/training_cost.json

Both train the same ResNet-18 on the same images with the same optimizer, padded, cropped and flipped at random. The
plain loop does what is usual: a dataset that augments image by image, a `DataLoader` that collates. The benchmark's
loop keeps the images on the device as bytes and augments whole batches there; on a GPU it runs in bf16, channels last.
Images are noise: what they show costs nothing. Nothing here asserts a time.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from nabla_tau import losses
from nabla_tau.bench.data import Pool, Rows
from nabla_tau.bench.networks import resnet18
from nabla_tau.bench.storing import write_json
from nabla_tau.bench.tasks import Recipe, Task
from nabla_tau.bench.training import PADDING, trained
from nabla_tau.randomness import seeded
from step_report import load, machine


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Augments one image at a time."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows[1])

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = functional.pad(self.rows[0][row], (PADDING,) * 4)
        top, left = torch.randint(2 * PADDING + 1, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        return image.flip(2) if torch.rand(()) < 0.5 else image, self.rows[1][row]


def plain(task: Task, recipe: Recipe, rows: Rows, seed: int, device: torch.device, workers: int) -> None:
    """One model by a plain loop."""
    with seeded(seed):
        model = task.network(recipe.width).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), recipe.learning_rate, 0.9, weight_decay=recipe.weight_decay)
        loader = DataLoader(Images(rows), recipe.batch_size, shuffle=True, num_workers=workers, pin_memory=workers > 0)
        for _ in range(recipe.epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                batch = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
                task.loss(model, batch).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def timed(train: Callable[[], object], images: int, device: torch.device) -> float:
    """Images per second of one training."""
    started = time.perf_counter()
    train()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="images an epoch (default: 2000)")
    parser.add_argument("--width", type=int, default=16, help="of the ResNet-18; 64 is the standard (default: 16)")
    parser.add_argument("--epochs", type=int, default=1, help="of each training (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: 5)")
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader (default: 0)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path, help="JSON file to write (default: none)")
    args = parser.parse_args()
    recipe = Recipe(
        train=args.images,
        validation=0,
        test=0,
        width=args.width,
        epochs=args.epochs,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=5e-4,
        batch_size=256,
        augmented=True,
    )
    rows = torch.randint(256, (args.images, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (args.images,))
    task = Task(lambda: Pool(rows), partial(resnet18, outputs=10), losses.classification, {})
    where = machine(args.device)
    loops: dict[str, Callable[[], object]] = {
        "the benchmark's": lambda: trained(task, recipe, rows, 0, args.device),
        "plain DataLoader": lambda: plain(task, recipe, rows, 0, args.device, args.workers),
    }
    for loop in loops.values():
        loop()  # what is slow once is not counted
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(args.repeats):
        for name, loop in loops.items():
            rates[name].append(timed(loop, args.images * args.epochs, args.device))
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    found = {
        "benchmark": "training_cost",
        "machine": {**where, "load_at_end": load(), "threads": torch.get_num_threads()},
        "settings": {name: str(value) for name, value in vars(args).items() if name != "output"},
        "images_per_second": {name: {"median": median(values), "all": values} for name, values in rates.items()},
        "ratio": {"median": median(ratios), "low": min(ratios), "high": max(ratios)},
    }
    console = Console(highlight=False)
    for name, values in rates.items():
        console.print(f"{name:<18} {median(values):10,.0f} images/s")
    console.print(f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} over {args.repeats} turns)")
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
