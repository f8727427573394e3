"""Forgetting through an adapter of PEFT alone: what moves, what is held for it, and what is saved."""

import copy

import pytest
import torch

from nabla_tau import InvalidRequest, load, unlearn
from nabla_tau.planning import plan
from nabla_tau.problem import Problem
from nabla_tau.unlearning import Request
from tests.conftest import require

pytestmark = [
    pytest.mark.filterwarnings("ignore::nabla_tau.UnlearningWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks Transformers for it
]

RANK, WIDTH, TOKENS = 2, 16, 40


def text_classifier():
    transformers = require("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=TOKENS, num_labels=3, max_position_embeddings=16, **sizes)
    return transformers.BertForSequenceClassification(config)


def with_adapter(model, rank=RANK, **settings):
    peft = require("peft")
    torch.manual_seed(1)
    wanted = peft.LoraConfig(r=rank, target_modules=["query", "value"], task_type="SEQ_CLS", **settings)
    return peft.get_peft_model(model, wanted)


def texts(size, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(TOKENS, (size, 8), generator=generator)
    labels = torch.randint(3, (size,), generator=generator)
    who = [f"user-{row}" for row in range(size)]  # a column that no model reads
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "who": who}


@pytest.fixture(scope="module")
def base():
    """A classifier that has memorised what is then forgotten and kept."""
    model, rows = text_classifier(), {name: column for name, column in texts(48, 0).items() if name != "who"}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.eval()
    for _ in range(60):
        optimizer.zero_grad()
        model(**rows).loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


@pytest.fixture
def request_(base):
    rows = texts(48, 0)
    forget, retain = ({name: column[part] for name, column in rows.items()} for part in (slice(12), slice(12, 48)))
    model = with_adapter(copy.deepcopy(base))
    return {"model": model, "forget": forget, "retain": retain, "validation": texts(24, 5), "device": "cpu"}


def logits(model, rows):
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_the_adapter_alone_forgets_and_has_optimiser_state(request_, base, monkeypatch):
    optimizers, make = [], Problem.adamw
    monkeypatch.setattr(Problem, "adamw", lambda *args: optimizers.append(make(*args)) or optimizers[-1])
    result = unlearn(**request_)
    settings = result.settings
    assert settings["forget_loss_after"] > 2 * settings["forget_loss_before"]
    adapter = {name: p for name, p in result.model.named_parameters() if "lora_" in name or "modules_to_save" in name}
    held = [state for optimizer in optimizers for state in optimizer.state]
    assert {id(parameter) for parameter in optimizers[-1].state} == {id(p) for p in adapter.values()}
    assert all(any(parameter is p for p in adapter.values()) for parameter in held)
    assert settings["state_bytes"] == 3 * 4 * sum(p.numel() for p in adapter.values())
    assert settings["trainable_parameters"] == sum(p.numel() for p in adapter.values()) < settings["parameters"] / 5
    with result.model.disable_adapter():  # the base is the original's, bit for bit: so is what it remembers
        assert torch.equal(logits(result.model, request_["forget"]), logits(base, request_["forget"]))


def test_only_the_adapter_is_saved_and_peft_reads_it(request_, base, tmp_path):
    result = unlearn(**request_)
    folder = result.save(tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "unlearning.json",
    ]
    wanted = logits(result.model, request_["retain"])
    read = require("peft").PeftModel.from_pretrained(copy.deepcopy(base), folder)
    assert torch.equal(logits(read, request_["retain"]), wanted)
    assert torch.equal(logits(load(folder, request_["model"]).model, request_["retain"]), wanted)
    assert not torch.equal(logits(request_["model"], request_["retain"]), wanted)
    with pytest.raises(FileExistsError, match="adapter_model"):
        result.save(folder)


def test_an_adapter_of_another_kind_is_refused(request_, base, tmp_path):
    folder = unlearn(**request_).save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"adapter like the one in .* got BertForSequenceClassification"):
        load(folder, base)
    with pytest.raises(ValueError, match=r"its weights do not fit: 8 differ, first .*lora_A"):
        load(folder, with_adapter(copy.deepcopy(base), rank=4))


def test_a_model_of_which_more_is_trainable_is_saved_whole(request_, tmp_path):
    request_["model"].base_model.model.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    folder = unlearn(**request_).save(tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "unlearning.json"]


def test_a_plan_counts_the_adapters_state(request_, base):
    whole, alone = plan(Request(**{**request_, "model": base})), plan(Request(**request_))
    assert alone.settings["state_bytes"] < whole.settings["state_bytes"] / 5


def test_nothing_trainable_is_refused(request_):
    request_["model"].requires_grad_(False)
    with pytest.raises(InvalidRequest, match=r"expected trainable parameters(?s:.*)with is_trainable=True"):
        unlearn(**request_)


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(TOKENS, 8), torch.nn.Linear(8, 3)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids).mean(1))


def test_the_model_under_the_adapter_names_the_columns(request_):
    """PEFT's own `forward` takes any: the mask and the text in `who` would reach a model that does not."""
    peft = require("peft")
    request_["model"] = peft.get_peft_model(Words(), peft.LoraConfig(r=1, target_modules=["head"]))
    assert unlearn(**request_).settings["loss"] == "classification"


def test_an_adapter_on_another_base_or_of_another_setting_is_refused(request_, base, tmp_path):
    unlearn(**request_).save(tmp_path)
    other = copy.deepcopy(base)
    other.classifier.bias.data.add_(1)
    other.bert.embeddings.word_embeddings.weight.data.add_(0.1)
    with pytest.raises(ValueError, match="other weights beneath it"):
        load(tmp_path, with_adapter(other))
    with pytest.raises(ValueError, match="lora_alpha 800 instead of"):
        load(tmp_path, with_adapter(copy.deepcopy(base), lora_alpha=800))
    written = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(written.replace('"lora_alpha": 8', '"lora_alpha": 80'))
    with pytest.raises(ValueError, match=r"Expected adapter_config\.json as it was saved"):
        load(tmp_path, with_adapter(copy.deepcopy(base)))


def test_a_finished_run_through_an_adapter_is_given_back(request_, tmp_path):
    first = unlearn(**request_, checkpoint=tmp_path)
    again = unlearn(**request_, checkpoint=tmp_path)
    weights = (dict(one.model.named_parameters()) for one in (first, again))
    assert all(torch.equal(one, other) for one, other in zip(*(w.values() for w in weights), strict=True))
