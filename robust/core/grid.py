"""The values that a model can be sent: 8-bit images and the like."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .threat import Threat


def rounded(z: Tensor, low: float, high: float, levels: int = 255) -> Tensor:
    """The nearest of low, low + span / levels, …, high for each value of z."""
    span = high - low
    return ((z - low) / span * levels).round() / levels * span + low


@dataclass(frozen=True)
class Grid:
    """So many equal steps from low to high, around the batch x (n, …), which lies on them.

    A coordinate moves to the neighbouring value that is nearer to x, so that the point stays inside
    any ball around x; within a thousandth of a step it stays as it is, and is rounded when sent.
    """

    x: Tensor
    threat: Threat
    levels: int = 255

    def snap(self, z: Tensor, rows: Tensor) -> Tensor:
        """z (k, …) of the samples `rows`, moved onto the grid."""
        x, step = self.x[rows], (self.threat.high - self.threat.low) / self.levels
        steps = (z - x) / step
        there = (steps - steps.round()).abs() < 1e-3
        low, high = self.threat.low, self.threat.high
        return torch.where(there, z, rounded(x + steps.trunc() * step, low, high, self.levels))
