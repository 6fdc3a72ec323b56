"""The boundary attack: a random walk along the boundary, by labels alone."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.rng import normal
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from . import _starts
from ._minimal import unit, wide
from ._walk import Walk

_EVERY = 5  # rounds: the step across is asked for itself
_FACTOR = 1.3
_FIRST = 0.1, 0.02  # across and towards x, in distances


@dataclass(frozen=True, kw_only=True)
class Boundary(Attack):
    """Random steps at the same distance from x, each with a small step towards x, kept where they
    still reach the goal, L2.

    Brendel, Rauber & Bethge, 1712.04248. The steps across adapt until half of them reach the goal,
    those towards x until a quarter of all do. Departures: it starts next to the boundary, found by
    bisection; both lengths adapt with each answer instead of after many; first steps are ten times
    as long, for budgets of thousands instead of hundreds of thousands.

    queries     per sample, in all
    until_eps   a sample leaves once it is broken inside the threat's eps
    """

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    minimal: ClassVar[bool] = True
    paper: ClassVar[str] = "1712.04248"
    queries: int = 5000
    until_eps: bool = True

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        walk = Walk(victim.limited(self.queries), x, goal, threat, until_eps=self.until_eps)
        at, rows = _starts.at_boundary(walk, rng)
        across, towards = (torch.full_like(x.flatten(1)[:, 0], first) for first in _FIRST)
        for number in range(self.queries):
            rows = walk.going(rows)
            if not len(rows):
                break
            sphere = _across(walk, rows, at[rows], across[rows], rng)
            if number % _EVERY == 0:
                reached = walk.ask(rows, sphere)
                across[rows] *= torch.where(reached, _FACTOR, 1 / _FACTOR)
            z = walk.level(rows, torch.lerp(sphere, x[rows], wide(towards[rows], x)))
            reached = walk.ask(rows, z)
            at[rows[reached]] = z[reached]
            towards[rows] *= torch.where(reached, _FACTOR, _FACTOR ** (-1 / 3))
            across.clamp_(1e-6, 1.0)
            towards.clamp_(1e-6, 0.5)
        return walk.x_adv


def _across(walk: Walk, rows: Tensor, at: Tensor, size: Tensor, rng: Generator) -> Tensor:
    """Random points at the distance of `at` from x, before the box; `size` in distances from it."""
    x, threat = walk.x[rows], walk.threat
    distance, out = threat.distance(x, at).to(at.dtype), unit(at - x)
    step = normal(rng, at)
    step = unit(step - wide((step * out).flatten(1).sum(1), at) * out)
    way = unit(out + wide(size, at) * step)
    return walk.level(rows, torch.clamp(x + wide(distance, at) * way, threat.low, threat.high))
