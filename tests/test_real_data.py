"""∇τ on real data: the forget loss moves to its target, and what is kept stays."""

import io
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nabla_tau import UnlearningWarning, methods, split, unlearn
from tests.conftest import require

pytestmark = pytest.mark.filterwarnings("ignore::nabla_tau.checks.UnlearningWarning")


def table(path, rows=None):
    from pyarrow import parquet

    found = parquet.read_table(path)
    return found if rows is None else found.slice(0, rows)


def train(model, rows, epochs, rate, loss=functional.cross_entropy, batch_size=64):
    """Train from the start on tensors: inputs..., targets."""
    *inputs, targets = rows
    steps = epochs * -(-len(targets) // batch_size)
    head = [{"params": model.head.parameters(), "lr": 1e-2}] if hasattr(model, "head") else []
    body = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head")]
    optimizer = torch.optim.AdamW([{"params": body, "lr": rate}, *head])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(targets)).split(batch_size):
            optimizer.zero_grad()
            loss(model(*(column[batch] for column in inputs)), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model, part):
    inputs, targets = next(iter(torch.utils.data.DataLoader(part, batch_size=len(part))))
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).float().mean())


def progress(unlearned, counted="counted_"):
    """How far the forget loss has come from where it was to its target, as losses count: 0 nowhere, 1 there."""
    s = unlearned.settings
    before = s["forget_loss_before"]
    return (s[f"{counted}forget_loss_after"] - before) / (s[f"{counted}target_loss_after"] - before)


def request(model, train_rows, validation, **chosen):
    parts = split(train_rows, **chosen)
    unlearned = unlearn(
        model, forget=parts.forget, retain=parts.retain, validation=validation, batch_size=64, device="cpu"
    )
    return parts, unlearned


def convolutional(channels, classes):
    widths = (channels, 16, 32, 64)
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, classes))


@pytest.fixture(scope="module")
def cifar10(data_folder):
    """(memorised model, 1,500 training rows, 800 validation rows)."""
    folder = data_folder / "cifar10"
    require("PIL")
    from PIL import Image

    def rows(part, count):
        found = table(folder / f"{part}.parquet", count)
        pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in found["image"].to_pylist()]
        inputs = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return inputs, torch.tensor(found["label"].to_pylist())

    torch.manual_seed(0)
    training = rows("train", 1500)
    return train(convolutional(3, 10), training, 14, 2e-3), training, rows("test", 800)


def test_cifar10_random_subset(cifar10):
    model, training, validation = cifar10
    parts, unlearned = request(model, training, validation, fraction=0.15)
    assert accuracy(model, parts.forget) > 0.97
    assert progress(unlearned) > 0.8
    assert accuracy(unlearned.model, parts.forget) < 0.8
    assert accuracy(unlearned.model, parts.retain) > 0.97
    assert unlearned.epochs[0].ascent_weight > unlearned.epochs[-1].ascent_weight


def test_cifar10_one_class(cifar10):
    model, training, validation = cifar10
    parts, unlearned = request(model, training, validation, classes=[3])
    assert progress(unlearned) > 0.8
    assert accuracy(unlearned.model, parts.forget) < 0.5
    assert accuracy(unlearned.model, parts.retain) > 0.94


def test_location30_table(data_folder):
    found = table(data_folder / "location30" / "data.parquet")
    order = np.random.default_rng(0).permutation(len(found))
    inputs = torch.tensor(np.array(found["features"].to_pylist(), dtype=np.float32)[order])
    targets = torch.tensor(np.array(found["label"].to_pylist())[order])
    model = nn.Sequential(nn.Linear(446, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 30))
    train(model, (inputs[:3000], targets[:3000]), 40, 1e-3, batch_size=128)
    validation = inputs[3000:4000], targets[3000:4000]
    for chosen, least in (({"fraction": 0.15}, 0.7), ({"forget": [17]}, 0.7), ({"fraction": 0.95}, 0.4)):
        parts, unlearned = request(model, (inputs[:3000], targets[:3000]), validation, **chosen)
        assert least < progress(unlearned)
        assert progress(unlearned, counted="") < 2.5  # not far past it
        assert accuracy(unlearned.model, parts.retain) > 0.97


