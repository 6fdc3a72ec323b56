"""The threat: which points around x an attacker may choose. The only Lp code in the project."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from . import lengths, window
from .errors import RobustError
from .rng import exponential, normal, signs, uniform

Norm = Literal["linf", "l2", "l1", "l0", "patch"]
THREATS: tuple[str, ...] = get_args(Norm)
NORMS = ("linf", "l2", "l1", "l0")  # the threats that bound a norm of the perturbation
COUNTS = {"l0": "coordinates", "patch": "pixels"}  # the threats whose eps counts, and what
CONVEX = ("linf", "l2", "l1")  # the norms in which a step of steepest ascent makes sense
_SLACK = 2.0**-21  # of eps, for rounding: four ulps of float32


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
            return Ball(self, x, x.new_tensor(low).expand_as(x), x.new_tensor(high).expand_as(x))
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
        places = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        x = self.x.index_select(0, places)
        if self.threat.norm != "linf":
            return self.threat.around(x)
        bounds = (bound.index_select(0, places) for bound in (self.lower, self.upper))
        return Ball(self.threat, x, *bounds)

    def project(self, z: Tensor) -> Tensor:
        """The allowed point nearest to z in Euclidean distance: exact on ball ∩ box, all norms.

        L∞: clamp. L2: a shorter step, cut by the box, so much longer than it would be uncut. L1:
        soft thresholding with the box, as in 2103.01208. L0: the coordinates that keeping brings
        nearest to z, of those the box allows; a patch: the square that does.
        """
        found = self.nearest(z)
        return self._inside(found) if self.threat.norm in ("l2", "l1") else found

    def nearest(self, z: Tensor) -> Tensor:
        """`project` without its last look: for L2 and L1 rounding may leave the ball by a hair."""
        norm = self.threat.norm
        if norm == "linf":
            return self._bounded(z)
        if norm in COUNTS:
            clipped = self._bounded(z)
            return self._chosen(clipped, (z - self.x).square() - (z - clipped).square())
        x, box = self.x.flatten(1), self.threat._box(z)
        delta, limit = z.flatten(1) - x, self._limit(x)
        if norm == "l2":
            return lengths.stretched(x, delta, limit, *box, most=1.0).view_as(z)
        return lengths.softened(x, delta, limit, *box).view_as(z)

    def extreme(self, direction: Tensor) -> Tensor:
        """The allowed point z that maximises ⟨direction, z⟩, exactly, on ball ∩ box."""
        norm, corner = self.threat.norm, self.corner(self.x, direction)
        if norm == "linf":
            return corner
        if norm in COUNTS:
            return self._chosen(corner, direction * (corner - self.x))
        x, (low, high) = self.x.flatten(1), self.threat._box(direction)
        slope, limit, corner = direction.flatten(1), self._limit(x), corner.flatten(1)
        if norm == "l2":
            largest = lengths.length("linf", slope).clamp_(min=torch.finfo(slope.dtype).tiny)
            found = lengths.stretched(x, slope / largest.unsqueeze(1), limit, low, high)
        else:
            sign, size, room = lengths.rooms(x, slope, low, high)
            found = (x + sign * lengths.fill(size, room, limit)).clamp_(low, high)
        fits = (lengths.length(norm, corner - x) <= self.threat.eps).nonzero().squeeze(1)
        found[fits] = corner[fits]
        return self._inside(found.view_as(direction))

    def corner(self, at: Tensor, direction: Tensor) -> Tensor:
        """`at`, each coordinate moved as far as it can go in its direction: (n, …)."""
        span = self.threat.high - self.threat.low
        return self._bounded(torch.add(at, direction.sign(), alpha=2 * span))

    def _bounded(self, z: Tensor) -> Tensor:
        if self.threat.norm == "linf":
            return torch.clamp(z, self.lower, self.upper)
        return torch.clamp(z, *self.threat._box(z))

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
        slope, at = gradient.flatten(1), now.flatten(1)
        total = self._lengths(size, slope)
        if norm == "l2":
            length = lengths.length("l2", slope).clamp_(min=1e-30)
            return torch.addcmul(at, slope, total / length.unsqueeze(1)).view_as(now)
        sign, steep, room = lengths.rooms(at, slope, *self.threat._box(now))
        parts = min(10, max(1, slope.shape[1] // 20))
        step = lengths.fill(steep, torch.minimum(room, total / parts), total)
        return torch.addcmul(at, sign, step).view_as(now)

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
            drawn = self._bounded(drawn)
            if self.threat.norm == "l0":
                return self._chosen(drawn, uniform(rng, x))
            corner = window.anywhere(rng, x, int(eps))
            return torch.where(window.mask(x, corner, int(eps)), drawn, x)
        if self.threat.norm == "linf":
            z = self.lower + (self.upper - self.lower) * uniform(rng, x)
            return self._bounded(z)
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
        return self._inside(self._bounded(x + delta))

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

    def _limit(self, like: Tensor) -> Tensor:
        """eps (n, 1), less a few ulps, so that little is left to `_inside`."""
        slack = min(_SLACK, 4 * torch.finfo(like.dtype).eps)
        return torch.full_like(like[:, :1], self.threat.eps * (1 - slack))

    def _inside(self, z: Tensor) -> Tensor:
        """z of the box, pulled towards x until float64 finds it in the ball; z is overwritten.

        Most points lie so far inside that the steps in their own precision tell.
        """
        eps, slack, info = self.threat.eps, _SLACK, torch.finfo(z.dtype)
        step = (z - self.x).flatten(1)
        if self.threat.norm == "l2":
            spent, most = step.square_().sum(1, dtype=torch.float64), eps**2
        else:
            spent, most = step.abs_().sum(1, dtype=torch.float64), eps
        unsure = spent * (1 + max(2 * info.eps, 2**-40)) + step.shape[1] * info.tiny > most
        rows = unsure.nonzero().squeeze(1)
        while len(rows):
            x, near = self.x[rows], z[rows]
            distance = self.threat.distance(x, near)
            outside = (distance > eps).nonzero().squeeze(1)
            rows, x, near = rows[outside], x[outside], near[outside]
            shrink = eps / distance[outside].clamp(min=1e-300) * max(0, 1 - slack)
            z[rows] = (x + (near - x) * _per_sample(shrink, z)).clamp_(*self.threat._box(z))
            slack *= 2
        return z


def sparse_sign(gradient: Tensor, count: Tensor) -> Tensor:
    """Signs of the `count` (n,) largest |gradient| of each sample, of L1 length 1; 0 where flat.

    A fraction of a coordinate counts as one.
    """
    slope = gradient.flatten(1)
    size, sign = slope.abs(), slope.sign()
    count = count.ceil().clamp(1, size.shape[1]).unsqueeze(1)
    bound = lengths.at_least(size, count)
    sign.mul_(torch.ge(size, bound, out=size))
    chosen = torch.abs(sign, out=size).sum(1, keepdim=True).clamp_(min=1)
    return sign.div_(chosen).view_as(gradient)
