"""ResNet-18 in a few lines: torchvision has no build that fits beside a CPU torch."""

from torch import nn

from nabla_tau.bench.networks import Block


def resnet18(classes: int = 10, width: int = 64) -> nn.Sequential:
    """ResNet-18 with the 7x7 stride-2 stem and max-pool, as in the paper. `width` 64 is the standard one."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for stage in range(4):
        outputs = width * 2**stage
        layers += [Block(channels, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
