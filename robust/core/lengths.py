"""Steps of a given length within the box, and the lengths of steps.

Arithmetic on whole tensors: a choice for each coordinate takes many times as long as a pass, a sort
hundreds of times. Steps are up to rounding; `size` is |direction|, `room` how far the box lets each
coordinate follow it, both (n, d); (n, 1) are numbers of each row.
"""

import torch
from torch import Tensor

_PASSES, _CLOSE = 100, 8  # at most, and ulps of the length that are close enough
_TRUSTED = 8  # passes of Newton's method before every other one halves the interval
_HALVINGS = 300  # from the largest float32 to the smallest; about 15 are usual
_FIRST = 16  # the largest coordinates to look at first, eight times as many next


def length(norm: str, step: Tensor) -> Tensor:
    """‖step‖ in the precision of step: (…, d) → (…)."""
    if norm == "l2":
        found: Tensor = torch.linalg.vector_norm(step, dim=-1)
        return found
    return step.abs().amax(-1) if norm == "linf" else step.abs().sum(-1)


def stretched(
    x: Tensor, way: Tensor, limit: Tensor, low: float, high: float, most: float = 1e30
) -> Tensor:
    """x + s·way put into the box, at Euclidean distance `limit` (n, 1) from x, s² ≤ most: (n, d).

    Newton's method on the square of the distance, concave in s²: it comes close from below, and
    ends when no further coordinate is cut.
    """
    point, z, step = (torch.empty_like(x) for _ in range(3))
    ulp, need, squares = torch.finfo(x.dtype).eps, limit.square(), way.square()
    enough = need - limit * ulp * (_CLOSE * limit + high - low)  # z itself is rounded
    square = need / squares.sum(1, keepdim=True).clamp_(min=1e-30)
    for _ in range(_PASSES):
        square.clamp_(max=most)
        torch.addcmul(x, way, square.sqrt(), out=point)
        torch.clamp(point, low, high, out=z)
        reached = torch.sub(z, x, out=step).square_().sum(1, keepdim=True)
        short = (reached < enough) & (square < most)
        if not bool(short.any()):
            break
        rise = point.eq_(z).mul_(squares).sum(1, keepdim=True)  # of what is not cut
        square = torch.where(short, square + (need - reached) / rise, square)
    return z


def softened(x: Tensor, delta: Tensor, limit: Tensor, low: float, high: float) -> Tensor:
    """x + soft(delta, λ) put into the box, with the least λ ≥ 0 that leaves at most the L1 length
    `limit` (n, 1): (n, d).
    """
    way, size, room = rooms(x, delta, low, high)
    cut = shift(size, room, limit)
    step = torch.minimum(size.sub_(cut).clamp_(min=0), room, out=size)
    return torch.addcmul(x, way, step, out=room).clamp_(low, high)


def rooms(x: Tensor, way: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """sign(way), |way|, and how far each coordinate of x can go that way: half the box where none.

    The room is up to rounding: put x + step into the box.
    """
    sign = way.sign()
    return sign, way.abs(), ((high + low) / 2 - x).mul_(sign).add_((high - low) / 2)


def shift(size: Tensor, room: Tensor | None, limit: Tensor) -> Tensor:
    """The least λ ≥ 0 with Σ clip(size − λ, 0, room) ≤ limit, per row (n, d) → (n, 1).

    Newton's method on a sum that is piecewise linear in λ, held between a λ that is too small and
    one that is too large.
    """
    low, high = torch.zeros_like(limit), size.amax(1, keepdim=True)
    close, kept = _CLOSE * torch.finfo(size.dtype).eps, torch.empty_like(size)
    full = None if room is None else size - room
    found = low
    for number in range(_PASSES):
        torch.sub(size, found, out=kept).clamp_(min=0)
        if room is not None:
            torch.minimum(kept, room, out=kept)
        total = kept.sum(1, keepdim=True)
        if number == 0:
            limit = torch.minimum(limit, total)
        excess = total - limit
        off = excess.abs() > close * limit
        if not bool(off.any()):
            break
        low, high = torch.where(excess > 0, found, low), torch.where(excess > 0, high, found)
        free = torch.gt(size, found, out=kept).sum(1, keepdim=True)
        if full is not None:
            free -= torch.gt(full, found, out=kept).sum(1, keepdim=True)
        newton = found + excess / free
        middle = (low + high) / 2
        if number < _TRUSTED or number % 2:
            middle = torch.where((newton > low) & (newton <= high), newton, middle)
        found = torch.where(off, middle, found)
    return found


def fill(
    size: Tensor, room: Tensor, need: Tensor, rate: Tensor | None = None, count: int = _FIRST
) -> Tensor:
    """The step with Σ rate·step = need (n, 1): coordinates of largest size first, each up to its
    room, none of size 0; no rate means 1.

    Looks at the `count` largest; the rows to which these are not enough are looked at again.
    """
    count = min(count, size.shape[1])
    largest, order = size.topk(count, dim=1)
    filled = room.gather(1, order).mul_(largest.sign())
    worth = torch.ones_like(filled) if rate is None else rate.gather(1, order)
    gains = worth * filled
    total = gains.cumsum(1)
    left = (need - total + gains).clamp_(min=0)
    filled = torch.where(left < gains, left / worth, filled).mul_(left > 0)
    step = torch.zeros_like(room).scatter_(1, order, filled.nan_to_num_(nan=0.0))
    short = ((total[:, -1] < need[:, 0]) & (largest[:, -1] > 0)).nonzero().squeeze(1)
    if count < size.shape[1] and len(short):
        part = None if rate is None else rate[short]
        step[short] = fill(size[short], room[short], need[short], part, 8 * count)
    return step


def at_least(size: Tensor, count: Tensor) -> Tensor:
    """A bound (n, 1) that `count` (n, 1) of the sizes reach, or more where some are equal; all that
    are not 0 where these are fewer.
    """
    part = torch.empty_like(size)

    def reaching(bound: Tensor) -> Tensor:
        return torch.ge(size, bound, out=part).sum(1, keepdim=True)

    low, high = torch.zeros_like(count), size.amax(1, keepdim=True)
    count = torch.minimum(count, torch.gt(size, 0, out=part).sum(1, keepdim=True))
    number, high = reaching(low), torch.nextafter(high, high + 1)
    for _ in range(_HALVINGS):
        if not bool(((number != count) & (high > torch.nextafter(low, high))).any()):
            break
        middle = torch.where(number == count, low, low + (high - low) / 2)
        found = reaching(middle)
        enough = found >= count
        low, number = torch.where(enough, middle, low), torch.where(enough, found, number)
        high = torch.where(enough, high, middle)
    return low
