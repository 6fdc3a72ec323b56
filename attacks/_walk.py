"""What searches along the boundary by labels alone share: who may still ask, and the nearest
success of each sample; bisection towards x; the normal of the boundary, from random probes.
"""

import math

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal
from robust.core.rng import normal, uniform
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._minimal import unit, wide

_RADIUS = 0.01  # of probes, in distances
_NEARER = 0.98  # of the distance: where a step must still reach the goal
_MOVED = 4  # coordinates at least that a probe moves by a level of a grid
_SHORTER = 10  # times, at most, until a point rounded to a grid is inside eps
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, less their whole parts, are spread evenly
_KEPT = 8  # questions that probes leave for the step after them
_ROWS, _VALUES = 2048, 1 << 24  # at most, in one call that asks several questions about a sample


class Walk:
    """A search about the batch x (n, …) by labels alone.

    x_adv       the nearest success that each sample has shown, x itself where there is none
    distance    float64 (n,), ∞ where there is none
    step        of the grid of values that the model can be sent, 0 where it can be sent any
    """

    def __init__(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, *, until_eps: bool
    ) -> None:
        self.victim, self.x, self.goal, self.threat = victim, x, goal, threat
        self.enough = threat.eps if until_eps and not goal.persist else 0.0
        self.step = victim.step
        self.x_adv = x.clone()
        self.distance = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)

    def may(self, rows: Tensor) -> Tensor:
        """Which of the samples `rows` go on: not near enough yet, and able to pay: bool (k,)."""
        return (self.distance[rows] > self.enough) & (self.victim.left[rows] > 0)

    def going(self, rows: Tensor | None = None) -> Tensor:
        """Those of the samples `rows`, or of all, that go on."""
        rows = torch.arange(len(self.x), device=self.x.device) if rows is None else rows
        return rows[self.may(rows)]

    def ask(self, rows: Tensor, z: Tensor) -> Tensor:
        """Whether z (k, …) reaches the goals of the samples `rows`, in ascending order: bool (k,).

        A sample may come several times. What its budget does not hold is not asked, and no success.
        """
        places = torch.arange(len(rows), device=rows.device)
        number = places - torch.searchsorted(rows, rows)
        reached = torch.zeros_like(rows, dtype=torch.bool)
        asked = (number < self.victim.left[rows]).nonzero().squeeze(1)
        if not len(asked):
            return reached
        whose, points = rows[asked], z[asked]
        satisfied = self.goal[whose].satisfied(self.victim[whose].labels(points))
        reached[asked] = satisfied
        whose, points = whose[satisfied], points[satisfied]
        distance = self.threat.distance(self.x[whose], points)
        nearest = torch.full_like(self.distance, math.inf)
        nearest.scatter_reduce_(0, whose, distance, "amin")
        better = (distance < self.distance[whose]) & (distance == nearest[whose])
        places = better.nonzero().squeeze(1)
        # Of points equally near the first: which of several writes to a row stays is not defined.
        first = whose.new_full((len(self.x),), len(points))
        first.scatter_reduce_(0, whose[places], places, "amin")
        rows = (first < len(points)).nonzero().squeeze(1)
        self.x_adv[rows], self.distance[rows] = points[first[rows]], distance[first[rows]]
        return reached

    def at(self, rows: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """The point at this share (k,) of the distance of far (k, …) from x. L∞: far, put into the
        smaller ball; else on the segment to it.
        """
        x = self.x[rows]
        if self.threat.norm != "linf":
            return self.level(rows, torch.lerp(x, far, wide(share.to(x.dtype), x)))
        size = (far - x).flatten(1).abs().amax(1) * share.to(x.dtype)
        return self.level(rows, torch.clamp(far, x - wide(size, x), x + wide(size, x)))

    def nearer(self, distance: Tensor) -> Tensor:
        """The distance (k,) at which a step from there must still reach the goal."""
        if self.step and self.threat.norm == "linf":  # there is no distance in between
            return torch.minimum(_NEARER * distance, distance - self.step)
        return _NEARER * distance

    def level(self, rows: Tensor, z: Tensor, dither: Tensor | None = None) -> Tensor:
        """z (k, …) of the samples `rows`, moved onto the grid, where there is one: what is asked is
        then what the model is sent, and a step is the one that was taken.

        The part of a level that lies above a threshold becomes a whole one: half a level, or for L∞
        a threshold of its own for each coordinate, so that the coordinates of a shrinking cube do
        not all change at once. `dither`: thresholds from 0 to 1 of the shape of z.
        """
        if not self.step:
            return z
        x = self.x[rows]
        levels = (z - x) / self.step
        whole = levels.round()
        if dither is None:
            dither = torch.full_like(x[:1], 0.5)
            if self.threat.norm == "linf":
                number = torch.arange(x[0].numel(), dtype=torch.float64, device=x.device)
                dither = (number * _GOLDEN % 1).to(x.dtype).view_as(x[:1])
        moved = torch.where((levels - whole).abs() < 1e-3, whole, (levels + dither).floor())
        z = torch.clamp(x + moved * self.step, self.threat.low, self.threat.high)
        if self.threat.norm == "linf":  # a level at eps itself is not outside by rounding
            inside, ball = moved.abs() <= self.threat.eps / self.step + 1e-3, self.threat.around(x)
            z = torch.where(inside, torch.clamp(z, ball.lower, ball.upper), z)
        return z

    def bisect(self, rows: Tensor, far: Tensor) -> Tensor:
        """The successes far (k, …), moved towards x until they are next to the boundary: so near
        that it lies between the probes of `normal`.

        Where a success inside eps ends the search, eps is where it is asked first.
        """
        tolerance = _RADIUS / math.sqrt(far[0].numel()) if len(far) else 1.0
        near, far = torch.zeros(len(rows), dtype=torch.float64, device=far.device), far.clone()
        whole, share = far.clone(), torch.ones_like(near)
        first = self._inside() / self.threat.distance(self.x[rows], far).clamp(min=1e-12)
        if self.step and self.threat.norm != "linf":  # levels may lie outside of eps by a little
            for _ in range(_SHORTER):
                outside = (
                    self.threat.distance(self.x[rows], self.at(rows, far, first)) > self.enough
                )
                first = torch.where(outside, _NEARER * first, first)
        middle = torch.where((first > 0) & (first < 1), first, 0.5)
        for _ in range(2 - math.floor(math.log2(tolerance))):
            going = ((share - near > tolerance) & self.may(rows)).nonzero().squeeze(1)
            if not len(going):
                break
            z = self.at(rows[going], whole[going], middle[going])
            reached = self.ask(rows[going], z)
            hit, missed = going[reached], going[~reached]
            far[hit], share[hit], near[missed] = z[reached], middle[hit], middle[missed]
            middle = (near + share) / 2
        return far

    def _inside(self) -> float:
        """What is near enough, less what rounding may add; for L∞ on a grid the last level."""
        if self.step and self.threat.norm == "linf":
            return math.floor(self.enough / self.step + 1e-3) * self.step
        return (1 - 1e-6) * self.enough

    def normal(self, rows: Tensor, at: Tensor, samples: int, rng: Generator) -> Tensor:
        """The direction in which the goal is reached, at points next to the boundary: (k, …), the
        longer the surer.

        Estimated from so many probes each, fewer where the budget ends, in random directions; for
        L∞ from a cube. Each counts by its answer, less the mean answer (1904.02144, equation 16).
        On a grid most coordinates move by less than a level: at random some move by a whole one,
        so many that the mean is right, and the probe counts as what it has become.
        """
        draw = uniform if self.threat.norm == "linf" else normal
        low, high = self.threat.low, self.threat.high
        distance = self.threat.distance(self.x[rows], at).to(at.dtype)
        if self.threat.norm == "linf":
            distance = distance * math.sqrt(at[0].numel())
        least = _MOVED * self.step / math.sqrt(at[0].numel()) if len(at) else 0.0
        radius = (_RADIUS * distance).clamp(min=max(1e-6 * (high - low), least))
        counts = (self.victim.left[rows] - _KEPT).clamp(1, samples)
        ups, total = torch.zeros_like(at), torch.zeros_like(at)
        up, done = torch.zeros_like(radius), torch.zeros_like(counts)
        while True:
            going = (done < counts).nonzero().squeeze(1)
            if not len(going):
                break
            fit = min(_ROWS, _VALUES // at[0].numel()) // len(going)
            more = max(1, min(fit, int((counts - done)[going].min())))
            which = going.repeat_interleave(more)
            step = draw(rng, at[which])
            step = unit(2 * step - 1 if draw is uniform else step)
            z = torch.clamp(at[which] + wide(radius[which], at) * step, low, high)
            if self.step:
                z = self.level(rows[which], z, uniform(rng, z))
            reached = self.ask(rows[which], z)
            step = (z - at[which]) / wide(radius[which], at)
            shape = len(going), more, *at.shape[1:]
            total[going] += step.view(shape).sum(1)
            ups[going] += (step * wide(reached.to(at.dtype), at)).view(shape).sum(1)
            up[going] += reached.view(len(going), more).sum(1).to(up.dtype)
            done[going] += more
        mean = up / counts.clamp(min=1)
        found = ups - wide(mean, at) * total
        same = wide((up == 0) | (up == counts), at)
        return torch.where(same, wide(2 * mean - 1, at) * total, found)
