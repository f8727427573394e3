"""The networks of the benchmark: `(width, outputs) -> nn.Module`, from fresh weights."""

import torch
from torch import Tensor, nn


class Pixels(nn.Module):
    """uint8 images to floats around 0, so that sets of images stay bytes: (x / 255 − mean) / deviation by channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.491, 0.482, 0.447]).reshape(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.247, 0.243, 0.262]).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W), uint8 -> float32."""
        scaled: Tensor = (images.float() / 255 - self.mean) / self.deviation
        return scaled


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., arXiv:1512.03385, figure 5, left)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return out


def resnet18(width: int, outputs: int) -> nn.Sequential:
    """ResNet-18 with the 7x7 stride-2 stem and max-pool, as in the paper, on uint8 images; `width` 64 is the standard.

    Example:
        >>> resnet18(4, 10)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """
    layers: list[nn.Module] = [
        Pixels(),
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for stage in range(4):
        widened = width * 2**stage
        layers += [Block(channels, widened, 1 if stage == 0 else 2), Block(widened, widened, 1)]
        channels = widened
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def perceptron(width: int, outputs: int, *, inputs: int) -> nn.Sequential:
    """Two hidden layers, the second half as wide: (N, inputs) -> (N, outputs).

    Example:
        >>> perceptron(8, 3, inputs=5)(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, outputs)
    )


def small_convolutional(width: int, outputs: int) -> nn.Sequential:
    """Two convolutions with batch norm: (N, 1, 8, 8) -> (N, outputs).

    Example:
        >>> small_convolutional(8, 10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, outputs),
    )  # fmt: skip


def wave_convolutional(width: int, outputs: int) -> nn.Sequential:
    """Two 1-D convolutions with batch norm: (N, 1, 4000) -> (N, outputs).

    Example:
        >>> wave_convolutional(8, 10)(torch.zeros(2, 1, 4000)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv1d(1, width, 64, stride=16), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(width, 2 * width, 8, stride=2), nn.BatchNorm1d(2 * width), nn.ReLU(), nn.MaxPool1d(4),
        nn.Flatten(), nn.Linear(28 * width, outputs),
    )  # fmt: skip
