"""Directions of signs about x, one per sample, searched by turning over blocks of them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robust.core.threat import Ball

from ._minimal import wide

FAILED = "reached at no distance: no direction that was tried leads to the goal"


class Blocks:
    """Blocks of the coordinates of a sample of this shape, in levels that grow finer.

    At a level the blocks have the sides of `sides[level]` along each axis, less at the far ends;
    they are numbered by rows. After the last level comes the one numbered `again`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        sides: Sequence[Sequence[int]],
        *,
        again: int,
        device: torch.device,
    ) -> None:
        self._shape, self._again = tuple(shape), again
        counts = [
            [-(-size // side) for size, side in zip(shape, level, strict=True)] for level in sides
        ]
        self._sides, self._counts = torch.tensor(sides), torch.tensor(counts)
        self._sides, self._counts = self._sides.to(device), self._counts.to(device)

    def inside(self, level: Tensor, index: Tensor) -> Tensor:
        """Which coordinates the block `index` of that level (both (k,)) holds: bool (k, *shape)."""
        held = torch.ones(1, dtype=torch.bool, device=level.device)
        for axis in range(len(self._shape) - 1, -1, -1):
            count, side = self._counts[level, axis], self._sides[level, axis]
            start, index = side * (index % count), index // count
            place = torch.arange(self._shape[axis], device=level.device)
            along = (place >= start.unsqueeze(1)) & (place < (start + side).unsqueeze(1))
            rest = [1] * (len(self._shape) - 1 - axis)
            held = held & along.view(len(level), *[1] * axis, self._shape[axis], *rest)
        return held

    def after(self, level: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The block that follows: its level and its index."""
        last = index + 1 == self._counts[level].prod(1)
        level = level + last.long()
        return level.masked_fill(level == len(self._counts), self._again), (index + 1) * ~last


def rows_of(size: int) -> list[tuple[int]]:
    """Sides of the blocks of RayS: `size` coordinates in a row, cut into 1, 2, 4, … blocks."""
    deepest = (size - 1).bit_length()
    return [(-(-size // 2**level),) for level in range(deepest + 1)]


def cells_of(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Sides of blocks of positions, channels first: the longest axis is halved again and again.

    All channels together, down to single positions; at last single coordinates. A vector is one
    channel.
    """
    channels, *sizes = shape if len(shape) > 1 else (1, *shape)
    levels = [(channels, *sizes)]
    while max(sizes) > 1:
        longest = sizes.index(max(sizes))
        sizes[longest] = math.ceil(sizes[longest] / 2)
        levels.append((channels, *sizes))
    levels.append((1, *sizes))
    distinct = list(dict.fromkeys(levels))
    return [level[-len(shape) :] for level in distinct]


def point(ball: Ball, up: Tensor, radius: Tensor) -> Tensor:
    """The corners, `up` or down in each coordinate, of cubes of these radii (k,) about the ball's
    samples, put into the box; at a radius of eps and less not outside the ball by rounding either.
    """
    threat, x = ball.threat, ball.x
    step = wide(radius.clamp(max=threat.high - threat.low).to(x.dtype), x)
    z = torch.clamp(torch.where(up, x + step, x - step), threat.low, threat.high)
    return torch.where(wide(radius <= threat.eps, x), torch.clamp(z, ball.lower, ball.upper), z)
