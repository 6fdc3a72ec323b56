"""Square windows of images (n, c, h, w): where they are, what is in them, which is best."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d

from .errors import RobustError


def image_size(x: Tensor) -> tuple[int, int]:
    """Height and width of the images x; RobustError if x holds none."""
    if x.dim() != 4:
        raise RobustError(
            "a patch threat needs images of shape (channels, height, width), "
            f"not samples of shape {tuple(x.shape[1:])}"
        )
    return x.shape[2], x.shape[3]


def extent(changed: Tensor) -> Tensor:
    """Side of the smallest square that holds every changed pixel: bool (n, c, h, w) → int (n,)."""
    image_size(changed)
    pixels = changed.any(1)
    sides = []
    for axis in (1, 2):
        line = pixels.any(3 - axis).to(torch.int64)
        first, last = line.argmax(1), line.shape[1] - 1 - line.flip(1).argmax(1)
        sides.append((last - first + 1) * line.amax(1))
    return torch.maximum(*sides)


def sums(pixels: Tensor, side: int) -> Tensor:
    """The sum over each window of that side: (n, h, w) → (n, h − side + 1, w − side + 1).

    A window is cut to the image where that is smaller.
    """
    size = min(side, pixels.shape[1]), min(side, pixels.shape[2])
    area = size[0] * size[1]
    return avg_pool2d(pixels.unsqueeze(1).double(), size, stride=1).squeeze(1) * area


def corners(x: Tensor, side: int) -> tuple[int, int]:
    """How many rows and columns the upper left corner of such a window can be in."""
    height, width = image_size(x)
    return max(0, height - side) + 1, max(0, width - side) + 1


def best(scores: Tensor) -> Tensor:
    """The corner of highest score: (n, rows, columns) → int64 (n, 2)."""
    at = scores.flatten(1).argmax(1)
    return torch.stack([at // scores.shape[2], at % scores.shape[2]], 1)


def anywhere(rng: Generator, x: Tensor, side: int) -> Tensor:
    """A random corner for each image: int64 (n, 2)."""
    rows, columns = corners(x, side)
    at = torch.randint(rows * columns, (len(x),), generator=rng).to(x.device)
    return torch.stack([at // columns, at % columns], 1)


def mask(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """Which pixels are in the window at each image's corner (n, 2): bool (n, 1, h, w)."""
    height, width = image_size(x)
    rows = torch.arange(height, device=x.device) - corner[:, :1]
    columns = torch.arange(width, device=x.device) - corner[:, 1:]
    inside = [(line >= 0) & (line < side) for line in (rows, columns)]
    return (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)


def paste(x: Tensor, patch: Tensor, corner: Tensor) -> Tensor:
    """x with the patch (c, s, s), or one for each image (n, c, s, s), at each image's corner."""
    z, each = x.clone(), patch.expand(len(x), *patch.shape[-3:])
    z[_places(corner, patch.shape[-1])] = each.permute(0, 2, 3, 1)
    return z


def cut(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """What is in the window at each image's corner: (n, c, s, s)."""
    return x[_places(corner, side)].permute(0, 3, 1, 2)


def _places(corner: Tensor, side: int) -> tuple[Tensor, slice, Tensor, Tensor]:
    """The index that has the windows' pixels, channels last: (n, s, s, c)."""
    line = torch.arange(side, device=corner.device)
    sample = torch.arange(len(corner), device=corner.device).view(-1, 1, 1)
    rows, columns = corner[:, :1] + line, corner[:, 1:] + line
    return sample, slice(None), rows.unsqueeze(2), columns.unsqueeze(1)
