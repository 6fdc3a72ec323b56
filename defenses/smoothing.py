"""Randomized smoothing: the class that most noisy copies of a sample are put into."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from robust.core.defense import Defense, Frame

from ._fields import above_zero, at_least
from ._passes import Voting


@dataclass(frozen=True, kw_only=True)
class Smoothing(Defense):
    """A vote over copies of each sample with Gaussian noise (Cohen et al., 1902.02918).

    The logits are the logarithms of the shares of the votes, half a vote where there is none. With
    `robust train` the network learns from one noisy copy of each sample, as in the paper; `robust
    certify` proves a radius in L2. Noisy values are not clipped to the range, or the proof would
    not hold. Exposed as the mean of the probabilities over the copies (soft smoothing, Salman et
    al., 1906.04584); a defense without certificate ends there.

    sigma       standard deviation of the noise, as a share of the data's range, above 0
    votes       noisy copies for each answer; `robust certify` takes as many as it is told

    Raises RobustError for other numbers.
    """

    family: ClassVar[str] = "randomization"
    paper: ClassVar[str] = "1902.02918"
    claims: ClassVar[str] = "a radius in L2 that `robust certify` proves for each sample"
    broken_by: ClassVar[str] = "gradients of the soft vote (1906.04584), beyond the proven radius"
    place: ClassVar[str] = "input"
    sigma: float = 0.25
    votes: int = 25

    def __post_init__(self) -> None:
        above_zero(sigma=self.sigma)
        at_least(1, votes=self.votes)

    @property
    def draws(self) -> int:
        return max(2, math.ceil(30 / self.votes))  # each is a mean over its votes already

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Voting(model, self.votes, self.sigma * (frame.high - frame.low))

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Voting(model, self.votes, self.sigma * (frame.high - frame.low), exposed=True)
