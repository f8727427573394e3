"""The README's example with Transformers runs as it stands, on a small model of the same kind."""

import re
import warnings

import torch
from typer.testing import CliRunner

from nabla_tau.cli import app
from tests.conftest import REPOSITORY, require


def blocks(language):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_transformers_example(tmp_path, encoder_folder, monkeypatch):
    datasets, transformers = require("datasets"), require("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder)
    tokenizer.save_pretrained("my-classifier")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForSequenceClassification(config).save_pretrained("my-classifier")
    words = ["good", "bad", "film", "book", "song", "day", "meal", "trip"]
    for part, count in (("train", 48), ("held_out", 20)):
        texts = [f"{words[row % 8]} {words[row % 5]} {part} {row}" for row in range(count)]
        users = [f"user-{row + (0 if part == 'train' else 500)}" for row in range(count)]
        rows = {"text": texts, "label": [row % 2 for row in range(count)], "user_id": users}
        datasets.Dataset.from_dict(rows).to_parquet(f"{part}.parquet")
    (example,) = (block for block in blocks("python") if "AutoModel" in block)
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(example, namespace)
    unlearned = namespace["unlearned"]
    assert unlearned.settings["loss"] == "classification"
    assert unlearned.settings["samples"] == {"forget": 2, "retain": 46, "validation": 20}


def test_the_commands_exist():
    shown = [line for line in "".join(blocks("sh")).splitlines() if "nabla-tau unlearn" in line]
    help_text = CliRunner().invoke(app, ["unlearn", "--help"], env={"COLUMNS": "200"}).stdout
    assert len(shown) >= 3
    assert set(re.findall(r"--[a-z-]+", " ".join(shown))) <= set(re.findall(r"--[a-z-]+", help_text))
