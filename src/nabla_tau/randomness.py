"""Random state: used under a seed of our own, left as it was found."""

import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

_seeds = list[object]()
"""A mark for each `seeded` that is entered and not left."""


@contextmanager
def undisturbed(generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Put the global random states (Python, NumPy, torch, CUDA) and the given generators back at the end.

    Not where the `seeded` around it was left before, which has put them back itself: a generator that a failure cut off
    lives on in the traceback, and is closed when nobody expects it.

    Example:
        >>> before = torch.get_rng_state()
        >>> with undisturbed():
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    states = _global_states()
    own = [generator.get_state() for generator in generators]
    around = _seeds[-1] if _seeds else None
    try:
        yield
    finally:
        if around is None or around in _seeds:
            _restore(states)
            for generator, state in zip(generators, own, strict=True):
                generator.set_state(state)


@contextmanager
def seeded(seed: int, generators: Sequence[torch.Generator] = (), *, on_gpu: bool = False) -> Iterator[None]:
    """Run under one seed, on a GPU with deterministic algorithms; everything is put back at the end.

    Args:
        seed: for Python, NumPy and torch.
        generators: further generators to put back; they are not seeded, a loader's order is the user's.
        on_gpu: whether CUDA kernels will run.

    Example:
        >>> draws = []
        >>> for _ in range(2):
        ...     with seeded(7):
        ...         draws.append(float(torch.rand(())))
        >>> draws[0] == draws[1]
        True
    """
    with undisturbed(generators):
        seed_all(seed)
        _seeds.append(mark := object())
        try:
            with _deterministic_kernels() if on_gpu else nullcontext():
                yield
        finally:
            _seeds.remove(mark)


class Chance:
    """Global random states of its own: what is drawn inside follows from the seed, and moves nothing outside.

    Args:
        seed: for Python, NumPy and torch, where it is entered first; from then on it goes on where it was left.

    Example:
        >>> def draws(disturbed):
        ...     chance = Chance(7)
        ...     for _ in range(2):
        ...         with chance.drawing():
        ...             yield random.random()
        ...         random.seed(disturbed)
        >>> list(draws(1)) == list(draws(2))
        True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._states: dict[str, Any] | None = None

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw from these states; those outside are put back at the end."""
        with undisturbed():
            if self._states is None:
                seed_all(self.seed)
            else:
                _restore(self._states)
            try:
                yield
            finally:
                self._states = _global_states()


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch.

    Example:
        >>> with undisturbed():
        ...     seed_all(7)
        ...     first = random.random()
        ...     seed_all(7)
        ...     first == random.random()
        True
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states(generators: Sequence[torch.Generator] = ()) -> dict[str, Tensor]:
    """The global random states and those of the given generators, as tensors that `set_random_states` takes.

    Example:
        >>> sorted(random_states([torch.Generator()]))
        ['generator 0', 'numpy', 'numpy gauss', 'python', 'python gauss', 'torch']
    """
    _, python, gauss = random.getstate()
    _, keys, place, has_gauss, cached = np.random.get_state()
    states = {
        "python": torch.tensor(python),
        "python gauss": torch.tensor(float("nan") if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), int(place), int(has_gauss)]),
        "numpy gauss": torch.tensor(float(cached), dtype=torch.float64),
        "torch": torch.get_rng_state(),
        **{f"generator {place}": generator.get_state() for place, generator in enumerate(generators)},
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.update({f"cuda {place}": state for place, state in enumerate(torch.cuda.get_rng_state_all())})
    return states


def set_random_states(states: Mapping[str, Tensor], generators: Sequence[torch.Generator] = ()) -> None:
    """Put back what `random_states` read.

    Example:
        >>> with undisturbed():
        ...     states = random_states()
        ...     drawn = torch.rand(()), np.random.rand(), random.gauss()
        ...     set_random_states(states)
        ...     drawn == (torch.rand(()), np.random.rand(), random.gauss())
        True
    """
    gauss = float(states["python gauss"])
    random.setstate((3, tuple(states["python"].tolist()), None if math.isnan(gauss) else gauss))
    *keys, place, has_gauss = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, float(states["numpy gauss"])))
    torch.set_rng_state(states["torch"])
    for place, generator in enumerate(generators):
        generator.set_state(states[f"generator {place}"])
    if "cuda 0" in states:
        torch.cuda.set_rng_state_all([states[f"cuda {place}"] for place in range(torch.cuda.device_count())])


@contextmanager
def _deterministic_kernels() -> Iterator[None]:
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)  # a kernel without such a form is named, not refused
    torch.backends.cudnn.benchmark = False
    debugging: Any = torch.utils.deterministic
    filled = debugging.fill_uninitialized_memory
    debugging.fill_uninitialized_memory = False  # a debugging aid that costs a kernel per new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        torch.backends.cudnn.benchmark = benchmark
        debugging.fill_uninitialized_memory = filled
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]


def _global_states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _restore(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
