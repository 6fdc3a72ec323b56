"""Random search over windows of the samples: the moves of `square`, from any start."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal
from robust.core.rng import signs, uniform
from robust.core.threat import Ball, Threat
from robust.core.victim import Loss, Victim

from ._regression import Guide

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
_SLACK = 1 - 1e-9  # of eps: more than float64 loses in a million updates of a length
_TINY = 1e-300


def share(p_init: float, number: int, queries: int) -> float:
    """The share of a sample that a window covers at query `number` of `queries`."""
    position = 10_000 * number // queries
    return p_init / (1 << sum(position > after for after in _HALVED_AFTER))


def layout(shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Channels, and the sizes of the axes that a window spans; a vector is one channel."""
    return (1, tuple(shape)) if len(shape) == 1 else (shape[0], tuple(shape[1:]))


def extents(
    sizes: Sequence[int], area: float, *, smallest: int = 1, odd: bool = False
) -> tuple[int, ...]:
    """The sides of a window that covers this share of the positions: all equal, where they fit.

    Where an axis is too short, the others make up for it.
    """
    sides, rest = list(sizes), area * math.prod(sizes)
    axes = sorted(range(len(sizes)), key=lambda axis: sizes[axis])
    for done, axis in enumerate(axes):
        side = max(round(rest ** (1 / (len(axes) - done))), smallest)
        side += odd and side % 2 == 0
        if side <= sizes[axis]:
            for other in axes[done:]:
                sides[other] = side
            break
        rest /= sizes[axis]
    return tuple(sides)


