"""Carlini & Wagner's L2 attack."""

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

_STALL, _CHECKS = 0.9999, 10  # a loss that has not fallen below this share in a tenth of the steps
_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8  # Adam


@dataclass(frozen=True, kw_only=True)
class CW(Attack):
    """Minimise ‖δ‖² + c·max(0, −margin) with Adam, for a series of constants c.

    Carlini & Wagner, 1608.04644. c grows tenfold until a run succeeds, and is then bisected. Of the
    paper's three ways to stay in the box this takes projection after each step: the tanh that the
    paper prefers has no slope where x lies on the box, as most pixels of a drawing do, and with a
    few hundred steps they stay there. Further departures: fewer steps than the paper's 10,000; a
    sample leaves a run as soon as its own loss stalls; a last search on the segment from x.

    steps           most steps for each constant, one forward and one backward each
    searches        how many constants
    constant        the first of them, for a box of length 1
    step_size       Adam's at first, in units of the box; falls to a tenth of it along a cosine
    confidence      the margin that the penalty asks for
    """

    paper: ClassVar[str] = "1608.04644"
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    minimal: ClassVar[bool] = True
    steps: int = 1000
    searches: int = 9
    constant: float = 1e-3
    step_size: float = 0.01
    confidence: float = 0.0

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest = Closest(x, threat)
        rows = torch.arange(len(x), device=x.device)
        logits = victim.logits(x)
        margin = goal.margin(logits)
        rows = rows[~closest.offer(rows, x, logits, goal)]
        constant = torch.full_like(margin[rows], self.constant).to(x.dtype)
        low, high = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
        for _ in range(self.searches if len(rows) else 0):
            reached = self._run(victim[rows], goal[rows], rows, closest, constant)
            high = torch.where(reached, constant, high)
            low = torch.where(reached, low, constant)
            constant = torch.where(high.isfinite(), (low + high) / 2, 10 * constant)
        closest.tighten(victim, goal, margin)
        return closest.x_adv

    def _run(
        self, victim: Victim, goal: Goal, rows: Tensor, closest: Closest, constant: Tensor
    ) -> Tensor:
        """The steps for one constant of each sample: which of them reached their goal (n,)."""
        threat, everyone = closest.threat, rows
        span = threat.high - threat.low
        won = torch.zeros(len(closest.x), dtype=torch.bool, device=rows.device)
        x = closest.x[rows]
        now = x
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        before = torch.full_like(constant, torch.inf)
        for number in range(self.steps):
            logits, value, slope = victim.gradient(now, margin_loss, goal)
            won[rows] |= closest.offer(rows, now, logits, goal)
            missing = (self.confidence - value).clamp(min=0)
            # In units of the box: δ/span, and a slope span times as steep.
            delta = (now - x) / span
            loss = delta.square().flatten(1).sum(1) + constant * missing
            gradient = 2 * delta - slope * wide(constant * (missing > 0) * span, x)
            first = torch.lerp(gradient, first, _BETA1)
            second = torch.lerp(gradient.square(), second, _BETA2)
            scale = (second / (1 - _BETA2 ** (number + 1))).sqrt_().add_(_TINY)
            size = span * cosine(number / self.steps, self.step_size, self.step_size / 10)
            size /= 1 - _BETA1 ** (number + 1)
            now = (now - size * first / scale).clamp_(threat.low, threat.high)
            if number % max(1, self.steps // _CHECKS) == 0:
                left = loss < _STALL * before
                before = loss
                if not bool(left.all()):
                    rows, x, now, first, second, constant, before = narrow(
                        left, rows, x, now, first, second, constant, before
                    )
                    victim, goal = victim[left], goal[left]
                    if not len(rows):
                        break
        return won[everyone]
