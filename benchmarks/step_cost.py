"""What ∇τ costs beside plain training and beside its published loop: time and memory, measured side by side.

    python benchmarks/step_cost.py --json

All loops take turns in one run (A B C, A B C, …), so that what else the machine does meets them alike, and every
ratio is formed within one turn. The memory of each loop is the peak of a process of its own. Nothing here asserts a
time: the targets and whether they were met are part of the output.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from nabla_tau import unlearning
from step_loops import (
    FORGET,
    REFRESH_EVERY,
    RETAIN,
    VALIDATION,
    Data,
    Loop,
    NablaTau,
    PlainTraining,
    PublishedLoop,
    new_model,
    random_data,
    state,
)
from step_memory import LOOPS, measured_alone
from step_report import load, machine, show

WARM_UP = 2
STEPS_IN_A_ROW = {"cpu": 1, "cuda": 20}  # timed as one: a GPU is not to be waited for after every step
MEMORY_PROCESSES = 3
STEP_TARGETS = {True: 0.95, False: 1.3}
CYCLE_TARGETS = {"cpu": {True: 1.02, False: 1.4}, "cuda": {True: 5.0, False: 5.0}}


class Seconds(NamedTuple):
    """Two readings of one duration; the second leaves out the time that other programs took."""

    wall: float
    processor: float


Pieces = dict[str, list[Seconds]]
"""Piece -> its duration in every turn: `step` (fetching included), `fetch`, `validate`; `cycle` on a GPU."""


def timed(function: Callable[[], Any], times: int, device: torch.device) -> Seconds:
    """Seconds per call."""
    readings = []
    for calls in (0, times):
        for _ in range(calls):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        readings.append((time.perf_counter(), time.process_time()))
    before, after = readings
    return Seconds((after[0] - before[0]) / times, (after[1] - before[1]) / times)


def in_turns(loops: list[Loop], repeats: int, device: torch.device, cycle_steps: int) -> dict[str, Pieces]:
    """Time the pieces of every loop in turns; on a GPU whole cycles too, each of `cycle_steps` steps."""
    measured: dict[str, Pieces] = {loop.name: {} for loop in loops}
    in_a_row = STEPS_IN_A_ROW[device.type]
    for turn in range(WARM_UP + repeats):
        for loop in loops:
            with loop.context():
                found = {
                    "step": timed(loop.whole_step, in_a_row, device),
                    "fetch": timed(loop.fetch, in_a_row, device),
                }
                if loop.validation_passes:
                    found["validate"] = timed(loop.validate, in_a_row, device)
                if loop.validation_passes and device.type == "cuda":
                    found["cycle"] = timed(lambda loop=loop: loop.cycle(cycle_steps), 1, device)  # type: ignore[misc]
            for piece, seconds in found.items() if turn >= WARM_UP else ():
                measured[loop.name].setdefault(piece, []).append(seconds)
    return measured


def spread(values: Iterable[float]) -> dict[str, float]:
    values = sorted(values)
    return {"min": values[0], "median": statistics.median(values), "max": values[-1]}


def ratio(above: list[Seconds], below: list[Seconds], target: float | None = None) -> dict[str, Any]:
    """Durations over durations, turn by turn."""
    found: dict[str, Any] = spread(a.wall / b.wall for a, b in zip(above, below, strict=True))
    processor = statistics.median(a.processor / b.processor for a, b in zip(above, below, strict=True))
    found["median_in_processor_time"] = processor
    if target is not None:
        found.update(target=target, met=found["median"] >= target)
    return found


def composed(
    pieces: Pieces, steps: int, validation_batches: float, once: Seconds | tuple[float, float] = (0, 0)
) -> list[Seconds]:
    """The duration of a stretch of the recipe, put together from its pieces in every turn."""
    return [
        Seconds(*(steps * step[clock] + validation_batches * validate[clock] + once[clock] for clock in range(2)))
        for step, validate in zip(pieces["step"], pieces["validate"], strict=True)
    ]


def parts(pieces: Pieces, steps: int, validation_batches: float) -> list[dict[str, float]]:
    """Seconds of the parts of a cycle in every turn."""
    return [
        {
            "steps": steps * (step.wall - fetch.wall),
            "fetching": steps * fetch.wall,
            "validation passes": validation_batches * validate.wall,
        }
        for step, fetch, validate in zip(pieces["step"], pieces["fetch"], pieces["validate"], strict=True)
    ]


def cycle_ratio(published: Pieces, ours: Pieces, steps: int, batches: tuple[float, float], target: float) -> Any:
    """The published cycle over ours, and what each part adds to it: in every turn they sum to the ratio less 1."""
    both = list(zip((published, ours), batches, strict=True))
    cycles = [pieces.get("cycle") or composed(pieces, steps, count) for pieces, count in both]
    theirs, our = (parts(pieces, steps, count) for pieces, count in both)
    names, turns = our[0].keys(), list(zip(theirs, our, strict=True))
    return {
        **ratio(cycles[0], cycles[1], target),
        "adds_to_ratio": {
            name: statistics.median((above[name] - below[name]) / sum(below.values()) for above, below in turns)
            for name in names
        },
        "published_seconds": {name: statistics.median(turn[name] for turn in theirs) for name in names},
        "seconds": {name: statistics.median(turn[name] for turn in our) for name in names},
    }


def checks(args: argparse.Namespace, data: Data) -> Seconds:
    """What `unlearn` does once before it changes anything: read, hash and check every row. Measured once."""
    sets = data.forget, data.retain, data.validation
    model = new_model(args.width, args.device)
    request = unlearning.Request(model, *sets, batch_size=args.batch, device=args.device)

    def prepare() -> None:
        with request.prepared():
            pass

    return timed(prepare, 1, args.device)


def measure_time(args: argparse.Namespace) -> dict[str, Any]:
    """Steps, refresh cycles and whole runs."""
    data, model = random_data(args.device), new_model(args.width, args.device)
    plain = PlainTraining(model, data, args.batch)
    ours = {active: NablaTau(model, data, args.batch, active=active) for active in (True, False)}
    theirs = {active: PublishedLoop(model, data, args.batch, active=active) for active in (True, False)}
    forget_batches, retain_batches = (math.ceil(rows / args.batch) for rows in (FORGET, RETAIN))
    cycle_steps, validation_batches = REFRESH_EVERY * forget_batches, VALIDATION / args.batch
    loops: list[Loop] = [plain, *(loop for active in (True, False) for loop in (ours[active], theirs[active]))]
    pieces = in_turns(loops, args.repeats, args.device, cycle_steps)

    epochs = int(6 * retain_batches / (2 * forget_batches))
    refreshes, run_steps = math.ceil(epochs / REFRESH_EVERY), epochs * forget_batches
    readings = 2 * (FORGET + 2 * VALIDATION) / args.batch  # before and after: both, and as much to keep
    checked = checks(args, data)
    found: dict[str, Any] = {"steps": {}, "cycle": {}, "run": {}}
    for active in (True, False):
        our, their = pieces[ours[active].name], pieces[theirs[active].name]
        per_refresh = theirs[active].validation_passes * validation_batches, validation_batches
        found["steps"][state(active)] = ratio(pieces[plain.name]["step"], our["step"], STEP_TARGETS[active])
        target = CYCLE_TARGETS[args.device.type][active]
        found["cycle"][state(active)] = cycle_ratio(their, our, cycle_steps, per_refresh, target)
        found["run"][state(active)] = ratio(
            composed(their, run_steps, refreshes * per_refresh[0]),
            composed(our, run_steps, refreshes * per_refresh[1] + readings, checked),
        )
    return {
        **found,
        "sizes": {
            "forget": FORGET,
            "retain": RETAIN,
            "validation": VALIDATION,
            "steps_in_a_cycle": cycle_steps,
            "epochs_in_a_run": epochs,
            "refreshes_in_a_run": refreshes,
        },
        "checks_seconds": checked.wall,
        "cycles_measured_whole": args.device.type == "cuda",
        "pieces_seconds": {
            name: {piece: spread(seconds.wall for seconds in found) for piece, found in loop.items()}
            for name, loop in pieces.items()
        },
    }


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peaks of fresh processes, in turns."""
    options = {"width": args.width, "batch_size": args.batch, "device": args.device, "threads": args.threads}
    found = [[measured_alone(loop, **options) for loop in LOOPS] for _ in range(MEMORY_PROCESSES)]
    plain, ours = (spread(turn[place]["peak_bytes"] for turn in found) for place in range(2))
    model_bytes = found[0][0]["model_bytes"]
    allowed = plain["median"] + model_bytes
    return {
        "plain_training_bytes": plain,
        "nabla_tau_bytes": ours,
        "model_bytes": model_bytes,
        "allowed_bytes": allowed,
        "met": ours["median"] <= allowed,
        "steps": {turn["loop"]: turn for turn in found[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", type=torch.device, default=default, help=f"cpu or cuda (default: {default})")
    parser.add_argument("--repeats", type=int, default=9, help="turns that count, after two that do not (default: 9)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--width", type=int, default=64, help="of the ResNet-18 (default: 64; less for a quick look)")
    parser.add_argument("--batch", type=int, default=256, help="forget, and as many retain samples a step (256)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"benchmark": "step_cost", "machine": machine(args.device)}
    found["settings"] = {key: getattr(args, key) for key in ("repeats", "threads", "width", "batch")}
    found["memory"] = measure_memory(args)
    found.update(measure_time(args))
    found["machine"]["load_at_end"] = load()
    show(found)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
