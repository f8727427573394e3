"""How `step_cost.py` shows what it measured."""

import os
import platform
import shlex
import sys
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nabla_tau.bench.processors import processor
from nabla_tau.memory import describe


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures are worth nothing without."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_at_start": load(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def load() -> float:
    """Programs that ran or waited in the last minute: more than there are cores disturb the figures."""
    return round(os.getloadavg()[0], 2)


def show(found: dict[str, Any]) -> None:
    """Three tables, what they mean, and what they were measured on."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    settings, where = found["settings"], found["machine"]
    parts = [
        steps_table(found),
        "",
        cycle_table(found),
        cycle_notes(found),
        "",
        memory_table(found["memory"]),
        "∇τ is the real call, unlearn(…, method=nabla_tau_published), from checks to result.",
        "",
        f"{where['device']}; {where['processor']}, {where['cores']} cores, {settings['threads']} torch threads, "
        f"load {where['load_at_start']} before and {where['load_at_end']} after",
        f"torch {where['torch']}, Python {where['python']}; {where['command']}",
    ]
    for part in parts:
        console.print(part, highlight=False)


def steps_table(found: dict[str, Any]) -> Table:
    settings = found["settings"]
    table = Table(
        title=f"Samples per second, ResNet-18 of width {settings['width']} at 32x32, {settings['batch']} + "
        f"{settings['batch']} samples a step; ratios over {settings['repeats']} turns",
        title_justify="left",
    )
    for heading in ("", "samples/s", "over plain training", "min … max", "in processor time", "target"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, pieces in found["pieces_seconds"].items():
        rate = f"{2 * settings['batch'] / pieces['step']['median']:,.0f}"
        state = name.partition(", ")[2]
        if name.startswith("∇τ"):
            table.add_row(name, rate, *ratio_cells(found["steps"][state]))
        else:
            table.add_row(name, rate)
    return table


def cycle_table(found: dict[str, Any]) -> Table:
    how = "whole cycles, measured" if found["cycles_measured_whole"] else "composed from measured pieces"
    table = Table(
        title=f"The published loop's time over ∇τ's, {how} on {found['machine']['device']}",
        title_justify="left",
    )
    for heading in ("", "seconds", "ratio", "min … max", "in processor time", "target"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for state, cycle in found["cycle"].items():
        seconds = [sum(cycle[key].values()) for key in ("published_seconds", "seconds")]
        table.add_row(f"cycle, {state}", f"{seconds[0]:.1f} / {seconds[1]:.1f}", *ratio_cells(cycle))
        for part, adds in cycle["adds_to_ratio"].items():
            both = f"{cycle['published_seconds'][part]:.1f} / {cycle['seconds'][part]:.1f}"
            table.add_row(f"  of it {part}", both, f"{adds:+.3f}")
        table.add_row(f"whole run, {state}", "", *ratio_cells(found["run"][state]), end_section=True)
    return table


def cycle_notes(found: dict[str, Any]) -> str:
    sizes = found["sizes"]
    lines = [
        f"A cycle: one refresh of τ ({sizes['validation']:,} rows; three passes published, one here) and the "
        f"{sizes['steps_in_a_cycle']} steps to the next;",
        f"sets of {sizes['forget']:,} forget and {sizes['retain']:,} retain rows.",
        f"A run: the {sizes['epochs_in_a_run']} epochs and {sizes['refreshes_in_a_run']} refreshes of the published "
        "recipe, always composed; on our side with what unlearn() does",
        f"besides: its checks of every row ({found['checks_seconds']:.1f} s), and the losses of forget and validation "
        "set and of as many rows to keep, before and after.",
        "Seconds are published / ∇τ; all figures are medians over the turns, those of the parts each by itself.",
    ]
    if not found["cycles_measured_whole"]:
        lines.append("No cycle was run whole: the pieces are a step, the fetching in it, and a validation batch.")
    return "\n".join(lines)


def memory_table(memory: dict[str, Any]) -> Table:
    table = Table(
        title="Peak memory beyond original model and data, each loop in processes of its own",
        title_justify="left",
    )
    for heading in ("", "median", "min … max", "met"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, key in (("plain training", "plain_training_bytes"), ("∇τ", "nabla_tau_bytes")):
        peak = memory[key]
        met = ("yes" if memory["met"] else "NO") if name == "∇τ" else ""
        table.add_row(name, describe(peak["median"]), f"{describe(peak['min'])} … {describe(peak['max'])}", met)
    table.add_row("allowed: plain training and one copy of the model", describe(memory["allowed_bytes"]))
    return table


def ratio_cells(ratio: dict[str, Any]) -> tuple[str, ...]:
    target = f">= {ratio['target']:g}: {'met' if ratio['met'] else 'NOT met'}" if "target" in ratio else ""
    return (
        f"{ratio['median']:.3f}",
        f"{ratio['min']:.3f} … {ratio['max']:.3f}",
        f"{ratio['median_in_processor_time']:.3f}",
        target,
    )
