"""Total variation minimisation: the least varied image that agrees with what is left of one."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError

from ._images import refuse_all_but_images


@dataclass(frozen=True, kw_only=True)
class TotalVariation(InputDefense):
    """Find the image of least total variation near what is left of one (1711.00117).

    It answers with the z that minimises ½ Σ kept · (z − x)² + weight · TV(z) (Rudin, Osher &
    Fatemi, Physica D 1992), in each channel, found by `steps` primal-dual steps (Chambolle & Pock,
    2011). Which values are kept is drawn anew with every forward; with drop=0 all are, and nothing
    is random. Images (C, H, W) of any number of channels.

    Departures: the paper does not square the first term and sums TV over whole rows and columns;
    here it is the isotropic one of Rudin et al. Exposed exactly, by differentiating the steps.

    weight      of the total variation, above 0, for values in [0, 1]
    drop        probability of a value to be dropped, from 0 up to 1; the paper's is 0.5, which
                small images do not survive
    steps       of the solver

    Raises RobustError for other values, and for samples that are no images.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1711.00117"
    claims: ClassVar[str] = "perturbations are smoothed away, or dropped at random"
    broken_by: ClassVar[str] = "attacks through the solver, BPDA, with EOT if random (1802.00420)"
    gradient: ClassVar[Literal["own", "exact", "stand-in"]] = "exact"
    weight: float = 0.1
    drop: float = 0.0
    steps: int = 20

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise RobustError(f"weight is a finite number above 0, not {self.weight:g}")
        if not 0 <= self.drop < 1:
            raise RobustError(f"drop is a probability from 0 up to 1, not {self.drop:g}")
        if self.steps < 1:
            raise RobustError(f"steps must be at least 1, not {self.steps}")

    @property
    def draws(self) -> int:
        return 10 if self.drop else 1

    def check(self, frame: Frame) -> None:
        refuse_all_but_images(frame)

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        unit = frame.unit(x)
        kept = torch.ones_like(unit)
        if self.drop:
            kept = (torch.rand_like(unit) >= self.drop).to(unit)
        return frame.own(self._smoothest(unit, kept))

    def _smoothest(self, x: Tensor, kept: Tensor) -> Tensor:
        step = 8**-0.5  # of both variables; 8 bounds the squared norm of `_gradient`
        # What is unknown starts at the mean of what is known.
        known = kept.sum((2, 3), keepdim=True).clamp(min=1)
        mean = (kept * x).sum((2, 3), keepdim=True) / known
        z = ahead = kept * x + (1 - kept) * mean
        down = right = torch.zeros_like(x)
        for _ in range(self.steps):
            up, across = _gradient(ahead)
            down, right = down + step * up, right + step * across
            length = (down.square() + right.square()).clamp(min=self.weight**2).sqrt()
            down, right = down * (self.weight / length), right * (self.weight / length)
            before, z = z, (z + step * (_divergence(down, right) + kept * x)) / (1 + step * kept)
            ahead = 2 * z - before
        return z


def _gradient(z: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the next row and column, 0 at the end."""
    return pad(z.diff(dim=2), (0, 0, 0, 1)), pad(z.diff(dim=3), (0, 1))


def _divergence(down: Tensor, right: Tensor) -> Tensor:
    """What minus the transpose of `_gradient` makes of such differences."""
    rows, columns = down[..., :-1, :], right[..., :-1]
    return (
        pad(rows, (0, 0, 0, 1))
        - pad(rows, (0, 0, 1, 0))
        + pad(columns, (0, 1))
        - pad(columns, (1, 0))
    )
