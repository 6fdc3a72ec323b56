"""The small U-Net of a learned denoiser."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class UNet(nn.Module):
    """Images (n, C, H, W) of at least 8×8 pixels in [0, 1] → as many, corrected.

    Two halvings of the size and back (Ronneberger et al., 1505.04597), with `width` channels at
    full size. It learns what to add to an image (Liao et al., 1712.02976); new, that is nothing.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down1 = _twice(channels, width)
        self.down2 = _twice(width, 2 * width, stride=2)
        self.down3 = _twice(2 * width, 4 * width, stride=2)
        self.up2 = _twice((4 + 2) * width, 2 * width)
        self.up1 = _twice((2 + 1) * width, width)
        self.last = nn.Conv2d(width, channels, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, u: Tensor) -> Tensor:
        full = self.down1(u - 0.5)
        half = self.down2(full)
        half = self.up2(torch.cat([_grown(self.down3(half), half), half], 1))
        full = self.up1(torch.cat([_grown(half, full), full], 1))
        corrected: Tensor = u + self.last(full)
        return corrected


def _twice(inp: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inp, out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(out)),
        nn.ReLU(),
        *(nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)),
        nn.ReLU(),
    )


def _grown(small: Tensor, like: Tensor) -> Tensor:
    return interpolate(small, size=like.shape[2:], mode="nearest")
