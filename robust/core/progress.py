"""What the answers of a search have shown: each sample's nearest success, and at which query."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .goal import Goal
from .threat import Threat


@dataclass(frozen=True)
class Trace:
    """Improvements in the order they were seen, each of a sample: what it had spent by then, and
    the distance of its nearest success from then on. All of length m.
    """

    rows: Tensor
    queries: Tensor
    distance: Tensor


def first_nearest(rows: Tensor, distance: Tensor, n: int) -> Tensor:
    """One of each sample's rows, the first of the smallest distance: bool (k,).

    rows    int64 (k,) out of 0 … n−1: a sample may have been asked several times at once
    """
    places = torch.arange(len(rows), device=rows.device)
    nearest = distance.new_full((n,), float("inf")).scatter_reduce(0, rows, distance, "amin")
    places = torch.where(distance == nearest[rows], places, len(rows))
    first = places.new_full((n,), len(rows)).scatter_reduce(0, rows, places, "amin")
    return places == first[rows]


class Progress:
    """The nearest point of each sample in the batch x (n, …) that answered as the goal wants.

    x_adv       that point, x itself where there is none
    distance    float64 (n,), ∞ where there is none

    Nearer by less than `_STEP` is no new point of the trace, unless it is the first inside eps.
    """

    _STEP = 0.01

    def __init__(self, x: Tensor, goal: Goal, threat: Threat) -> None:
        self.x, self.goal, self.threat = x, goal, threat
        self.x_adv = x.clone()
        self.distance = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)
        self._told = self.distance.clone()
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def see(self, rows: Tensor, z: Tensor, logits: Tensor, queries: Tensor) -> None:
        """Enter the answer at z for the samples `rows`, which have spent so many queries by now."""
        reached = self.goal[rows].reached(logits) & self.threat.in_box(z)
        which = reached.nonzero().squeeze(1)
        if not len(which):
            return
        rows, z = rows[which], z[which]
        distance = self.threat.distance(self.x[rows], z)
        better = first_nearest(rows, distance, len(self.distance)) & (
            distance < self.distance[rows]
        )
        rows, z, distance = rows[better], z[better], distance[better]
        queries = queries[which][better]
        self.x_adv[rows], self.distance[rows] = z, distance
        told = self._told[rows]
        inside = (distance <= self.threat.eps) & (told > self.threat.eps)
        news = (distance < (1 - self._STEP) * told) | inside
        self._told[rows[news]] = distance[news]
        self._parts.append((rows[news], queries[news], distance[news]))

    def inside(self, rows: Tensor, z: Tensor, logits: Tensor) -> Tensor:
        """Which of the answers at z for the samples `rows` are a success inside eps: bool (k,)."""
        reached = self.goal[rows].reached(logits) & self.threat.in_box(z)
        return reached & (self.threat.distance(self.x[rows], z) <= self.threat.eps)

    def best(self, x_adv: Tensor, *, inside: bool) -> Tensor:
        """What to make of a search's result: the nearest success it has seen, if any, for an attack
        may lose it, or be stopped before it returns; with `inside` only one that lies inside eps.
        """
        has = self.distance.isfinite() & ((self.distance <= self.threat.eps) | (not inside))
        return torch.where(has.view(-1, *[1] * (x_adv.dim() - 1)), self.x_adv, x_adv)

    @property
    def trace(self) -> Trace:
        empty = self.goal.labels[:0]
        parts = [*self._parts, (empty, empty, self.distance[:0])]
        return Trace(*(torch.cat(column) for column in zip(*parts, strict=True)))
