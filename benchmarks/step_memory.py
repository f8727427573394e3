"""The peak memory of one loop in a process of its own: `python benchmarks/step_memory.py plain --width 64`.

Prints one JSON object. `step_cost.py` starts it for each loop. What is there before the loop starts (interpreter,
libraries, the original model, the data) is not counted.
"""

import argparse
import json
import subprocess
import sys
import warnings
from typing import Any

import torch
from torch import nn

from nabla_tau import checks, methods, unlearning
from nabla_tau.bench.peak import peak_memory
from step_loops import Data, PlainTraining, Rows, new_model, random_data

LOOPS = ("plain", "nabla_tau")
VARIANTS: dict[str, dict[str, Any]] = {"in_place": {"in_place": True}, "micro_batches": {"micro_batch_size": 16}}
VARIANTS["in_place_and_micro_batches"] = {**VARIANTS["in_place"], **VARIANTS["micro_batches"]}
RETAIN_BATCHES = 4  # to one forget batch: 12 epochs of one step each by the published recipe
STEPS = 12


def train(model: nn.Module, data: Data, batch_size: int) -> dict[str, Any]:
    """Plain training; the model passed in is the one trained: no original is kept."""
    loop = PlainTraining(model, data, batch_size, in_place=True)
    for _ in range(STEPS):
        loop.step(loop.fetch())
    return {"steps": STEPS}


def forget(model: nn.Module, data: Data, batch_size: int, **resources: Any) -> dict[str, Any]:
    """The real call, from the checks to the result, with the original kept unless it is given up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checks.UnlearningWarning)  # random labels: the target is out of reach
        unlearned = unlearning.unlearn(
            model,
            forget=data.forget,
            retain=data.retain,
            validation=data.validation,
            method=methods.nabla_tau_published,
            batch_size=batch_size,
            device=data.forget[0].device,
            **resources,
        )
    active = sum((epoch.ascent_weight or 0) > 0 for epoch in unlearned.epochs)
    if active < 2:  # the second step is the first one with the optimiser's state
        raise RuntimeError(f"ascent was active in {active} steps: this is not the memory of ∇τ")
    return {"steps": len(unlearned.epochs), "steps_with_ascent": active}


def small_data(model: nn.Module, batch_size: int, device: torch.device) -> Data:
    """One forget batch that the model gets right and one validation batch that it gets wrong: ascent is active."""
    data = random_data(device, batch_size, RETAIN_BATCHES * batch_size, batch_size)
    with torch.no_grad():
        right = model.eval()(data.forget[0]).argmax(1)
        wrong = model(data.validation[0]).argmin(1)
    model.train()
    relabelled: tuple[Rows, Rows] = (data.forget[0], right), (data.validation[0], wrong)
    return Data(data.training, relabelled[0], data.retain, relabelled[1])


def measured_alone(loop: str, *, width: int, batch_size: int, device: torch.device, threads: int) -> dict[str, Any]:
    """The result of this file as a fresh process."""
    options = {"--width": width, "--batch": batch_size, "--device": device, "--threads": threads}
    command = [sys.executable, __file__, loop, *(str(part) for option in options.items() for part in option)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop", choices=[*LOOPS, *VARIANTS])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = new_model(args.width, args.device)
    data = small_data(model, args.batch, args.device)
    model_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    resources = VARIANTS.get(args.loop, {})
    with peak_memory(args.device) as peak:
        done = (train if args.loop == "plain" else forget)(model, data, args.batch, **resources)
    print(json.dumps({"loop": args.loop, "peak_bytes": peak[0], "model_bytes": model_bytes, **done}))


if __name__ == "__main__":
    main()
