"""Gaussian noise on the input: a different answer every time one asks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense

from ._fields import above_zero


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(InputDefense):
    """Add Gaussian noise to every sample, anew with every forward.

    As in Gu & Rigazio, 1412.5068, who train with it; `smoothing` takes a vote over many such
    answers. Departure: the noise stays when the model is deployed. Values are not clipped to the
    range: that would make the noise depend on x. Exposed as it is, for it is differentiable.

    sigma       standard deviation, as a share of the data's range, above 0

    Raises RobustError for other numbers.
    """

    family: ClassVar[str] = "randomization"
    paper: ClassVar[str] = "1412.5068"
    claims: ClassVar[str] = "small perturbations drown in noise"
    broken_by: ClassVar[str] = "expectation over transformation (1802.00420)"
    gradient: ClassVar = "own"
    sigma: float = 0.2

    def __post_init__(self) -> None:
        above_zero(sigma=self.sigma)

    @property
    def draws(self) -> int:
        return 20

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        return x + self.sigma * (frame.high - frame.low) * torch.randn_like(x)
