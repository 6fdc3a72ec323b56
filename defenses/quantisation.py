"""Input quantisation: hard thresholds, and few levels between them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError

from ._fields import above_zero


@dataclass(frozen=True, kw_only=True)
class Quantisation(InputDefense):
    """Cut every value at hard thresholds into a few levels, by default black and white.

    Feature squeezing (1704.01155), taken as far as it goes. All that counts is on which side of a
    threshold a value lies, so the gradient is 0 everywhere; values that no attacker can push over
    one are honestly safe, as most of MNIST is at a threshold of a half. Exposed, backward, each
    threshold is a sigmoid: values that are about to be cut the other way count most (BPDA,
    1802.00420). In L∞ that comes to the identity; in L2 it finds what the identity misses.

    levels      2 or more, evenly over the range
    threshold   where between two neighbouring levels values are cut, as a share of their distance,
                between 0 and 1; 0.5 goes to the nearer level
    slope       of the attacker's sigmoids over the distance of two levels, above 0

    Raises RobustError for values outside of these.
    """

    family: ClassVar[str] = "gradient masking"
    paper: ClassVar[str] = "1704.01155"
    claims: ClassVar[str] = "values are cut at thresholds, which have no gradient"
    broken_by: ClassVar[str] = "BPDA with a sigmoid at each threshold (1802.00420)"
    levels: int = 2
    threshold: float = 0.5
    slope: float = 5.0

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise RobustError(f"levels is a number from 2 on, not {self.levels}")
        if not 0 < self.threshold < 1:
            raise RobustError(f"threshold is a share between 0 and 1, not {self.threshold:g}")
        above_zero(slope=self.slope)

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        steps = self.levels - 1
        level = (frame.unit(x) * steps - self.threshold).floor() + 1
        return frame.own(level.clamp(0, steps) / steps)

    def stand_in(self, x: Tensor, frame: Frame) -> Tensor:
        steps = self.levels - 1
        above = frame.unit(x) * steps - self.threshold
        # Of all the thresholds only the nearest has a slope to speak of.
        nearest = above.detach().round().clamp(0, steps - 1)
        level = nearest + torch.sigmoid(self.slope * (above - nearest))
        return frame.own(level / steps)
