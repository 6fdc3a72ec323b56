"""Median filter: each pixel becomes the median of those around it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense

from ._images import refuse_all_but_images, refuse_even, windows


@dataclass(frozen=True, kw_only=True)
class Median(InputDefense):
    """Replace each value by the median of the size × size window around it, in each channel.

    Spatial smoothing of Xu et al., 1704.01155. Images (C, H, W) of any number of channels, mirrored
    at their borders. Exposed exactly: the gradient goes to the value that is the median.

    size        of the window, an odd number of pixels from 3 on; at most twice the image's size

    Raises RobustError for other sizes, and for samples that are no images.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1704.01155"
    claims: ClassVar[str] = "the few values that an attack pushed far are outvoted"
    broken_by: ClassVar[str] = "attacks through the filter (1706.04701)"
    gradient: ClassVar[Literal["own", "exact", "stand-in"]] = "exact"
    size: int = 3

    def __post_init__(self) -> None:
        refuse_even("size", self.size)

    def check(self, frame: Frame) -> None:
        refuse_all_but_images(frame, least=self.size // 2 + 1)

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        return windows(x, self.size).median(-1).values
