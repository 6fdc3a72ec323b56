"""Fast adaptive boundary: the search that `fab` and `fab-t` run, once or once per target class."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robust.core.goal import Goal
from robust.core.plane import dual_norm, step_to_plane
from robust.core.victim import Victim

from ._minimal import Closest

# Logits and the goal of their samples → (n, m): differences of logits, each zero on a boundary.
Boundaries = Callable[[Tensor, Goal], Tensor]

FRESH = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """steps; alpha_max, eta and beta of the paper; radius at which a sample is done, −1: none."""

    steps: int
    alpha_max: float
    eta: float
    beta: float
    done_at: float


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
    nearest of the linearised boundaries. After a success x_k moves back towards x by the factor β.
    Each step costs one forward, and one backward for each boundary; one forward ends the search.
    """
    threat = closest.threat
    now = start
    for number in range(settings.steps + 1):
        if not len(rows):
            return
        if number == settings.steps:
            closest.offer(rows, now, victim.logits(now), goal)
            return
        logits, values, slopes = victim.jacobian(now, lambda z, goal=goal: boundaries(z, goal))
        reached = closest.offer(rows, now, logits, goal)
        done = closest.distance[rows] <= settings.done_at
        if bool(done.any()):
            left = ~done
            rows, now, victim, goal = rows[left], now[left], victim[left], goal[left]
            values, slopes, reached = values[left], slopes[left], reached[left]
            if not len(rows):
                return
        x = closest.x[rows]
        at = now
        now = torch.where(_wide(reached, now), x + settings.beta * (now - x), now)
        if FRESH:
            at = now
            logits, values, slopes = victim.jacobian(now, lambda z, goal=goal: boundaries(z, goal))
        slope, value = _nearest(threat.norm, values, slopes)
        # The plane is value + ⟨slope, z − at⟩ = 0.
        both, slope2 = torch.cat([now, x]), torch.cat([slope, slope])
        gain = -(torch.cat([value, value]) + ((both - torch.cat([at, at])) * slope2).flatten(1).sum(1))
        step = step_to_plane(threat.norm, both, slope2, gain, threat.low, threat.high)
        d1, d2 = step.chunk(2)
        length = threat.distance(both, both + step).clamp(min=1e-8).to(x.dtype)
        near, far = length.chunk(2)
        alpha = _wide((near / (near + far)).clamp(max=settings.alpha_max), x)
        now = torch.lerp(now + settings.eta * d1, x + settings.eta * d2, alpha)
        now = now.clamp_(threat.low, threat.high)


def _nearest(norm: str, values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Slope (n, …) and value (n,) of the boundary that linearisation puts nearest."""
    if values.shape[1] == 1:
        return slopes[:, 0], values[:, 0]
    away = values.abs() / dual_norm(norm, slopes.flatten(2)).clamp(min=1e-12)
    choice = away.argmin(1)
    rows = torch.arange(len(choice), device=choice.device)
    return slopes[rows, choice], values[rows, choice]


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
