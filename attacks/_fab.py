"""Fast adaptive boundary: the search that `fab` and `fab-t` run, once or once per target class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robust.core.goal import Goal
from robust.core.lengths import length
from robust.core.nearest import dual_norm, step_to_plane
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._minimal import Closest, narrow, wide

if TYPE_CHECKING:
    from .fab import FAB
    from .fab_t import FABT

# Logits and the goal of their samples → (n, m): differences of logits, each zero on a boundary.
Boundaries = Callable[[Tensor, Goal], Tensor]

_PATIENCE = 6  # steps of no progress (a thousandth), after which the plane is taken elsewhere
_PROGRESS = 0.999


@dataclass(frozen=True, kw_only=True)
class Settings:
    """steps; alpha_max, eta and beta as in the paper; a sample is done at the distance done_at."""

    steps: int
    alpha_max: float
    eta: float
    beta: float
    done_at: float

    @classmethod
    def of(cls, attack: "FAB | FABT", threat: Threat) -> "Settings":
        """What the attack's fields say; with until_eps a success inside the threat is enough."""
        return cls(
            steps=attack.steps,
            alpha_max=attack.alpha_max,
            eta=attack.eta,
            beta=attack.beta,
            done_at=threat.eps if attack.until_eps else 0.0,
        )


def search(
    victim: Victim,
    start: Tensor,
    goal: Goal,
    rows: Tensor,
    closest: Closest,
    boundaries: Boundaries,
    settings: Settings,
) -> None:
    """`steps` steps for the samples `rows` of closest.x, from `start`; successes go to `closest`.

    x_k+1 = (1 − α)(x_k + η·d_1) + α(x + η·d_2), where d_1 and d_2 lead from x_k and from x to the
    nearest of the linearised boundaries. After a success x_k goes back towards x by the factor β.
    A step costs one forward, and one backward for each boundary; one forward ends the search.

    The paper linearises again where it went back to, at twice the cost. The success itself lies
    nearer to the boundary, and its plane is closer to the truth; but where the gradient is
    erratic the search can get stuck on one plane, so that a stale sample does as in the paper.
    """
    threat, x, now = closest.threat, closest.x[rows], start
    aim = closest.distance[rows]
    stale = torch.zeros_like(rows)
    for _ in range(settings.steps):
        logits, values, slopes = victim.jacobian(now, _bound(boundaries, goal))
        reached = closest.offer(rows, now, logits, goal)
        best = closest.distance[rows]
        done = best <= settings.done_at
        if bool(done.any()):
            left = ~done
            rows, x, now, aim, stale, best, values, slopes, reached = narrow(
                left, rows, x, now, aim, stale, best, values, slopes, reached
            )
            victim, goal = victim[left], goal[left]
            if not len(rows):
                return
        stale = torch.where(best < _PROGRESS * aim, 0, stale + 1)
        aim = best
        fresh = reached & (stale > _PATIENCE)
        stale = stale.masked_fill(fresh, 0)

        slope, value = nearest(threat.norm, values, slopes)
        share = torch.where(reached, settings.beta, 1.0).to(x.dtype)
        back = torch.lerp(x, now, wide(share, x))
        ahead = ((now - x) * slope).flatten(1).sum(1)
        then = _step(threat, x, back, slope, ahead - value, (1 - share) * ahead - value, settings)
        now = torch.where(wide(fresh, x), back, then) if bool(fresh.any()) else then
    closest.offer(rows, now, victim.logits(now), goal)


def _step(
    threat: Threat,
    x: Tensor,
    back: Tensor,
    slope: Tensor,
    gain: Tensor,
    back_gain: Tensor,
    settings: Settings,
) -> Tensor:
    """From `back` and x beyond the plane, where ⟨slope, ·⟩ has gained as much, and in between."""
    norm, low, high = threat.norm, threat.low, threat.high
    from_back = step_to_plane(norm, back, slope, back_gain, low, high)
    from_x = step_to_plane(norm, x, slope, gain, low, high)
    near = length(norm, from_back.flatten(1)).clamp_(min=1e-8)
    far = length(norm, from_x.flatten(1)).clamp_(min=1e-8)
    alpha = (near / (near + far)).clamp_(max=settings.alpha_max)
    from_back, from_x = (
        torch.add(start, step, alpha=settings.eta)
        for start, step in ((back, from_back), (x, from_x))
    )
    return from_back.lerp_(from_x, wide(alpha, x)).clamp_(low, high)


def nearest(norm: str, values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Slope (n, …) and value (n,) of the boundary that linearisation puts nearest."""
    if values.shape[1] == 1:
        return slopes[:, 0], values[:, 0]
    away = values.abs() / dual_norm(norm, slopes.flatten(2)).clamp(min=1e-12)
    choice = away.argmin(1)
    rows = torch.arange(len(choice), device=choice.device)
    return slopes[rows, choice], values[rows, choice]


def _bound(boundaries: Boundaries, goal: Goal) -> Callable[[Tensor], Tensor]:
    """`boundaries` of these samples, as a function of the logits alone."""
    return lambda logits: boundaries(logits, goal)
