"""Gradients estimated from scores, by differences of mirrored points, and the ascent along them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal
from robust.core.threat import Ball, Threat
from robust.core.victim import Loss, Victim

Draw = Callable[[Generator, Tensor], Tensor]  # (rng, like) → directions, independent, of variance 1

_TOGETHER = 4  # pairs about a sample, at most, that are sent at once: the first may be a success


@dataclass
class Probes:
    """What the questions around a point have shown of each sample.

    gradient    (n, …)
    point       (n, …), the asked point of highest loss `value` (n,), a success where `solved` (n,)
    """

    gradient: Tensor
    point: Tensor
    value: Tensor
    solved: Tensor


def probe(
    victim: Victim,
    now: Tensor,
    goal: Goal,
    ball: Ball,
    rng: Generator,
    *,
    pairs: Tensor,
    together: int,
    sigma: float,
    draw: Draw,
    loss: Loss,
) -> Probes:
    """Two questions for each of `pairs`, int64 (n,), around `now`, at ± the same random step.

    The points asked about are put into ball ∩ box, so that each may be a success, and the slope is
    taken between them as they are. `together` bounds the rows of one question to the model. Who is
    solved by one of them is asked no more.
    """
    n, most = len(now), int(pairs.max()) if len(pairs) else 0
    found = Probes(
        torch.zeros_like(now), now.clone(), now.new_full((n,), float("-inf")),
        torch.zeros(n, dtype=torch.bool, device=now.device),
    )  # fmt: skip
    done = 0
    while done < most:
        count = int(((pairs > done) & ~found.solved).sum())
        if not count:
            break
        width = min(max(1, together // (2 * count)), _TOGETHER, most - done)
        numbers = torch.arange(done, done + width, device=now.device)
        place = ((numbers.unsqueeze(1) < pairs) & ~found.solved).nonzero()[:, 1]
        done += width
        around = ball[place]
        u = draw(rng, now[place])
        up, down = (around.project(now[place] + s * sigma * u) for s in (1, -1))
        both, twice = torch.cat([up, down]), torch.cat([place, place])
        logits = victim[twice].logits(both)
        value = loss(logits, goal[twice]).to(now.dtype)
        rise = value[: len(place)] - value[len(place) :]
        rise = rise.masked_fill(~rise.isfinite(), 0.0)  # one answer would be all of the estimate
        slope = rise.view(-1, *[1] * (now.dim() - 1)) * (up - down)
        found.gradient.index_add_(0, place, slope)
        _keep(found, both, twice, value, goal[twice].reached(logits) & (not goal.persist))
    return found


def _keep(found: Probes, points: Tensor, places: Tensor, value: Tensor, solved: Tensor) -> None:
    """Enter the best of the points of each place: a success, or else the highest loss."""
    rank = torch.where(solved, float("inf"), value.nan_to_num(nan=float("-inf")))
    before = torch.where(found.solved, float("inf"), found.value)
    best = before.scatter_reduce(0, places, rank, "amax")
    better = ((rank == best[places]) & (rank > before[places])).nonzero().squeeze(1)
    # Of equals the last one written stays; all columns are written from the same order.
    chosen = torch.full_like(found.value, -1, dtype=torch.int64)
    chosen[places[better]] = better
    rows = (chosen >= 0).nonzero().squeeze(1)
    taken = chosen[rows]
    found.point[rows], found.value[rows] = points[taken], value[taken]
    found.solved[rows] = solved[taken]


def reach(sigma: float | None, threat: Threat, x: Tensor) -> float:
    """How far a question is from the point in each coordinate: sigma, or half of what eps allows to
    all coordinates at once.
    """
    if sigma is not None:
        return sigma
    return threat.eps / 2 / (1 if threat.norm == "linf" else x[0].numel() ** 0.5)


# (rows of the batch, now, estimated gradient, ball) → the next point, not yet projected.
Step = Callable[[Tensor, Tensor, Tensor, Ball], Tensor]


def estimated_ascent(
    victim: Victim,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    rng: Generator,
    *,
    samples: int,
    sigma: float,
    draw: Draw,
    loss: Loss,
    step: Step,
) -> Tensor:
    """From x, rounds of an estimate from `samples` pairs and a step that is asked about once.

    A sample that cannot pay for a whole round takes a last one with what it has left. A success
    leaves at once, be it a step or a question of an estimate, but for the questions that were sent
    together with it; the others return their best point.
    """
    best = x.clone()
    best_value = torch.full_like(x.flatten(1)[:, 0], float("-inf"))
    rows = (victim.left > 0).nonzero().squeeze(1)
    if not len(rows):
        return best
    now, victim, goal, ball = x[rows], victim[rows], goal[rows], threat.around(x)[rows]
    logits = victim.logits(now)
    value = loss(logits, goal).to(x.dtype)
    best_value[rows] = value.masked_fill(value.isnan(), float("-inf"))  # nothing is above NaN
    left = ~goal.reached(logits) | goal.persist
    together = 2 * len(x)
    # Each round asks anew at most 2 · samples + 1 times; answers that are known cost nothing, so
    # the rounds are counted as if each had been paid for.
    for _ in range(1 + int(victim.left.max()) // (2 * samples + 1)):
        left &= victim.left >= 3
        rows, now, victim, goal, ball = rows[left], now[left], victim[left], goal[left], ball[left]
        if not len(rows):
            break
        found = probe(
            victim, now, goal, ball, rng,
            pairs=((victim.left - 1) // 2).clamp(max=samples),
            together=together, sigma=sigma, draw=draw, loss=loss,
        )  # fmt: skip
        better = found.solved | (found.value > best_value[rows])
        best[rows[better]] = found.point[better]
        best_value[rows[better]] = found.value[better]
        stay = ~found.solved
        if not bool(stay.all()):
            rows, now, victim = rows[stay], now[stay], victim[stay]
            goal, ball = goal[stay], ball[stay]
            found.gradient = found.gradient[stay]
            if not len(rows):
                break
        now = ball.project(step(rows, now, found.gradient, ball))
        logits = victim.logits(now)
        value = loss(logits, goal).to(x.dtype)
        reached = goal.reached(logits) & (not goal.persist)
        better = reached | (value > best_value[rows])
        best[rows[better]], best_value[rows[better]] = now[better], value[better]
        left = ~reached
    return best
