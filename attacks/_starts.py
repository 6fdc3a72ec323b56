"""Where a search along the boundary starts: a point of each sample that reaches the goal."""

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal
from robust.core.rng import signs, uniform
from robust.core.victim import Pool

from ._walk import Walk

_NOISE = 3  # random points of an untargeted search, before the pool
_POOLED = 5  # samples of the pool, nearest first
_LAST = 20  # random points where all that failed
FAILED = "had no start: no point that was tried reaches the goal"


def at_boundary(walk: Walk, rng: Generator) -> tuple[Tensor, Tensor]:
    """Points next to the boundary, (n, …), and the samples that have one."""
    find(walk, rng)
    at = walk.x_adv.clone()
    rows = (walk.distance.isfinite() & (walk.distance > 0)).nonzero().squeeze(1)
    if len(rows):
        at[rows] = walk.bisect(rows, at[rows])
    return at, rows


def find(walk: Walk, rng: Generator) -> None:
    """Ask until every sample of the walk has a success, or fails for itself, with a remark.

    First about x itself. To leave a class: random points, then samples of the pool believed to be
    of another class; to arrive at one: samples of that class. The nearest come first. Then more
    random points.
    """
    goal, x, pool = walk.goal, walk.x, walk.victim.pool
    everyone = torch.arange(len(x), device=x.device)
    walk.ask(everyone, x)
    if not goal.targeted:
        _try_noise(walk, rng, _NOISE)
    if pool is not None:
        rows = _without(walk)
        nearest = _nearest(pool, x[rows], goal[rows])
        for column in nearest.unbind(1):
            there = (column >= 0) & walk.distance[rows].isinf()
            walk.ask(rows[there], pool.x[column[there]].to(x.dtype))
    _try_noise(walk, rng, _LAST)
    failed = walk.distance.isinf().nonzero().squeeze(1)
    walk.victim[failed].remark(FAILED)


def _without(walk: Walk) -> Tensor:
    return (walk.distance.isinf() & (walk.victim.left > 0)).nonzero().squeeze(1)


def _try_noise(walk: Walk, rng: Generator, tries: int) -> None:
    """Random points: uniform in the box, and corners of it in turn."""
    low, high = walk.threat.low, walk.threat.high
    for number in range(tries):
        rows = _without(walk)
        if not len(rows):
            break
        x = walk.x[rows]
        share = uniform(rng, x) if number % 2 == 0 else (signs(rng, x) + 1) / 2
        walk.ask(rows, walk.level(rows, (low + (high - low) * share).clamp_(low, high)))


def _nearest(pool: Pool, x: Tensor, goal: Goal) -> Tensor:
    """Positions in the pool of the samples to start from, nearest first: int64 (n, up to _POOLED),
    −1 where there are no more.
    """
    fits = (pool.labels == goal.labels.unsqueeze(1)) == goal.targeted
    fits &= (pool.labels >= 0).unsqueeze(0)
    distance = torch.cdist(x.flatten(1), pool.x.flatten(1).to(x.dtype))
    distance = distance.masked_fill(~fits, torch.inf)
    found, order = distance.sort(dim=1, stable=True)
    return torch.where(found.isfinite(), order, -1)[:, :_POOLED]
