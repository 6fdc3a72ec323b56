"""Bilateral filter: an average over those neighbours that look alike."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError

from ._images import refuse_all_but_images, refuse_even


@dataclass(frozen=True, kw_only=True)
class Bilateral(InputDefense):
    """Average each pixel with those near it in place and colour (Tomasi & Manduchi, ICCV 1998).

    As a defense in Ratzlaff & Li, 1804.01635. A neighbour weighs
    exp(−distance² / 2σ_space²) · exp(−difference² / 2σ_color²); the difference is the Euclidean one
    over channels. Images (C, H, W) of any number of channels, mirrored at their borders. Exposed
    exactly. The filter is kornia's.

    size            of the window, an odd number of pixels from 3 on; at most twice the image's size
    sigma_color     of differences of colour, above 0, in shares of the data's range
    sigma_space     of distances, above 0, in pixels

    Raises RobustError for other sizes and sigmas, and for samples that are no images.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1804.01635"
    claims: ClassVar[str] = "small perturbations are averaged away, edges stay"
    broken_by: ClassVar[str] = "attacks through the filter (1802.00420)"
    gradient: ClassVar[Literal["own", "exact", "stand-in"]] = "exact"
    size: int = 5
    sigma_color: float = 0.2
    sigma_space: float = 1.0

    def __post_init__(self) -> None:
        refuse_even("size", self.size)
        for name in ("sigma_color", "sigma_space"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise RobustError(f"{name} is a finite number above 0, not {value:g}")

    def check(self, frame: Frame) -> None:
        refuse_all_but_images(frame, least=self.size // 2 + 1)

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        from kornia.filters import bilateral_blur  # half a second to import

        space = (self.sigma_space, self.sigma_space)
        unit = frame.unit(x)
        return frame.own(
            bilateral_blur(unit, self.size, self.sigma_color, space, color_distance_type="l2")
        )