def first_point(ball: Ball, rng: Generator) -> Tensor:
    """Where Square starts. L∞: stripes along all axes but the last, each to a corner of the ball.
    L2, L1: five tiles along each axis, a bump in each, together of length eps before the box.
    """
    channels, sizes = layout(ball.x.shape[1:])
    if ball.threat.norm == "linf":
        up = signs(rng, ball.x.new_empty(len(ball.x), channels, *[1] * (len(sizes) - 1), sizes[-1]))
        up = up.expand(-1, -1, *sizes).reshape(ball.x.shape)
        return torch.where(up > 0, ball.upper, ball.lower)
    sides = tuple(max(1, size // 5) for size in sizes)
    rests = [(size - min(5, size) * side) // 2 for size, side in zip(sizes, sides, strict=True)]
    corners = torch.cartesian_prod(
        *(
            torch.arange(min(5, size)) * side + rest
            for size, side, rest in zip(sizes, sides, rests, strict=True)
        )
    ).view(-1, len(sizes))
    tiles = len(corners)
    index = _positions(corners.to(ball.x.device), sizes, sides)
    turned = _turned(rng, ball.x, tiles, _bumps(sides, ball.x.device))
    sign = signs(rng, turned.new_empty(len(ball.x), channels, tiles, 1))
    delta = turned.new_zeros(len(ball.x), channels, math.prod(sizes))
    delta[:, :, index.flatten()] = (sign * turned.unsqueeze(1)).flatten(2)
    delta = delta.view(ball.x.shape)
    origin = torch.zeros_like(delta)
    length = ball.threat.distance(origin, delta).view(-1, *[1] * (delta.dim() - 1))
    return ball.project((ball.x + ball.threat.eps * delta / length).to(ball.x.dtype))


def search(
    victim: Victim,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    rng: Generator,
    *,
    queries: int,
    of: int,
    p_init: float,
    loss: Loss,
    alike: float = 0.0,
    guide: Callable[[Tensor], Guide] | None = None,
) -> Tensor:
    """Square from its own start, at most so many questions: the best points.

    of      the sides of the squares fall as for so many questions
    guide   makes the guide for the samples that are not solved by the start
    """
    result = x.clone()
    rows = (victim.left > 0).nonzero().squeeze(1)
    if not len(rows):
        return result
    victim, goal, ball = victim[rows], goal[rows], threat.around(x)[rows]
    start = first_point(ball, rng)
    logits = victim.logits(start)
    result[rows] = start
    left = (~goal.reached(logits) | goal.persist).nonzero().squeeze(1)
    if not len(left):
        return result
    result[rows[left]], _, _ = climb_windows(
        victim[left],
        start[left],
        loss(logits, goal)[left],
        goal[left],
        ball[left],
        rng,
        loss=loss,
        areas=[share(p_init, number, of) for number in range(queries - 1)],
        alike=alike,
        guide=guide and guide(start[left]),
    )
    return result


def climb_windows(
    victim: Victim,
    start: Tensor,
    value: Tensor,
    goal: Goal,
    ball: Ball,
    rng: Generator,
    *,
    loss: Loss,
    areas: Sequence[float],
    alike: float = 0.0,
    guide: Guide | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One question for each of `areas`, the share of a sample that a random window covers, as far
    as a sample can pay for it.

    start (n, …) lies in the ball and value (n,) is the loss there. A window whose new content
    raises the loss stays. Returns the best points, their loss, and who was solved.

    alike   share of the windows that have the same sign in all channels
    guide   is told every answer, and now and then asked for the whole of a point instead
    """
    best, best_value = start.clone(), value.clone()
    solved = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    rows = torch.arange(len(start), device=start.device)
    now = start.clone(memory_format=torch.contiguous_format)
    current = value.masked_fill(value.isnan(), float("-inf"))  # nothing is above NaN
    propose = {"linf": _corners, "l2": _refilled, "l1": _overfilled}[ball.threat.norm]
    spent = _spent(ball, now)

    def leave(who: Tensor) -> None:
        nonlocal rows, now, spent, current, victim, goal, ball
        best[rows[who]], best_value[rows[who]] = now[who], current[who]
        stay = ~who
        rows, now, spent, current = rows[stay], now[stay], spent[stay], current[stay]
        victim, goal, ball = victim[stay], goal[stay], ball[stay]
        if guide is not None:
            guide.keep(stay)

    for number, area in enumerate(areas):
        out = victim.left < 1
        if bool(out.any()):
            leave(out)
        if not len(rows):
            break
        if guide is not None and guide.due(number):
            candidate = guide.point(ball)
            its_spent = _spent(ball, candidate)
        else:
            candidate, its_spent = propose(ball, now, spent, rng, area, alike)
        logits = victim.logits(candidate)
        found = loss(logits, goal).to(current.dtype)
        if guide is not None:
            guide.learn(candidate - now, found - current)
        done = goal.reached(logits) & (not goal.persist)
        kept = (done | (found > current)).nonzero().squeeze(1)
        now[kept], spent[kept], current[kept] = candidate[kept], its_spent[kept], found[kept]
        if bool(done.any()):
            solved[rows[done]] = True
            leave(done)
    best[rows], best_value[rows] = now, current
    return best, best_value, solved


# Moves: (ball, now, what each sample has spent, rng, area, alike) → (candidate, what it would have
# spent).
# What is spent is Σ|δ|^p, p the norm's; L2 tracks it, and so takes no pass over the sample.


def _corners(
    ball: Ball, now: Tensor, spent: Tensor, rng: Generator, area: float, alike: float
) -> tuple[Tensor, Tensor]:
    """L∞: a window goes to one corner of the ball in each channel.

    Where it is there already the opposite one is taken: no query asks about the same point again.
    """
    channels, sizes = layout(now.shape[1:])
    window = _window(rng, now, sizes, extents(sizes, area), channels)
    low, high, old = (_take(z, window) for z in (ball.lower, ball.upper, now))
    up = _signs(rng, now, channels, alike) > 0
    idle = (torch.where(up, high, low) == old).flatten(1).all(1)
    candidate = now.clone()
    _put(candidate, window, torch.where(up ^ idle.view(-1, 1, 1), high, low))
    return candidate, spent


def _refilled(
    ball: Ball, now: Tensor, spent: Tensor, rng: Generator, area: float, alike: float
) -> tuple[Tensor, Tensor]:
    """L2: what two windows hold, and what is left of eps, goes into the first of them.

    A channel gets what it held there, and its part of what is left; what the box cuts off is left
    for the next move.
    """
    candidate, window, content, lifted = _emptied(ball, now, rng, area, alike)
    free = (_SLACK * ball.threat.eps) ** 2 - spent
    available = (lifted + free.unsqueeze(1) / lifted.shape[1]).clamp(min=0).sqrt()
    x, low, high = (_take(z, window) for z in (ball.x, ball.lower, ball.upper))
    exact = torch.clamp(x + content * available.unsqueeze(2), low.double(), high.double())
    z = exact.to(now.dtype)
    z = torch.where((z - x.double()).abs() > (exact - x).abs(), torch.nextafter(z, x), z)
    _put(candidate, window, z)
    return candidate, spent - lifted.sum(1) + _power(ball, z.double() - x.double()).sum((1, 2))


def _overfilled(
    ball: Ball, now: Tensor, spent: Tensor, rng: Generator, area: float, alike: float
) -> tuple[Tensor, Tensor]:
    """L1: each channel of the first window gets as much as both held in all channels together, and
    the projection takes the excess off every coordinate, which keeps the perturbation sparse.
    """
    candidate, window, content, lifted = _emptied(ball, now, rng, area, alike)
    free = (ball.threat.eps - spent).clamp(min=0)
    available = free + lifted.shape[1] * lifted.sum(1)
    x = _take(ball.x, window)
    _put(candidate, window, (x + content * available.view(-1, 1, 1)).to(now.dtype))
    candidate = _project_changed(ball, candidate)
    return candidate, _spent(ball, candidate)


def _emptied(
    ball: Ball, now: Tensor, rng: Generator, area: float, alike: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`now` with two windows as they are in x; the first of them, and a new content of length 1 for
    it; and what was taken out, (n, c).

    The content is, in each channel, a bump of random sign and orientation added to the old content,
    both of length 1.
    """
    channels, sizes = layout(now.shape[1:])
    sides = extents(sizes, area, smallest=3, odd=True)
    first, second = (_window(rng, now, sizes, sides, channels) for _ in range(2))
    candidate = now.clone()
    held = _lift(ball, candidate, first)
    lifted = _power(ball, held).sum(2) + _power(ball, _lift(ball, candidate, second)).sum(2)
    bump = _unit(ball, _turned(rng, now, 1, _bumps(sides, now.device)))
    sign = _signs(rng, held, channels, alike)
    return candidate, first, _unit(ball, sign * bump + _unit(ball, held)), lifted


def _project_changed(ball: Ball, z: Tensor) -> Tensor:
    """ball.project(z) for L1, where few coordinates differ from x: the others stay as they are."""
    changed = (z != ball.x).flatten(1)
    row, column = changed.nonzero(as_tuple=True)
    if not len(row):
        return z
    counts = changed.sum(1)
    slot = torch.arange(len(row), device=z.device) - (counts.cumsum(0) - counts)[row]
    width = int(counts.max())

    def packed(values: Tensor) -> Tensor:
        few = values.new_full((len(values), width), ball.threat.low)
        few[row, slot] = values.flatten(1)[row, column]
        return few

    few = Ball(ball.threat, *(packed(values) for values in (ball.x, ball.lower, ball.upper)))
    result = z.clone()
    result.view(len(z), -1)[row, column] = few.project(packed(z))[row, slot]
    return result


def _spent(ball: Ball, z: Tensor) -> Tensor:
    return _power(ball, z.double() - ball.x.double()).flatten(1).sum(1)


def _power(ball: Ball, delta: Tensor) -> Tensor:
    return delta.square() if ball.threat.norm == "l2" else delta.abs()


def _unit(ball: Ball, content: Tensor) -> Tensor:
    """Windows (…, k) of length 1 in the ball's norm; empty ones stay empty."""
    order = 2 if ball.threat.norm == "l2" else 1
    length: Tensor = torch.linalg.vector_norm(content, order, dim=-1, keepdim=True)
    return content / length.clamp(min=_TINY)


def _lift(ball: Ball, now: Tensor, window: Tensor) -> Tensor:
    """The perturbation inside the windows, float64 (n, c, k), which `now` then has no more."""
    x = _take(ball.x, window)
    held = _take(now, window).double() - x.double()
    _put(now, window, x)
    return held


def _signs(rng: Generator, like: Tensor, channels: int, alike: float) -> Tensor:
    """A sign for each channel of a window, (n, c, 1): in a share of them the same for all."""
    sign = signs(rng, like.new_empty(len(like), channels, 1))
    if alike and channels > 1:
        same = uniform(rng, like.new_empty(len(like), 1, 1)) < alike
        sign = torch.where(same, sign[:, :1], sign)
    return sign


# Windows: positions (n, c, k) within the channels of a batch.


def _take(z: Tensor, window: Tensor) -> Tensor:
    return z.reshape(*window.shape[:2], -1).gather(2, window)


def _put(z: Tensor, window: Tensor, content: Tensor) -> None:
    z.view(*window.shape[:2], -1).scatter_(2, window, content)


def _window(
    rng: Generator, now: Tensor, sizes: tuple[int, ...], sides: tuple[int, ...], channels: int
) -> Tensor:
    """A window of these sides at a random place for each sample, the same in its channels."""
    places = now.new_tensor([n - s + 1 for n, s in zip(sizes, sides, strict=True)])
    draw = uniform(rng, places.new_empty(len(now), len(sizes)))
    return _positions((draw * places).long(), sizes, sides).unsqueeze(1).expand(-1, channels, -1)


def _positions(corners: Tensor, sizes: tuple[int, ...], sides: tuple[int, ...]) -> Tensor:
    """The positions in a window for each corner (m, axes): int64 (m, k)."""
    offsets, strides = _offsets(sizes, sides, corners.device)
    return (corners * strides).sum(1, keepdim=True) + offsets


@lru_cache(maxsize=256)
def _offsets(
    sizes: tuple[int, ...], sides: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Positions in the window at the origin, int64 (k,), and the strides of the axes."""
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    offsets = torch.zeros(1, dtype=torch.int64)
    for side, stride in zip(sides, strides, strict=True):
        offsets = (offsets.unsqueeze(1) + stride * torch.arange(side)).flatten()
    return offsets.to(device), torch.tensor(strides, device=device)


@lru_cache(maxsize=256)
def _bumps(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """The bump η of the paper in a window of these sides, halved along each axis: (axes, k).

    Two hills of opposite sign and of length 1 side by side. A hill falls with the distance d from
    its middle, measured by the largest coordinate, as Σ_{j>d} 1/j².
    """
    bumps = []
    for axis, side in enumerate(sides):
        halves = [
            _hill([part if i == axis else size for i, size in enumerate(sides)])
            for part in (side // 2, side - side // 2)
        ]
        bumps.append(torch.cat([halves[0], -halves[1]], axis).flatten())
    return torch.stack(bumps).to(device)


def _hill(sides: Sequence[int]) -> Tensor:
    distance = torch.zeros(*sides, dtype=torch.int64)
    for axis, side in enumerate(sides):
        line = (torch.arange(side) - side // 2).abs()
        distance = torch.maximum(distance, line.view(-1, *[1] * (len(sides) - 1 - axis)))
    steps = max(sides) // 2 + 1
    heights = torch.arange(steps, 0, -1).double().pow(-2).cumsum(0).flip(0)
    hill = heights[distance]
    length: Tensor = torch.linalg.vector_norm(hill)
    return hill / length.clamp(min=_TINY)


def _turned(rng: Generator, now: Tensor, count: int, bumps: Tensor) -> Tensor:
    """`count` bumps for each sample, each halved along a random axis: float64 (n, count, k)."""
    draw = uniform(rng, now.new_empty(len(now), count)) * len(bumps)
    return bumps[draw.long()]
