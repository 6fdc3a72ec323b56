"""Non-local means: an average over pixels whose surroundings look alike."""

import math
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError

from ._images import refuse_all_but_images, refuse_even


@dataclass(frozen=True, kw_only=True)
class NonLocalMeans(InputDefense):
    """Average each pixel with those whose surroundings look alike (Buades et al., CVPR 2005).

    As a defense in Xu et al., 1704.01155. A pixel within `distance` rows and columns weighs
    exp(−d² / strength²), where d² is the mean squared difference of the two patches, weighted by a
    Gaussian of sigma (patch − 1) / 4 around their middle. Images (C, H, W) of any number of
    channels, whose patches are mirrored at the borders. Exposed exactly.

    strength    above 0, in shares of the data's range
    patch       size of what is compared, an odd number of pixels from 3 on
    distance    in pixels, at least 1; the search window is 2 · distance + 1 wide

    Raises RobustError for other values, and for samples that are no images.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1704.01155"
    claims: ClassVar[str] = "small perturbations are averaged away, what repeats in an image stays"
    broken_by: ClassVar[str] = "attacks through the filter (1706.04701)"
    gradient: ClassVar[Literal["own", "exact", "stand-in"]] = "exact"
    strength: float = 0.1
    patch: int = 3
    distance: int = 5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise RobustError(f"strength is a finite number above 0, not {self.strength:g}")
        refuse_even("patch", self.patch)
        if self.distance < 1:
            raise RobustError(f"distance must be at least 1, not {self.distance}")

    def check(self, frame: Frame) -> None:
        refuse_all_but_images(frame, least=self.patch // 2 + 1)

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        reach, far, bell = self.patch // 2, self.distance, _bell(self.patch)
        height, width = x.shape[2:]
        mirrored = pad(frame.unit(x), [reach] * 4, mode="reflect")
        around = pad(mirrored, [far] * 4)
        inside = pad(torch.ones_like(x[:1, :1]), [far] * 4)
        total = torch.zeros_like(x)
        weights = torch.zeros_like(x[:, :1])
        for row in range(2 * far + 1):  # all columns of a row of the search window at once
            others = around[:, :, row : row + mirrored.shape[2]].unfold(3, mirrored.shape[3], 1)
            apart = (others - mirrored.unsqueeze(3)).square().mean(1)
            there = inside[:, :, row : row + height].unfold(3, width, 1)
            patches = _summed(_summed(apart, bell, 1), bell, 3)
            weight = (-patches / self.strength**2).exp().unsqueeze(1) * there
            middle = others[..., reach : reach + height, :, reach : reach + width]
            total = total + (weight * middle).sum(3)
            weights = weights + weight.sum(3)
        return frame.own(total / weights)


def _bell(size: int) -> list[float]:
    """The weights of a Gaussian window of that size; they sum to 1."""
    sigma = (size - 1) / 4
    weights = [math.exp(-((o - size // 2) ** 2) / (2 * sigma**2)) for o in range(size)]
    return [weight / sum(weights) for weight in weights]


def _summed(values: Tensor, bell: list[float], dim: int) -> Tensor:
    """Sums along a dimension, weighted by a window, wherever it lies inside."""
    length = values.shape[dim] - len(bell) + 1
    parts = [weight * values.narrow(dim, o, length) for o, weight in enumerate(bell)]
    return reduce(torch.add, parts)