def test_spoken_digits_one_speaker(data_folder):
    def rows(part):
        found = table(data_folder / "free_spoken_digits" / f"{part}.parquet")
        waves = torch.zeros(len(found), 1, 4000)
        for row, wave in enumerate(found["waveform"].to_pylist()):
            samples = torch.tensor(wave[:4000]).float() / 2**15
            waves[row, 0, : len(samples)] = samples
        return waves, torch.tensor(found["label"].to_pylist()), found["speaker"].to_pylist()

    waves, digits, speakers = rows("train")
    unseen, their_digits, _ = rows("test")
    model = nn.Sequential(
        nn.Conv1d(1, 24, 64, stride=16), nn.BatchNorm1d(24), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(24, 48, 8, stride=2), nn.BatchNorm1d(48), nn.ReLU(), nn.MaxPool1d(4),
        nn.Flatten(), nn.Linear(48 * 14, 10),
    )  # fmt: skip
    train(model, (waves, digits), 12, 2e-3)
    mask = [speaker == speakers[0] for speaker in speakers]
    parts, unlearned = request(model, (waves, digits), (unseen, their_digits), forget=mask)
    assert len(parts.forget) == 450
    assert progress(unlearned) > 0.8
    assert accuracy(unlearned.model, parts.retain) > accuracy(model, parts.retain) - 0.05
    assert accuracy(unlearned.model, parts.forget) < accuracy(model, parts.forget) - 0.1


class Comments(nn.Module):
    """One layer of a pre-trained MiniLM, its embeddings frozen, under a linear head."""

    def __init__(self, encoder, labels):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, labels)
        encoder.encoder.layer = encoder.encoder.layer[:1]
        encoder.embeddings.requires_grad_(False)

    def forward(self, input_ids, attention_mask):
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(states.dtype)
        return self.head((states * weights).sum(1) / weights.sum(1))


def test_go_emotions_text(data_folder, encoder_folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = require("transformers")
    weights = str(encoder_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights)

    def rows(part, count):
        found = table(data_folder / "go_emotions" / f"{part}.parquet", count)
        tokens = tokenizer(
            found["text"].to_pylist(), padding="max_length", truncation=True, max_length=16, return_tensors="pt"
        )
        labels = torch.zeros(count, 28)
        for row, present in enumerate(found["labels"].to_pylist()):
            labels[row, present] = 1
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], "labels": labels}

    training, validation = rows("train", 240), rows("validation", 160)
    torch.manual_seed(0)
    model = Comments(transformers.AutoModel.from_pretrained(weights, add_pooling_layer=False), 28)
    loss = functional.binary_cross_entropy_with_logits
    train(model, tuple(training.values()), 12, 2e-4, loss, batch_size=16)
    parts = split(training, fraction=0.15)
    unlearned = unlearn(
        model, forget=parts.forget, retain=parts.retain, validation=validation, batch_size=16, device="cpu"
    )
    assert unlearned.settings["loss"] == "multi_label"
    assert progress(unlearned) > 0.8
    kept = next(iter(torch.utils.data.DataLoader(parts.retain, batch_size=300)))
    with torch.no_grad():
        outputs = [m(kept["input_ids"], kept["attention_mask"]) for m in (model, unlearned.model)]
    before, after = (float(((logits > 0) == kept["labels"].bool()).float().mean()) for logits in outputs)
    assert before > 0.97
    assert after > before - 0.01
    frozen = unlearned.model.encoder.embeddings.word_embeddings.weight
    assert torch.equal(frozen, model.encoder.embeddings.word_embeddings.weight)


def test_the_published_recipe_on_real_data(cifar10):
    model, training, validation = cifar10
    parts = split(training, fraction=0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        unlearned = unlearn(
            model,
            forget=parts.forget,
            retain=parts.retain,
            validation=validation,
            batch_size=64,
            device="cpu",
            method=methods.nabla_tau_published,
        )
    assert progress(unlearned, counted="") > 0.3
    assert accuracy(unlearned.model, parts.retain) > 0.95
