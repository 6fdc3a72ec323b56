"""The architectures that come with `robust`, and their initialisation.

A factory takes the shape of one sample and the number of classes; the first line of its docstring
is its description in `robust list`.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.core.errors import RobustError

Factory = Callable[[Sequence[int], int], nn.Module]


def architectures() -> dict[str, Factory]:
    """Name → factory(shape, num_classes)."""
    return {
        "small-cnn": small_cnn,
        "mlp": mlp,
        "preact-resnet18": preact_resnet18,
        "wide-resnet-28-10": wide_resnet_28_10,
    }


def he_init(module: nn.Module) -> None:
    """He initialisation for ReLU networks (1502.01852), in place, from torch's global generator.

    Convolutions normal by fan-out, linear layers normal by fan-in, biases 0; normalisation layers
    1 and 0. Other parameters stay as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            if layer.weight is not None:
                nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def small_cnn(shape: Sequence[int], num_classes: int) -> nn.Sequential:
    """Two convolutions and two linear layers, for small images (C, H, W) or signals (C, T).

    About 85,000 parameters on 8×8 pixels. From 16 on the first convolution halves a dimension,
    too, and what is longer than 8 (a signal: 64) after both is pooled down to that.
    """
    if len(shape) not in (2, 3):
        raise RobustError(
            f"small-cnn takes images (C, H, W) or signals (C, T), not shape {tuple(shape)}; "
            "mlp takes any shape"
        )
    signal = len(shape) == 2
    conv: Callable[..., nn.Module] = nn.Conv1d if signal else nn.Conv2d
    strides = tuple(2 if size >= 16 else 1 for size in shape[1:])
    sizes = [math.ceil(math.ceil(size / s) / 2) for size, s in zip(shape[1:], strides, strict=True)]
    pool = tuple(math.ceil(size / (64 if signal else 8)) for size in sizes)
    sizes = [math.ceil(size / p) for size, p in zip(sizes, pool, strict=True)]
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", conv(shape[0], 32, 3, stride=strides, padding=1)),
        ("relu1", nn.ReLU()),
        ("conv2", conv(32, 64, 3, stride=2, padding=1)),
        ("relu2", nn.ReLU()),
    ]
    if max(pool) > 1:
        max_pool = nn.MaxPool1d if signal else nn.MaxPool2d
        layers.append(("pool", max_pool(pool, ceil_mode=True)))
    layers += [
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(64 * math.prod(sizes), 64)),
        ("relu3", nn.ReLU()),
        ("linear2", nn.Linear(64, num_classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


def mlp(shape: Sequence[int], num_classes: int) -> nn.Sequential:
    """Two hidden layers of 128, for feature vectors; any other shape is flattened."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


class _PreActBlock(nn.Module):
    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or inp != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inp, out, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = skip + self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out


class _PreActResNet18(nn.Module):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(_PreActBlock(64, 64, 1), _PreActBlock(64, 64, 1))
        self.layer2 = nn.Sequential(_PreActBlock(64, 128, 2), _PreActBlock(128, 128, 1))
        self.layer3 = nn.Sequential(_PreActBlock(128, 256, 2), _PreActBlock(256, 256, 1))
        self.layer4 = nn.Sequential(_PreActBlock(256, 512, 2), _PreActBlock(512, 512, 1))
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        out: Tensor = self.linear(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))
        return out


def preact_resnet18(shape: Sequence[int], num_classes: int) -> nn.Module:
    """Pre-activation ResNet-18 (1603.05027) for images of about 32×32.

    With the paper's last BatchNorm and ReLU, and the parameter names of the adversarial-training
    codebases (locuslab/fast_adversarial, robust_overfitting), whose checkpoints fit.
    """
    return _PreActResNet18(_image_channels(shape, "preact-resnet18"), num_classes)


class _WideBlock(nn.Module):
    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if inp != out:
            self.convShortcut = nn.Conv2d(inp, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(active)
        out: Tensor = skip + self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out


class _WideGroup(nn.Module):
    def __init__(self, inp: int, out: int, blocks: int, stride: int) -> None:
        super().__init__()
        rest = [_WideBlock(out, out, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(_WideBlock(inp, out, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class _WideResNet(nn.Module):
    def __init__(self, channels: int, num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        blocks, widths = (depth - 4) // 6, [16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _WideGroup(16, widths[0], blocks, 1)
        self.block2 = _WideGroup(widths[0], widths[1], blocks, 2)
        self.block3 = _WideGroup(widths[1], widths[2], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        out: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def wide_resnet_28_10(shape: Sequence[int], num_classes: int) -> nn.Module:
    """Wide ResNet-28-10 (1605.07146) for images of about 32×32, without dropout.

    The parameter names are those of TRADES and RobustBench.
    """
    return _WideResNet(_image_channels(shape, "wide-resnet-28-10"), num_classes, depth=28, width=10)


def _image_channels(shape: Sequence[int], name: str) -> int:
    if len(shape) != 3:
        raise RobustError(f"{name} takes images (C, H, W), not shape {tuple(shape)}")
    return shape[0]


def flops(net: nn.Module, shape: Sequence[int]) -> int:
    """Floating-point operations of one forward pass of one sample, as torch counts them.

    A multiplication and the addition to its sum are two. The network's mode is left as it was.
    """
    from torch.utils.flop_counter import FlopCounterMode  # seconds to import

    modes = {module: module.training for module in net.modules()}
    like = next((p for p in net.parameters()), torch.empty(0))
    x = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    try:
        net.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(x)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return int(counter.get_total_flops())


def describe(net: nn.Module, shape: Sequence[int]) -> str:
    """The module tree, the parameter count, and the FLOPs of one forward pass of one sample."""
    parameters = sum(p.numel() for p in net.parameters())
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return (
        f"{net}\n\n"
        f"input shape   {tuple(shape)}\n"
        f"parameters    {parameters:,} ({trainable:,} trainable)\n"
        f"forward FLOPs {flops(net, shape):,} per sample\n"
    )
