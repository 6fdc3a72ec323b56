"""Noise layers: Gaussian noise in front of every convolution and linear layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Frame, LayerDefense

from ._fields import at_least
from ._passes import Averaging


@dataclass(frozen=True, kw_only=True)
class NoiseLayers(LayerDefense):
    """Noise in front of every layer, and the mean over passes (RSE, Liu et al., 1712.00673).

    A network should be trained with it (`robust train --defense noise-layers`), though it can be
    put around any. While it trains there is one pass; deployed, the probabilities of several are
    averaged. Exposed as it is, for it is differentiable. Departure: linear layers get noise, too,
    not convolutions alone.

    sigma_first   standard deviation in front of the first layer, in the units of what that layer
                  takes (behind the normalisation), at least 0
    sigma_inner   the same in front of every other layer
    passes        passes that are averaged for one answer

    Raises RobustError for other numbers.
    """

    family: ClassVar[str] = "randomization"
    paper: ClassVar[str] = "1712.00673"
    claims: ClassVar[str] = "an ensemble of random networks for the memory of one"
    broken_by: ClassVar[str] = "expectation over transformation (1802.00420)"
    sigma_first: float = 0.2
    sigma_inner: float = 0.1
    passes: int = 1

    def __post_init__(self) -> None:
        at_least(0, sigma_first=self.sigma_first, sigma_inner=self.sigma_inner)
        at_least(1, passes=self.passes)

    @property
    def draws(self) -> int:
        return max(2, -(-20 // self.passes))  # each is a mean over its passes already

    def functions(self, *, exposed: bool) -> dict[str, Callable[..., Tensor]]:
        return {"linear": self._noisy}

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Averaging(super().wrap(model, frame, parts), self.passes)

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Averaging(super().expose(model, frame, parts), self.passes)

    def _noisy(
        self,
        old: Callable[..., Tensor],
        number: int,
        training: bool,
        u: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        sigma = self.sigma_inner if number else self.sigma_first
        return old(u + sigma * torch.randn_like(u), *args, **kwargs)
