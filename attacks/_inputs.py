"""Differentiable changes of the input that make a gradient less particular to one network."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample

from robust.core.rng import uniform


def shrunk_and_moved(
    x: Tensor, low: float, smallest: float, share: float, rng: Generator
) -> Tensor:
    """A share of the images at a random scale from `smallest` to 1 and a random place in a frame
    of value `low` (1803.06978); the others as they are.
    """
    scale, across, down, chosen = (uniform(rng, x[:, 0, 0, 0]) for _ in range(4))
    scale = torch.where(chosen < share, smallest + (1 - smallest) * scale, 1)
    # A point p of the frame, in [−1, 1], shows the point (p − shift) / scale of the image.
    shift = (1 - scale).unsqueeze(1) * (2 * torch.stack([across, down], 1) - 1)
    linear = torch.diag_embed((1 / scale).unsqueeze(1).expand(-1, 2))
    theta = torch.cat([linear, -(shift / scale.unsqueeze(1)).unsqueeze(2)], 2)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    moved = low + grid_sample(x - low, grid, padding_mode="zeros", align_corners=False)
    return torch.where((chosen < share).view(-1, 1, 1, 1), moved, x)


def smoothed(gradient: Tensor, size: int) -> Tensor:
    """Each channel convolved with a Gaussian kernel of that odd size: the mean gradient of the
    shifted images, nearly (1904.02884: half-width k, σ = k / √3).
    """
    half = size // 2
    at = torch.arange(-half, half + 1, dtype=gradient.dtype, device=gradient.device)
    line = torch.exp(-1.5 * (at / max(half, 1)).square())
    kernel = torch.outer(line, line) / line.sum().square()
    channels = gradient.shape[1]
    kernel = kernel.expand(channels, 1, size, size)
    return conv2d(gradient, kernel, padding=half, groups=channels)
