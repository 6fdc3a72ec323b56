"""The values that a model can be sent: 8-bit images and the like."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .threat import Threat

_PULLS = (0.98, 0.95, 0.9)  # towards x, before every coordinate is cut


def rounded(z: Tensor, low: float, high: float, levels: int = 255) -> Tensor:
    """The nearest of low, low + span / levels, …, high for each value of z."""
    span = high - low
    return ((z - low) / span * levels).round() / levels * span + low


@dataclass(frozen=True)
class Grid:
    """So many equal steps from low to high, around the batch x (n, …), which lies on them.

    A point moves to the nearest values; where that leads out of the ball it is pulled a little
    towards x first, and at last each coordinate goes to the neighbour that is nearer to x. What
    lies within a thousandth of a step of a value stays as it is, and is rounded when sent.
    """

    x: Tensor
    threat: Threat
    levels: int = 255

    def snap(self, z: Tensor, rows: Tensor) -> Tensor:
        """z (k, …) of the samples `rows`, moved onto the grid."""
        x, step = self.x[rows], self.step
        steps = (z - x) / step
        if self.threat.norm == "linf":
            most = self.threat.eps / step + 1e-3
            leaves = (steps.round().abs() > most) & (steps.abs() <= most)
            moved = self._at(x, z, steps, torch.where(leaves, steps.trunc(), steps.round()))
            ball = self.threat.around(x)  # whose edge a value may miss by a rounding
            return torch.where(steps.abs() > most, moved, moved.clamp(ball.lower, ball.upper))
        found = self._at(x, z, steps, steps.round())
        for share in (*_PULLS, None):
            out = ~self.threat.in_ball(x, found) & self.threat.in_ball(x, z)
            if not bool(out.any()):
                break
            whole = steps[out].trunc() if share is None else (share * steps[out]).round()
            found[out] = self._at(x[out], z[out], steps[out], whole)
        return found

    @property
    def step(self) -> float:
        """The distance of neighbouring values."""
        return (self.threat.high - self.threat.low) / self.levels

    def _at(self, x: Tensor, z: Tensor, steps: Tensor, whole: Tensor) -> Tensor:
        """So many whole steps from x; z itself where it is there already."""
        there = (steps - whole).abs() < 1e-3
        low, high = self.threat.low, self.threat.high
        return torch.where(there, z, rounded(x + whole * self.step, low, high, self.levels))
