"""Training of originals and retrained models: whole batches on the device, no work for each image."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nabla_tau.bench.data import Rows
from nabla_tau.bench.tasks import Recipe, Task
from nabla_tau.randomness import seeded

PADDING = 4
LEAST_BATCH = 1 / 8  # of the others' size; a smaller one is left out


def trained(task: Task, recipe: Recipe, rows: Rows, seed: int, device: torch.device) -> nn.Module:
    """Train a network from fresh weights. On a GPU it runs in bf16, channels last.

    Args:
        task: network and loss.
        recipe: how.
        rows: the training set, on any device; it is moved once.
        seed: of the weights, the order of the rows and the augmentation.
        device: where to train.

    Returns:
        The model in eval mode, on the CPU.

    Example:
        >>> from dataclasses import replace
        >>> from nabla_tau.bench.data import noisy_digits
        >>> from nabla_tau.bench.tasks import TASKS
        >>> task, (images, targets) = TASKS["noisy_digits"], noisy_digits().rows
        >>> recipe = replace(task.recipes["quick"], epochs=40)
        >>> model = trained(task, recipe, (images[:20], targets[:20]), seed=0, device=torch.device("cpu"))
        >>> bool((model(images[:20]).argmax(1) == targets[:20]).all())  # wrong labels and all
        True
    """
    rows = rows[0].to(device), rows[1].to(device)
    size, on_gpu = len(rows[1]), device.type == "cuda"
    # What is left over at the end of a pass may be a few rows, others each time. A step at the full rate, and running
    # statistics of batch norm, that follow from four rows cost a model what one trained on some more does not pay.
    least = max(2, min(size, recipe.batch_size) * LEAST_BATCH)
    steps = recipe.epochs * (size // recipe.batch_size + (size % recipe.batch_size >= least))
    with seeded(seed, on_gpu=on_gpu):
        model = task.network(recipe.width).to(device).train()
        if on_gpu:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = _optimizer(model, recipe)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, recipe.last_factor, total_iters=steps)
        for _ in range(recipe.epochs):
            for positions in torch.randperm(size, device=device).split(recipe.batch_size):  # type: ignore[no-untyped-call]
                if len(positions) < least:
                    continue
                inputs = rows[0][positions]
                batch = (augmented(inputs) if recipe.augmented else inputs), rows[1][positions]
                optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                    loss = task.loss(model, batch).mean()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return model.eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def augmented(images: Tensor) -> Tensor:
    """A whole batch of images, each flipped with probability ½ and cropped at random after padding by 4 zeros.

    Args:
        images: shape (N, C, H, W), any type.

    Returns:
        The same shape and type.

    Example:
        >>> images = torch.arange(2 * 3 * 32 * 32, dtype=torch.int32).reshape(2, 3, 32, 32)
        >>> moved = augmented(images)
        >>> moved.shape, bool(torch.isin(moved[moved > 0], images).all())
        (torch.Size([2, 3, 32, 32]), True)
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (PADDING,) * 4)
    top, left = torch.randint(2 * PADDING + 1, (2, count, 1), device=images.device)
    flipped = torch.rand(count, 1, device=images.device) < 0.5
    down = top + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    across = left + torch.where(flipped, width - 1 - across, across)
    samples = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[samples, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
