"""Bit-depth reduction: round every value to a few levels."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError


@dataclass(frozen=True, kw_only=True)
class BitDepth(InputDefense):
    """Round every value to 2^bits levels (Guo et al., 1711.00117; Xu et al., 1704.01155).

    Exposed as the identity: rounding moves a value by half a level at most.

    bits        1 to 8; 1 leaves black and white

    Raises RobustError for other numbers of bits.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1711.00117"
    claims: ClassVar[str] = "small perturbations are rounded away"
    broken_by: ClassVar[str] = "BPDA with the identity (1802.00420)"
    bits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise RobustError(f"bits is a number from 1 to 8, not {self.bits}")

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        levels = 2**self.bits - 1
        return frame.own((frame.unit(x) * levels).round() / levels)
