"""Short trials on the retain set, undone afterwards: they settle the rate, smaller weights, what batch norm does."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from nabla_tau.batch_norm import changing_batch_norms, followed
from nabla_tau.batches import Batch
from nabla_tau.course import LAST_LEARNING_RATE_FACTOR
from nabla_tau.modes import buffers_kept
from nabla_tau.problem import Problem, counted, finite
from nabla_tau.target import memorised

WEIGHT_DECAY = 1e-2

# The highest learning rate from which the model comes back; at that, whether it comes back from smaller weights too.
# It may not end as another model either, where its losses are as before in their mean alone: rows may move by all that
# was memorised. The published rate is 1e-3, and nothing is shrunk there.
LEARNING_RATES = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
SHRINKING = 0.9
TRIAL_STEPS = 20
JUDGED_BATCHES = 5
LARGEST_CHANGE = 1 / 3  # of what was memorised: how far the retain set's cost may go up in a trial, down in the run
LARGEST_MOVE = 1  # of its rows, likewise
# Statistics of batch norm that the weights have moved away from, as they do in a run, make another model when they
# follow again: a tenth of what unseen data costs is left to them. More, and a fifth request can destroy a network.
LARGEST_SHIFT = 1 / 10
NONE_CAME_BACK = "at every higher one a trial cost the retain set too much, or moved its rows too far"


@dataclass(frozen=True)
class Start:
    """What the trials settled: rate, factor of the weights that a gradient reaches, batch norms that follow.

    Attributes:
        learning_rate: of the first step.
        shrinking: what the weights are multiplied by before it.
        reached: these weights.
        following: batch norms whose statistics follow the retain set.
        retain_loss: what the judging batches cost the original.
    """

    learning_rate: float
    shrinking: float
    reached: set[Tensor]
    following: list[_BatchNorm]
    retain_loss: float


def settle(problem: Problem, unseen_loss: float, way: float = 0.0) -> Start:
    """The highest learning rate from which the model comes back on the retain set, and whether smaller weights do too.

    With batch norm first of all whether its statistics follow the retain set: not if that alone, at no rate, makes it
    dearer by more than a tenth of what unseen data costs.

    A trial is a few steps of AdamW on retain batches alone, at rates that fall to a tenth as in the run, undone
    afterwards. Five other retain batches may then cost more by a third of the way from what they cost the original
    model to what unseen data costs it, and their rows, dearer or cheaper, may have moved by all of it in their mean: a
    model that is still learning is as good after any rate, and another one. (A loader with an order of its own gives
    other rows each time; there the mean alone is judged.) Where statistics follow, all is measured from the trial at no
    rate: what they move is no rate's doing. The lowest rate is taken untried, and so is no shrinking at all.

    Args:
        problem: the request; its settings take what was chosen and what each trial found.
        unseen_loss: mean loss of the original model over the validation set, as far as losses count.
        way: how far a removed label has to go to its price, where that is more than what was memorised; so far rows may
            move for it.

    Raises:
        NonFiniteLoss: if the original's loss on a retain batch is NaN or infinite.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = 20 * torch.eye(100), torch.arange(100) % 2  # every row has a feature of its own: pure memory
        >>> model = torch.nn.Linear(100, 2, bias=False)
        >>> weights = 0.2 * torch.nn.functional.one_hot(y, 2).T * (torch.arange(100) < 80)
        >>> _ = model.load_state_dict({"weight": weights})
        >>> request = Request(model, (x[:8], y[:8]), (x[8:80], y[8:80]), (x[80:], y[80:]), device="cpu")
        >>> with request.prepared() as problem:
        ...     start = settle(problem, unseen_loss=0.69)
        >>> start.learning_rate, start.shrinking, round(start.retain_loss, 4)
        (0.003, 0.9, 0.0181)
    """
    losses = _judging_losses(problem)
    usual = finite(_mean(problem, losses), "retain batches")
    before = [counted(one, problem.largest_loss) for one in losses]
    cost = _mean(problem, before)
    memory = memorised(unseen_loss, cost)
    trials: list[dict[str, float]] = []
    reached: set[Tensor] = set()
    following = changing_batch_norms(problem.model)

    def tried(rate: float, shrinking: float = 1.0) -> list[Tensor]:
        with problem.undone(), buffers_kept(problem.model):
            shrink(reached, shrinking)
            reached.update(_descend_on_retain(problem, rate, following))
            return [counted(one, problem.largest_loss) for one in _judging_losses(problem)]

    still, shifted = before, cost
    if following:
        still = tried(0.0)
        shifted = _mean(problem, still)
        problem.settings.update(batch_norm_shift=shifted - cost)
        if shifted - cost > LARGEST_SHIFT * abs(unseen_loss):
            following, still, shifted = [], before, cost
    dearest = max(cost, shifted) + LARGEST_CHANGE * memory
    farthest = LARGEST_MOVE * max(memory, way)

    def comes_back(rate: float, shrinking: float = 1.0) -> bool:
        after = tried(rate, shrinking)
        retain_loss, moved = _mean(problem, after), 0.0
        if problem.retain.fetch is not None:
            moved = _mean(problem, [(one - other).abs() for one, other in zip(after, still, strict=True)])
        trials.append({"learning_rate": rate, "shrinking": shrinking, "retain_loss": retain_loss, "moved": moved})
        return retain_loss <= dearest and moved <= farthest

    rate = next((rate for rate in LEARNING_RATES[:-1] if comes_back(rate)), LEARNING_RATES[-1])
    if rate == LEARNING_RATES[-1]:
        problem.settings["learning_rate_reason"] = NONE_CAME_BACK
    shrinking = SHRINKING if comes_back(rate, SHRINKING) else 1.0
    problem.settings.update(learning_rate=rate, shrinking=shrinking, trials=trials)
    return Start(rate, shrinking, reached, following, usual)


def shrink(parameters: set[Tensor], factor: float) -> None:
    """Multiply parameters in place. Those that no gradient reaches, as another head's, are not to be among them.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> shrink({weight}, 0.8)
        >>> weight.item()
        0.8...
    """
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(factor)


def _descend_on_retain(problem: Problem, rate: float, following: list[_BatchNorm]) -> list[Tensor]:
    optimizer = problem.adamw(rate, WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_LEARNING_RATE_FACTOR, TRIAL_STEPS)
    for batch in islice(_retain(problem), JUDGED_BATCHES, JUDGED_BATCHES + TRIAL_STEPS):
        made = False
        while not made:
            with followed(problem, following):
                problem.accumulate(batch)
            made = problem.update(optimizer)
        schedule.step()
    return list(optimizer.state)  # AdamW has one for each parameter that had a gradient


def _judging_losses(problem: Problem) -> list[Tensor]:
    """This process's losses of the first retain batches under the current model; a trial steps on those after them."""
    with torch.no_grad():
        return [problem.losses(batch) for batch in islice(_retain(problem), JUDGED_BATCHES)]


def judged_loss(problem: Problem) -> float:
    """What the batches that judge a trial cost the current model.

    Example:
        >>> from nabla_tau.unlearning import Request
        >>> x, y = torch.arange(6.0)[:, None], torch.full((6,), 0.5)  # f(x) = x, so errors are x − ½
        >>> sets = (x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1)
        >>> with Request(model, *sets, device="cpu").prepared() as problem:
        ...     judged_loss(problem)
        4.25
    """
    return _mean(problem, _judging_losses(problem))


def _mean(problem: Problem, batches: list[Tensor]) -> float:
    means = [problem.mean(values) for values in batches]
    return sum(float(mean.value) * mean.size for mean in means) / sum(mean.size for mean in means)


def _retain(problem: Problem) -> Iterator[Batch | None]:
    """Retain batches from the first on, in the order of the run."""
    return problem.pass_after_pass(problem.retain, problem.generator(1))
