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
        # A sample may have been asked several times at once: the nearest of its points counts.
        nearest = torch.full_like(self.distance, float("inf"))
        nearest.scatter_reduce_(0, rows, distance, "amin")
        better = (distance < self.distance[rows]) & (distance == nearest[rows])
        rows, z, distance, queries = (
            rows[better],
            z[better],
            distance[better],
            queries[which][better],
        )
        self.x_adv[rows], self.distance[rows] = z, distance
        told = self._told[rows]
        inside = (distance <= self.threat.eps) & (told > self.threat.eps)
        news = (distance < (1 - self._STEP) * told) | inside
        self._told[rows[news]] = distance[news]
        self._parts.append((rows[news], queries[news], distance[news]))

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
