"""Slices on a Ray cluster, whose machines need this package, the data and a disk, but share none of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nabla_tau.bench.cells import Bench, Cell
from nabla_tau.bench.measuring import measure_slice
from nabla_tau.bench.storing import Json
from nabla_tau.bench.warming import warm_up
from nabla_tau.errors import InvalidRequest


def measure_on_ray(slices: list[list[Cell]], bench: Bench, address: str) -> Iterator[tuple[Path, Json]]:
    """Measure slices, each on a machine that trains the models it needs; cells come back as they are finished.

    Args:
        slices: cells of one task and seed each.
        bench: where, on each machine: folder of models and of data, kind of device.
        address: of the cluster; `auto` finds a local one.

    Yields:
        Path below the folder of results and content.

    Raises:
        InvalidRequest: if Ray is not installed, or there is no such cluster.
        OSError: if a worker was lost.

    Example:
        >>> list(measure_on_ray([], Bench(Path("models"), torch.device("cpu")), "auto"))
        []
    """
    if not slices:
        return
    try:
        import ray
    except ImportError as error:
        raise InvalidRequest(["ray: expected the package, got none: pip install 'nabla-tau[ray]'."]) from error
    ours = not ray.is_initialized()
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise InvalidRequest([f"ray: expected a cluster at {address}, got none ({error}): start one."]) from error
    gpus = 1 if bench.device.type == "cuda" else 0
    measure = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_measure)
    streams: list[Any] = []
    try:
        streams += [measure.options(num_returns="streaming").remote(cells, bench) for cells in slices]
        while streams:
            ready: list[Any] = ray.wait(streams, num_returns=1, fetch_local=False)[0]
            try:
                found: Any = ray.get(next(ready[0]))
                yield found
            except StopIteration:
                streams.remove(ready[0])
    except ray.exceptions.RayError as error:
        raise OSError(
            f"Expected Ray's workers to finish, got {type(error).__name__}: finished cells are kept; see that each "
            "machine has the package and memory enough, and start again."
        ) from error
    finally:
        for stream in streams:
            ray.cancel(stream)
        if ours:
            ray.shutdown()


def _measure(cells: list[Cell], bench: Bench) -> Iterator[tuple[Path, Json]]:
    torch.set_num_threads(1)
    warm_up()
    yield from measure_slice(cells, bench)
