"""What each ingredient of the default method buys: the method without it, beside the method. See docs/methods.md.

    NABLA_TAU_DATA=DIR python benchmarks/ablations.py location30 random-0.15 --seeds 0 1 2 --models MODELS

Tasks of the benchmark at `quick`; models are trained once into MODELS, with `--passes 6` for six passes alone, so that
they are still learning. Prints a row for each variant: the components of the gap to retrained, in points, as means over
seeds, and the gap.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from nabla_tau import target, trials
from nabla_tau.facts import Facts, described, facts_of
from nabla_tau.methods import nabla_tau
from nabla_tau.objective import Step, descend
from nabla_tau.problem import Epoch, Method, Problem
from side_by_side import compare

DEFAULT = sys.modules[nabla_tau.__module__]
PARTS = (DEFAULT, trials, target)
"""Modules that the default is made of."""
FACTS = cast(Facts, facts_of(nabla_tau))


def without(facts: Facts = FACTS, **other: Any) -> Method:
    """The default method with some names of its modules given another value."""

    @described(facts)
    def variant(problem: Problem) -> Iterator[Epoch]:
        with ExitStack() as changed:
            for name, value in other.items():
                parts = [part for part in PARTS if hasattr(part, name)]
                assert parts, f"no part of the default has {name}"
                for part in parts:
                    changed.enter_context(patch.object(part, name, value))
            yield from nabla_tau(problem)

    return variant


def descend_unbounded(*arguments: Any, largest_weight: float, **named: Any) -> Step:
    return descend(*arguments, **named)


def descend_in_units_of_the_loss(*arguments: Any, unit: float, **named: Any) -> Step:
    return descend(*arguments, **named)


def progress(problem: Problem) -> float:
    """How far the plan is, x: e/E in pass e; where it is cut short it goes on to 1 step by step. 1 after it."""
    settings, steps, batches = problem.settings, problem.steps, problem.forget.batches
    cut = settings.get("plan_cut_short_after")
    end = settings["steps"] if cut is None else cut + settings["look_every"] * batches
    if steps >= end:
        return 1.0
    if cut is None:
        return float(steps // batches / settings["epochs"])
    done = cut / settings["steps"]
    return float(done + (1 - done) * (steps - cut) / (end - cut))


def falling(power: float, after: float) -> Callable[..., Step]:
    """Steps of an α that falls to 0 over the plan, α (1 − x) or later; after it α · `after`."""

    def step(problem: Problem, *arguments: Any, alpha: float, largest_weight: float, **named: Any) -> Step:
        x = progress(problem)
        other = alpha * (1 - x**power if x < 1 else after)
        scale = (1 - other) / (1 - alpha)
        named["retain_weight"] *= scale
        return descend(problem, *arguments, alpha=other, largest_weight=scale * largest_weight, **named)

    return step


def descend_unpushed_after_the_plan(problem: Problem, *arguments: Any, largest_weight: float, **named: Any) -> Step:
    return descend(problem, *arguments, largest_weight=largest_weight if progress(problem) < 1 else 0.0, **named)


def descend_without_yielding(*arguments: Any, alpha: float, largest_weight: float, **named: Any) -> Step:
    return descend(*arguments, alpha=alpha, largest_weight=1 - alpha, **named)


def descend_without_rest(*arguments: Any, retain_weight: float, **named: Any) -> Step:
    return descend(*arguments, **named)


TRIAL = trials._descend_on_retain


def no_trial_at_no_rate(problem: Problem, rate: float, following: list[_BatchNorm]) -> list[torch.Tensor]:
    """Then what the statistics of batch norm move is held against every rate."""
    return TRIAL(problem, rate, following) if rate else []


VARIANTS = {
    "default": without(),
    "weights not shrunk": without(SHRINKING=1.0),
    "weights do not fade": without(FADING_PASSES=math.inf),
    "α falls linearly, as published": without(descend=falling(1, after=0.0)),
    "α falls linearly, and is back after the plan": without(descend=falling(1, after=1.0)),
    "α falls late, and is back after the plan": without(descend=falling(2, after=1.0)),
    "rates from 1e-3 down": without(LEARNING_RATES=trials.LEARNING_RATES[1:]),
    "in the loss's own units": without(descend=descend_in_units_of_the_loss),
    "w not bounded": without(descend=descend_unbounded),
    "w does not yield": without(descend=descend_without_yielding),
    "the descent does not rest": without(descend=descend_without_rest),
    "rows may move": without(LARGEST_MOVE=math.inf),
    "batch norm's shift counts": without(_descend_on_retain=no_trial_at_no_rate),
    "losses not bounded": without(LARGEST_DEVIATION=math.inf),
    "every batch by itself": without(LAST_BATCH=1.0),
    "batch norm always follows": without(LARGEST_SHIFT=math.inf),
    "batch norm frozen": without(changing_batch_norms=lambda model: []),
    "momentum kept": without(lose_momentum=lambda optimizer: None),
    "α = 5/3 ρ, not bounded": without(PUBLISHED_FORGET_FRACTIONS=(0.0, 0.6)),
    "two passes over the larger set": without(PASSES=2),
    "one pass over the larger set": without(PASSES=1),
    "80 steps at least": without(LEAST_STEPS=80),
    "320 steps at least": without(LEAST_STEPS=320),
    "the plan is not cut short": without(REACHED=math.inf),
    "ends after the plan": without(REPAIRED=math.inf),
    "no push after the plan": without(descend=descend_unpushed_after_the_plan),
    "no ascent": without(ALPHA_PER_FORGET_FRACTION=0.0),
}
OF_LABELS = {"no price of removed labels": without(replace(FACTS, prices=False))}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("task")
    arguments.add_argument("forget")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--models", type=Path, required=True)
    arguments.add_argument("--only", nargs="+", choices=[*VARIANTS, *OF_LABELS], help="these variants; else all")
    arguments.add_argument("--passes", type=int, help="of training; as many as at quick if left out")
    options = arguments.parse_args()
    variants = {**VARIANTS, **OF_LABELS} if options.forget in ("class", "subclass") else VARIANTS
    if wrong := set(options.only or ()) - set(variants):
        arguments.error(f"expected variants that apply to {options.forget}, got {', '.join(sorted(wrong))}")
    variants = {name: one for name, one in variants.items() if name in (options.only or variants)}
    print(compare(variants, options.task, options.forget, options.seeds, options.models, options.passes))


if __name__ == "__main__":
    main()
