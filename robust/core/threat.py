"""The threat: which points around x an attacker may choose. The only Lp code in the project."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from . import window
from .errors import RobustError
from .rng import exponential, normal, signs, uniform

Norm = Literal["linf", "l2", "l1", "l0", "patch"]
THREATS: tuple[str, ...] = get_args(Norm)
NORMS = ("linf", "l2", "l1", "l0")  # the threats that bound a norm of the perturbation
COUNTS = {"l0": "coordinates", "patch": "pixels"}  # the threats whose eps counts, and what
CONVEX = ("linf", "l2", "l1")  # the norms in which a step of steepest ascent makes sense


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(n,) → (n, 1, …, 1), ready to broadcast against `like`."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class Threat:
    """The set of allowed adversarial examples: {z : ‖z − x‖ ≤ eps, low ≤ z ≤ high}.

    norm        "linf", "l2", "l1", "l0" (the number of coordinates that differ) or "patch" (the
                side of the smallest square that holds every pixel that differs)
    eps         radius ≥ 0, in the units of x (8/255 for images in [0, 1]); for "l0" and "patch" a
                count
    low, high   the box in which data live

    Raises RobustError for an unknown norm, a negative eps or an empty box.
    """

    norm: Norm
    eps: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in THREATS:
            raise RobustError(f"unknown norm {self.norm!r}; choose one of {', '.join(THREATS)}")
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise RobustError(f"eps must be a finite number ≥ 0, not {self.eps}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise RobustError(
                f"the range of the data must have low < high, not {self.low},{self.high}"
            )

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """‖x_adv − x‖ per sample, computed and returned in float64: (n, …) → (n,)."""
        if self.norm == "patch":
            return window.extent(x_adv != x).double()
        delta = (x_adv.double() - x.double()).flatten(1)
        if self.norm == "linf":
            return delta.abs().amax(1)
        if self.norm == "l2":
            return delta.square().sum(1).sqrt()
        if self.norm == "l0":
            return (delta != 0).sum(1).double()
        return delta.abs().sum(1)

    def in_ball(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Whether ‖x_adv − x‖ ≤ eps, in float64 and without tolerance: bool (n,)."""
        return self.distance(x, x_adv) <= self.eps

    def in_box(self, x_adv: Tensor) -> Tensor:
        """Whether every coordinate lies in [low, high] as x's dtype can express them: bool (n,)."""
        low, high = self._box(x_adv)
        flat = x_adv.flatten(1)
        return ((flat >= low) & (flat <= high)).all(1)

    def contains(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Whether x_adv is an allowed answer to x: bool (n,)."""
        return self.in_ball(x, x_adv) & self.in_box(x_adv)

    def around(self, x: Tensor) -> "Ball":
        """This threat around the batch x, with its bounds computed once.

        Raises RobustError for a patch threat around samples that are no images.
        """
        if self.norm == "patch":
            window.image_size(x)
        low, high = self._box(x)
        if self.norm != "linf":
            return Ball(self, x, torch.full_like(x, low), torch.full_like(x, high))
        # Rounded towards x, so that float64 finds every point between the bounds inside the ball.
        return Ball(
            self,
            x,
            _rounded(x.double() - self.eps, x.dtype, up=True).clamp_(min=low),
            _rounded(x.double() + self.eps, x.dtype, up=False).clamp_(max=high),
        )

    def _box(self, like: Tensor) -> tuple[float, float]:
        low, high = torch.tensor([self.low, self.high], dtype=like.dtype).tolist()
        return low, high


def Linf(eps: float, low: float = 0.0, high: float = 1.0) -> Threat:
    """Every coordinate moves by at most eps."""
    return Threat("linf", eps, low, high)


def L2(eps: float, low: float = 0.0, high: float = 1.0) -> Threat:
    """The Euclidean length of the perturbation is at most eps."""
    return Threat("l2", eps, low, high)


def L1(eps: float, low: float = 0.0, high: float = 1.0) -> Threat:
    """The absolute changes of all coordinates sum to at most eps."""
    return Threat("l1", eps, low, high)


def L0(eps: float, low: float = 0.0, high: float = 1.0) -> Threat:
    """At most eps coordinates change (a pixel of three channels has three), by any amount."""
    return Threat("l0", eps, low, high)


def Patch(side: int, low: float = 0.0, high: float = 1.0) -> Threat:
    """All pixels of one square of that side change, by any amount; it may lie anywhere."""
    return Threat("patch", side, low, high)


def _rounded(exact: Tensor, dtype: torch.dtype, *, up: bool) -> Tensor:
    """float64 → dtype, rounded up or down instead of to nearest."""
    near = exact.to(dtype)
    away = torch.full_like(near, math.inf if up else -math.inf)
    wrong = near.double() < exact if up else near.double() > exact
    return torch.where(wrong, torch.nextafter(near, away), near)


class Ball:
    """A threat around a batch x of shape (n, …): where an attack on these samples may move.

    lower, upper    per coordinate, the box; for L∞ the ball is in them too
    Indexing with a mask or with positions gives the ball around those samples.
    """

    def __init__(self, threat: Threat, x: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.threat, self.x, self.lower, self.upper = threat, x, lower, upper

    def __getitem__(self, rows: Tensor) -> "Ball":
        return Ball(self.threat, self.x[rows], self.lower[rows], self.upper[rows])

    def project(self, z: Tensor) -> Tensor:
        """The allowed point nearest to z in Euclidean distance: exact on ball ∩ box, all norms.

        L∞: clamp. L2: the multiplier of the ball, with clipped coordinates taken out one set at a
        time. L1: soft thresholding with the box, as in 2103.01208, by sorting the break points.
        L0: the coordinates that keeping brings nearest to z, of those the box allows; a patch: the
        square that does.
        """
        if self.threat.norm == "linf":
            return torch.clamp(z, self.lower, self.upper)
        if self.threat.norm in COUNTS:
            clipped = torch.clamp(z, self.lower, self.upper)
            return self._chosen(clipped, (z - self.x).square() - (z - clipped).square())
        delta = z - self.x
        size = delta.abs().flatten(1)
        room = torch.where(delta > 0, self.upper - self.x, self.x - self.lower).flatten(1)
        clipped = torch.minimum(size, room)
        eps = self.threat.eps
        if self.threat.norm == "l2":
            scale = l2_scale(size, room, eps)
            size = torch.where(
                clipped.norm(dim=1, keepdim=True) > eps, torch.minimum(size * scale, room), clipped
            )
        else:
            shift = _l1_shift(size, room, eps)
            size = torch.where(
                clipped.sum(1, keepdim=True) > eps,
                torch.minimum((size - shift).clamp(min=0), room),
                clipped,
            )
        return self._inside(delta.sign() * size.view_as(z))

    def extreme(self, direction: Tensor) -> Tensor:
        """The allowed point z that maximises ⟨direction, z⟩, exactly, on ball ∩ box."""
        if self.threat.norm == "linf":
            up = torch.where(direction > 0, self.upper, self.x)
            return torch.where(direction < 0, self.lower, up)
        if self.threat.norm in COUNTS:
            far = torch.where(direction > 0, self.upper, self.lower)
            return self._chosen(far, direction * (far - self.x))
        size = direction.abs().flatten(1)
        room = torch.where(direction > 0, self.upper - self.x, self.x - self.lower).flatten(1)
        room = torch.where(size > 0, room, 0)
        eps = self.threat.eps
        if self.threat.norm == "l2":
            scale = l2_scale(size, room, eps)
            step = torch.minimum(size * scale, room).nan_to_num()
            fits = room.norm(dim=1, keepdim=True) <= eps
            step = torch.where(fits, room, step)
        else:
            step = _fill(size, room, torch.full_like(size[:, :1], eps))
        return self._inside(direction.sign() * step.view_as(direction))

    def advance(self, now: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`now` after a step of steepest ascent of length `size` in the threat's norm.

        size is one length or one for each sample (n,). The result may lie outside: project it. A
        flat sample stays. L∞: signs. L2: the normalised gradient. L1: the largest slopes first,
        each up to the box or a tenth of the step (fewer than 10 coordinates below 200 dimensions):
        SLIDE (1904.13000) gives 1 % of the coordinates equal shares instead, and so wastes what
        the box holds back. L0 and patches have no such step: raises ValueError.
        """
        norm = self.threat.norm
        if norm not in CONVEX:
            raise ValueError(f"no direction of steepest ascent in {norm}")
        if norm == "linf":
            return now + self._lengths(size, now) * gradient.sign()
        slope = gradient.flatten(1)
        if norm == "l2":
            length = slope.norm(dim=1).clamp(min=torch.finfo(now.dtype).tiny)
            return now + self._lengths(size, now) * gradient / _per_sample(length, now)
        total = self._lengths(size, slope)
        room = torch.where(gradient > 0, self.upper - now, now - self.lower).flatten(1)
        parts = min(10, max(1, slope.shape[1] // 20))
        room = torch.minimum(torch.where(slope != 0, room, 0), total / parts)
        return now + gradient.sign() * _fill(slope.abs(), room, total).view_as(now)

    def _lengths(self, size: float | Tensor, like: Tensor) -> Tensor:
        given = torch.as_tensor(size, dtype=like.dtype, device=like.device)
        return _per_sample(given.expand(len(like)), like)

    def random(self, rng: torch.Generator) -> Tensor:
        """A random allowed point: uniform in the ball (for L∞: in ball ∩ box), put into the box.

        L0: as many random coordinates as eps allows, each uniform in the box. A patch: each pixel
        of a random square.
        """
        x, eps = self.x, self.threat.eps
        if self.threat.norm in COUNTS:
            drawn = self.lower + (self.upper - self.lower) * uniform(rng, x)
            drawn = torch.clamp(drawn, self.lower, self.upper)
            if self.threat.norm == "l0":
                return self._chosen(drawn, uniform(rng, x))
            corner = window.anywhere(rng, x, int(eps))
            return torch.where(window.mask(x, corner, int(eps)), drawn, x)
        if self.threat.norm == "linf":
            z = self.lower + (self.upper - self.lower) * uniform(rng, x)
            return torch.clamp(z, self.lower, self.upper)
        if self.threat.norm == "l2":
            direction = normal(rng, x)
            direction /= _per_sample(direction.flatten(1).norm(dim=1), x)
            radius = uniform(rng, x.flatten(1)[:, 0]).pow(1 / x[0].numel())
            delta = direction * _per_sample(eps * radius, x)
        else:
            parts = exponential(rng, x)
            rest = exponential(rng, x.flatten(1)[:, 0])
            total = parts.flatten(1).sum(1) + rest
            delta = eps * parts * signs(rng, x) / _per_sample(total, x)
        return self._inside(torch.clamp(x + delta, self.lower, self.upper) - x)

    def _chosen(self, z: Tensor, gain: Tensor) -> Tensor:
        """x, but for the eps coordinates of largest positive gain, which are z's; for a patch, the
        square of largest gain.
        """
        if self.threat.norm == "patch":
            side = int(self.threat.eps)
            if not side:
                return self.x.clone()
            corner = window.best(window.sums(gain.sum(1), side))
            return torch.where(window.mask(z, corner, side), z, self.x)
        flat = gain.flatten(1)
        count = min(int(self.threat.eps), flat.shape[1])
        ranked = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, ranked, True) & (flat > 0)
        return torch.where(chosen.view_as(z), z, self.x)

    def _inside(self, delta: Tensor) -> Tensor:
        """x + delta, pulled towards x until float64 finds the rounded sum in the ball."""
        z = torch.clamp(self.x + delta, self.lower, self.upper)
        slack = 2.0**-22
        while True:
            distance = self.threat.distance(self.x, z)
            outside = distance > self.threat.eps
            if not outside.any():
                return z
            shrink = (self.threat.eps / distance.clamp(min=1e-300)).clamp(max=1) * max(0, 1 - slack)
            shrunk = self.x + (z - self.x) * _per_sample(shrink, z)
            z = torch.where(_per_sample(outside, z).bool(), shrunk, z)
            slack *= 2


def l2_scale(size: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    """s with Σ min(s·size, room)² = eps², per row (n, d) → (n, 1); ∞ or NaN where none exists.

    eps is one number or (n, 1).
    Starts from the s of no clipped coordinate and takes the clipped ones out; s and the clipped set
    only grow, so it ends, in practice after a handful of rounds.
    """
    clipped = torch.zeros_like(size, dtype=torch.bool)
    while True:
        spent = torch.where(clipped, room, 0).square().sum(1, keepdim=True)
        free = torch.where(clipped, 0, size).square().sum(1, keepdim=True)
        scale = ((eps**2 - spent).clamp(min=0) / free).sqrt()
        now = clipped | (size * scale > room)
        if bool((now == clipped).all()):
            return scale
        clipped = now


def _l1_shift(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """λ with Σ clip(size − λ, 0, room) = eps, per row (n, d) → (n, 1); rows with too little: ≤ 0.

    The sum is piecewise linear in λ: it gains slope where λ falls below a size, loses it where λ
    falls below size − room. Sort these points and find the segment that holds eps.
    """
    points, order = torch.cat([size, size - room], 1).double().sort(1, descending=True)
    slope = torch.where(order < size.shape[1], 1.0, -1.0).double().cumsum(1)
    gains = slope[:, :-1] * (points[:, :-1] - points[:, 1:])
    sums = torch.cat([torch.zeros_like(gains[:, :1]), gains.cumsum(1)], 1)
    above = (sums < eps).sum(1, keepdim=True).clamp(min=1) - 1
    start, rise = points.gather(1, above), slope.gather(1, above)
    missing = eps - sums.gather(1, above)
    return (start - missing / rise.clamp(min=1)).to(size.dtype)


def _fill(slope: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """Spend `total` (n, 1) on coordinates (n, d), the largest slope first, each up to `room`."""
    order = slope.argsort(dim=1, descending=True, stable=True)
    filled = room.gather(1, order)
    before = filled.cumsum(1) - filled
    filled = torch.minimum(filled, (total - before).clamp(min=0))
    return torch.zeros_like(room).scatter_(1, order, filled)


def sparse_sign(gradient: Tensor, count: Tensor) -> Tensor:
    """Signs of the `count` (n,) largest |gradient| of each sample, of L1 length 1; 0 where flat.

    A fraction of a coordinate counts as one.
    """
    size = gradient.abs().flatten(1)
    count = count.ceil().clamp(1, size.shape[1])
    ranked = size.sort(1, descending=True).values
    threshold = ranked.gather(1, count.long().view(-1, 1) - 1)
    chosen = gradient.flatten(1).sign() * (size >= threshold)
    return (chosen / chosen.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)
