"""Bad teaching against its equation, written out."""

import copy
from functools import partial

import torch

from nabla_tau import methods
from nabla_tau.distillation import untrained_copy
from nabla_tau.mixing import Mixture
from nabla_tau.unlearning import Request
from tests.methods.cases import largest_difference, ordered, unlearned


def test_the_teacher_depends_on_the_set_that_a_sample_is_from():
    model, *loaders = ordered()
    sets = [tuple(loader.dataset.tensors) for loader in loaders]
    with Request(model, *sets, batch_size=8, device="cpu").prepared() as problem:
        bad = untrained_copy(problem)
        order, mixture = problem.generator(3), Mixture(problem, 0.3)
        batches = [mixed for _ in range(2) for mixed in mixture.one_pass(order)]
    student = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    for mixed in batches:
        terms = []
        for teacher, part in ((model, mixed.retain), (bad, mixed.forget)):
            if part is not None:
                p, q = torch.softmax(teacher(part[0]).detach(), 1), torch.softmax(student(part[0]), 1)
                terms.append((p * (p / q).log()).sum(1))
        optimizer.zero_grad()
        torch.cat(terms).mean().backward()
        optimizer.step()
    method = partial(methods.bad_teacher, epochs=2, learning_rate=1e-2)
    result = unlearned(method, model, *sets, batch_size=8)
    assert largest_difference(result.model, student) < 1e-9 < largest_difference(result.model, model)
    assert result.settings["retain_passes"] == 0.6
