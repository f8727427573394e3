r"""A method of your own beside those of the package, on the same models of a task of the benchmark.

    NABLA_TAU_DATA=DIR python benchmarks/own_method.py my_method.py:mine location30 random-0.15 --seeds 5 6 7 \
        --beside nabla_tau scrub_small ssd --models MODELS

The file holds a method as docs/methods.md shows one. Models are trained once into MODELS. Prints a row for each
method: the components of the gap to retrained, in points, as means over seeds, and the gap; *original* is doing
nothing, the gap of *retrained* the floor.
"""

import argparse
from pathlib import Path

from nabla_tau.bench.cells import UNLEARNING
from nabla_tau.project import find_function
from side_by_side import compare


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("method", metavar="FILE.py:FUNCTION")
    arguments.add_argument("task")
    arguments.add_argument("forget")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--beside", nargs="*", choices=UNLEARNING, default=["nabla_tau"])
    arguments.add_argument("--models", type=Path, required=True)
    options = arguments.parse_args()
    methods = {name: UNLEARNING[name] for name in options.beside}
    own = options.method.rpartition(":")[2]
    methods[f"{own} (own)" if own in methods else own] = find_function(options.method)
    print(compare(methods, options.task, options.forget, options.seeds, options.models))


if __name__ == "__main__":
    main()
