"""k-winners-take-all: the largest activations of a layer in place of its ReLU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Frame, LayerDefense
from robust.core.errors import RobustError
from robust.core.intercept import Intercepting

from ._fields import above_zero
from ._surrogate import Seen


@dataclass(frozen=True, kw_only=True)
class KWTA(LayerDefense):
    """Keep only the largest activations of each layer, in place of its ReLU (1905.10510).

    Which units win changes with the smallest step, and the loss jumps with them: its gradient
    tells of no more than a point. Exposed, the answers are the same and the gradient is that of a
    smooth network, in which a unit passes by σ((u − threshold) / (width·s)), s the spread of its
    layer and the threshold the smallest winner. Averages over neighbours, the attack of Tramer et
    al., cost a forward each and found less here. The paper begins with a larger ratio, and lowers
    it after training; here it is the same throughout.

    ratio       share of the units of a layer that win in each sample, above 0 to 1; at least one
    width       of what the attacker's network has in place of the step, above 0

    Raises RobustError for a ratio or width outside of these.
    """

    family: ClassVar[str] = "gradient masking"
    paper: ClassVar[str] = "1905.10510"
    claims: ClassVar[str] = "a loss that jumps everywhere, whose gradient leads nowhere"
    broken_by: ClassVar[str] = "gradients of a smoothed loss (2002.08347)"
    trained: ClassVar[bool] = True
    ratio: float = 0.1
    width: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise RobustError(f"ratio is a share above 0 to 1, not {self.ratio:g}")
        above_zero(width=self.width)

    def functions(self, *, exposed: bool) -> dict[str, Callable[..., Tensor]]:
        def winners(
            old: object, number: int, training: bool, u: Tensor, *rest: Any, **more: Any
        ) -> Tensor:
            flat = u.flatten(1)
            values, places = flat.topk(max(1, int(self.ratio * flat.shape[1])), 1)
            if not exposed:
                return torch.zeros_like(flat).scatter(1, places, values).view_as(u)
            spread = self.width * flat.std(1, correction=0, keepdim=True).detach()
            above = flat - values[:, -1:].detach()
            tiny = torch.finfo(flat.dtype).tiny
            return (flat * torch.sigmoid(above / spread.clamp(min=tiny))).view_as(u)

        return {"relu": winners}

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        smooth = Intercepting(model, self.functions(exposed=True))
        return Seen(self.wrap(model, frame, parts), smooth)
