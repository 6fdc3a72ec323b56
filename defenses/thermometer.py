"""Thermometer encoding: every value as a row of bits, which fill up as it grows."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError


@dataclass(frozen=True, kw_only=True)
class Thermometer(InputDefense):
    """Show the network, for every value, on which side of each of some even thresholds it lies.

    Buckman et al., ICLR 2018. Of a value u in [0, 1] the bits are u > k / levels, k from 0 on;
    (n, C, …) becomes (n, C · levels, …), the bits of a channel side by side, so a network must be
    trained with it. A step function has no gradient. Exposed as the ramps min(max(u − k / levels,
    0), 1), of which the bits are the signs (1802.00420).

    levels      bits of a value, 2 or more

    Raises RobustError for fewer.
    """

    family: ClassVar[str] = "gradient masking"
    paper: ClassVar[str] = "Buckman et al., ICLR 2018"
    claims: ClassVar[str] = "an input of bits, through which no gradient comes"
    broken_by: ClassVar[str] = "BPDA with a ramp for each bit (1802.00420)"
    trained: ClassVar[bool] = True
    levels: int = 10

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise RobustError(f"levels is a number from 2 on, not {self.levels}")

    def frame_behind(self, frame: Frame) -> Frame:
        channels, *rest = frame.shape
        return replace(frame, shape=(channels * self.levels, *rest), low=0.0, high=1.0)

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        return (self._above(x, frame) > 0).to(x.dtype).flatten(1, 2)

    def stand_in(self, x: Tensor, frame: Frame) -> Tensor:
        return self._above(x, frame).clamp(0, 1).flatten(1, 2)

    def _above(self, x: Tensor, frame: Frame) -> Tensor:
        """How far each value lies above each threshold (n, C, levels, …)."""
        thresholds = torch.arange(self.levels, device=x.device, dtype=x.dtype) / self.levels
        return frame.unit(x).unsqueeze(2) - thresholds.view(1, 1, -1, *[1] * (x.dim() - 2))
