r"""A method of your own beside those of the package, on the same models of a task of the benchmark.

    NABLA_TAU_DATA=DIR python benchmarks/own_method.py my_method.py:mine location30 random-0.15 --seeds 5 6 7 \
        --beside nabla_tau scrub_small ssd

The file holds a method as docs/methods.md shows one; settings of its own can be fixed by a `functools.partial` in it.
Models are trained once, into --models. Prints a row for each method: the components of the gap to retrained, in points,
as means over seeds, and the gap with its 95 % interval; *original* is doing nothing, the gap of *retrained* the floor.
Errors and what the runs said themselves stand below.
"""

import argparse
from pathlib import Path
from typing import Any

from nabla_tau.auditing.measures import FEWEST_SAMPLES
from nabla_tau.bench.cells import UNLEARNING
from nabla_tau.bench.cli import MODELS
from nabla_tau.bench.suites import too_few
from nabla_tau.bench.tasks import TASKS, forget_problem
from nabla_tau.project import find_function
from side_by_side import compare


def seed(text: str) -> int:
    """A seed of the benchmark; a text that is none is argparse's to refuse."""
    if not 0 <= int(text) < 1000:
        raise argparse.ArgumentTypeError(f"expected a whole number in [0, 1000), got {text}")
    return int(text)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("method", metavar="FILE.py:FUNCTION")
    arguments.add_argument("task", choices=TASKS)
    arguments.add_argument("forget", help="random-0.15 and its like, class, subclass or group")
    arguments.add_argument("--seeds", type=seed, nargs="+", metavar="SEED", default=[0])
    arguments.add_argument("--beside", nargs="*", choices=UNLEARNING, default=["nabla_tau"])
    arguments.add_argument("--models", type=Path, default=MODELS, help="trained models, to be used again")
    options = arguments.parse_args()
    methods: dict[str, Any] = {name: UNLEARNING[name] for name in options.beside}
    try:
        if problem := forget_problem(options.forget):
            raise ValueError(problem)
        if too_small := too_few(options.task, options.forget, "quick"):
            raise ValueError(f"Expected {FEWEST_SAMPLES} rows at least, which the audit needs, got {too_small}.")
        methods[f"{options.method.rpartition(':')[2]} (own)"] = find_function(options.method)
        print(compare(methods, options.task, options.forget, options.seeds, options.models))
    except (ValueError, OSError) as error:
        arguments.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
