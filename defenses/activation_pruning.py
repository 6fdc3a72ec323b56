"""Stochastic activation pruning: large activations are likely to stay, small ones to go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robust.core.defense import LayerDefense
from robust.core.errors import RobustError


@dataclass(frozen=True, kw_only=True)
class ActivationPruning(LayerDefense):
    """Draw activations behind every ReLU, and prune the rest (SAP, Dhillon et al., 1803.01442).

    Of d activations of a layer and sample, share·d are drawn with replacement, with probabilities
    p proportional to their size. Those that were drawn are divided by the probability of that,
    1 − (1 − p)^(share·d), so that every mean stays what it was; the others become 0. Exposed with
    the gradient of the ReLU alone, which is the mean over draws. Departure: whether an activation
    is drawn is decided for each one alone, with that probability. In the paper they compete for
    share·d draws, which hardly correlates them and takes twenty times as long.

    share       draws, as a share of the number of activations, above 0

    Raises RobustError for other numbers.
    """

    family: ClassVar[str] = "randomization"
    paper: ClassVar[str] = "1803.01442"
    claims: ClassVar[str] = "an attacker does not know which activations will be there"
    broken_by: ClassVar[str] = "expectation over transformation (1802.00420)"
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 100:
            raise RobustError(f"share is a number above 0, and at most 100, not {self.share:g}")

    @property
    def draws(self) -> int:
        return 20

    def functions(self, *, exposed: bool) -> dict[str, Callable[..., Tensor]]:
        def pruned(
            old: Callable[..., Tensor],
            number: int,
            training: bool,
            u: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Tensor:
            a = old(u, *args, **kwargs)
            if not exposed:
                return self._prune(a)
            return a + (self._prune(a.detach()) - a.detach())

        return {"relu": pruned}

    def _prune(self, a: Tensor) -> Tensor:
        flat = a.flatten(1)
        draws = max(1, round(self.share * flat.shape[1]))
        total = flat.abs().sum(1, keepdim=True)
        p = flat.abs() / total.where(total > 0, 1)  # all 0: there is nothing to choose from
        # 1 − (1 − p)^draws without the cancellation for small p.
        chance = -torch.expm1(draws * torch.log1p(-p.clamp(max=1 - 1e-6)))
        kept = torch.rand_like(flat) < chance
        return (flat / chance.where(kept, 1)).where(kept, 0).view_as(a)
