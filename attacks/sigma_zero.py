"""σ-zero: as few coordinates as possible, by a smooth stand-in for their number."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import margin as margin_loss
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._minimal import Closest, cosine, narrow, wide


@dataclass(frozen=True, kw_only=True)
class SigmaZero(Attack):
    """Raise the margin and lower Σ δᵢ²/(δᵢ² + σ); set coordinates below a moving threshold to zero.

    Cinà et al., 2402.01879. The gradient is divided by its largest entry. The threshold rises while
    a sample is adversarial and falls while it is not. Departure: a last look at which coordinates
    the closest success can go without.

    steps           iterations, one forward and one backward each
    step_size       first step, in units of the box; falls to a tenth of it along a cosine
    sigma           σ: changes of about its root and less count in part
    threshold       the threshold at first, in units of the box
    sensitivity     by which part of the step the threshold moves
    """

    paper: ClassVar[str] = "2402.01879"
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    minimal: ClassVar[bool] = True
    steps: int = 1000
    step_size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    sensitivity: float = 0.01

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest, span, count = Closest(x, threat), threat.high - threat.low, x[0].numel()
        rows = torch.arange(len(x), device=x.device)
        part, aim, now = victim, goal, x
        threshold = torch.full_like(x.flatten(1)[:, 0], self.threshold)
        for number in range(self.steps):
            logits, _, gradient = part.gradient(now, margin_loss, aim)
            reached = closest.offer(rows, now, logits, aim)
            if number == 0:
                rows, now, gradient, threshold, reached = narrow(
                    ~reached, rows, now, gradient, threshold, reached
                )
                part, aim = part[rows], aim[rows]
                if not len(rows):
                    return closest.x_adv
            clean = x[rows]
            delta = (now - clean) / span
            fewer = 2 * self.sigma * delta / (delta.square() + self.sigma).square() / count
            rise = torch.where(wide(reached, x), 0, gradient * span) - fewer
            rise /= wide(rise.flatten(1).abs().amax(1).clamp(min=1e-12), x)
            size = self.step_size * cosine(number / self.steps, 1.0, 0.1)
            moved = torch.clamp(now + size * span * rise, threat.low, threat.high)
            threshold += self.sensitivity * size * torch.where(reached, 1.0, -1.0)
            threshold.clamp_(0, 1)
            kept = (moved - clean).abs() >= wide(threshold, x) * span
            now = torch.where(kept, moved, clean)
        closest.offer(rows, now, part.logits(now), aim)
        closest.thin(victim, goal)
        return closest.x_adv
