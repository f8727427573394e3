"""What `test_sharding.py` asks of one run that is spread over processes: each leaves its answers in a folder, as JSON.

python -m torch.distributed.run --standalone --nproc-per-node 2 --module tests.two_processes.parts FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from nabla_tau import audit, gathering, losses, methods, unlearn
from nabla_tau.methods.nabla_tau import nabla_tau
from nabla_tau.shards import bytes_held, held
from tests.conftest import require
from tests.two_processes import sharded
from tests.two_processes.worker import first, images, request

CLASSES, TOKENS, LENGTH = 4, 20, 8


def watching(problem):
    """∇τ for two passes, and what each process holds after the first step."""
    found = {}

    def look(optimizer):
        moments = [state["exp_avg"] for state in optimizer.state.values()]
        found["moments"] = bytes_held(moments)
        problem.settings["held"] = found

    reduce = problem.engine.sum_gradients
    object.__setattr__(problem.engine, "sum_gradients", lambda model: (reduce(model), weigh(model)))

    def weigh(model):
        found["gradients"] = bytes_held(p.grad for p in model.parameters() if p.grad is not None)

    problem.after_step = look
    try:
        yield from first(2, nabla_tau)(problem)
    finally:
        object.__delattr__(problem.engine, "sum_gradients")


watching.facts = methods.nabla_tau.facts


def wide():
    """Layers that can be halved."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))


def bert():
    transformers = require("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=TOKENS, num_labels=CLASSES, max_position_embeddings=LENGTH, **sizes)
    return transformers.BertForSequenceClassification(config).double()


def encoded(size):
    generator = torch.Generator().manual_seed(size)
    tokens = torch.randint(TOKENS, (size, LENGTH), generator=generator)
    return {"input_ids": tokens, "labels": torch.randint(CLASSES, (size,), generator=generator)}


def of_bert(**more):
    sets = {"forget": encoded(7), "retain": encoded(21), "validation": encoded(11)}
    loss = {"loss": losses.classification, "batch_size": 3, "method": first(1, nabla_tau)}
    return {"model": bert(), **sets, **loss, **more}


def refused(call, *arguments, **more):
    try:
        call(*arguments, **more)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def saved(result, folder):
    """What happens where the folder is taken, and where the disk is full; then it is saved."""
    answers = {"taken": refused(result.save, folder / "taken")}
    header = gathering._header
    if torch.distributed.get_rank() == 0:
        gathering._header = full_disk
    answers["full"] = refused(result.save, folder / "full")
    gathering._header = header
    result.save(folder / "whole")
    return answers


def full_disk(model):
    raise OSError("no space left")


def main(folder):
    arguments = {**request(wide, images, 11), "method": watching}
    result = sharded.run(arguments, shard=True)
    answers = {"held": {**result.settings["held"], "weights": bytes_held(result.model.parameters())}}
    answers["parts"] = [list(held(parameter).shape) for parameter in result.model.parameters()]
    answers["original"] = [list(parameter.shape) for parameter in arguments["model"].parameters()]
    answers["settings"] = {name: result.settings[name] for name in ("state_bytes", "gathered_bytes")}
    answers["settings"]["activations"] = result.settings["activation_bytes_per_sample"]
    answers.update(saved(result, folder))
    rows = arguments["validation"][0]
    answers["outputs"] = result.model(rows).detach().tolist()
    sets = {name: arguments[name] for name in ("forget", "retain", "validation")}
    answers["again"] = refused(unlearn, result.model, **sets, shard=True, device="cpu")
    sets = {"forget": sets["forget"], "test": sets["validation"], "retain": sets["retain"]}
    answers["audit"] = refused(audit, result.model, **sets, original=arguments["model"], device="cpu")
    for name, options in {"plain": {}, "recomputed": {"gradient_checkpointing": True}}.items():
        sharded.run(of_bert(), shard=True, **options).save(folder / name)
    rank = torch.distributed.get_rank()
    with torch.no_grad():
        arguments["model"][1].bias += rank
    answers["unlike"] = [refused(sharded.run, arguments, shard=shard) for shard in (True, False)]
    (folder / f"{rank}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()  # its threads may abort a process that ends without this
