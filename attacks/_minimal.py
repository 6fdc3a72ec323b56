"""What minimum-norm attacks share: the closest success of each sample, and a last look inwards."""

import math

import torch
from torch import Tensor

from robust.core.goal import Goal
from robust.core.losses import margin
from robust.core.threat import Threat
from robust.core.victim import Victim

_TIGHTEN = 3  # forwards of the last search: 1 to 4 % of the mean distance after 50 steps
_THIN = 4
_EDGE = 32  # a crossing this near to an end of what is left is moved away from it
_CLEAR = 1e-5  # of the largest logit: a hundred times the rounding of float32


class Closest:
    """The closest success that each sample of the batch x has shown.

    x_adv       that success, x itself where there is none
    distance    float64 (n,), ∞ where there is none
    margin      the goal's margin there
    """

    def __init__(self, x: Tensor, threat: Threat) -> None:
        self.x, self.threat = x, threat
        self.x_adv = x.clone()
        self.distance = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)
        self.margin = torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def offer(self, rows: Tensor, z: Tensor, logits: Tensor, goal: Goal) -> Tensor:
        """Enter the model's answer at z for the samples `rows`: which of them reached the goal.

        A success must be clear of rounding, or the same point in another batch would be none.
        """
        margin, reached = goal.margin(logits), goal.reached(logits)
        which = reached.nonzero().squeeze(1)
        distance = self.threat.distance(self.x[rows[which]], z[which])
        clear = (margin > _CLEAR * logits.abs().amax(1))[which] | (distance == 0)
        reached[which] = clear
        better = clear & (distance < self.distance[rows[which]])
        which, distance = which[better], distance[better]
        taken = rows[which]
        self.x_adv[taken], self.distance[taken] = z[which], distance
        self.margin[taken] = margin[which].to(self.margin.dtype)
        return reached

    def tighten(self, victim: Victim, goal: Goal, margin: Tensor) -> None:
        """Look for a closer success on the segment from x, with three forwards for each sample.

        margin (n,) is the goal's at x. The next point is where a straight line through the margins
        at both ends crosses zero, an end that stays put counting half (the Illinois rule): after a
        good search the crossing is a few per cent from the end, where halving would waste its
        first steps.
        """
        rows = (self.distance.isfinite() & (self.distance > 0)).nonzero().squeeze(1)
        if not len(rows):
            return
        victim, goal, x, far = victim[rows], goal[rows], self.x[rows], self.x_adv[rows]
        low, high = torch.zeros_like(margin[rows]), torch.ones_like(margin[rows])
        below, above = margin[rows].clamp(max=-1e-12), self.margin[rows].clamp(min=1e-12)
        was_reached = torch.zeros_like(rows, dtype=torch.bool)
        for number in range(_TIGHTEN):
            share = (low * above - high * below) / (above - below)
            edge = (high - low) / _EDGE
            share = torch.clamp(share, low + edge, high - edge)
            z = torch.lerp(x, far, wide(share, x))
            logits = victim.logits(z)
            reached = self.offer(rows, z, logits, goal)
            now = goal.margin(logits).to(x.dtype)
            if number:
                below = torch.where(reached & was_reached, below / 2, below)
                above = torch.where(~reached & ~was_reached, above / 2, above)
            low, high = torch.where(reached, low, share), torch.where(reached, share, high)
            below = torch.where(reached, below, now.clamp(max=-1e-12))
            above = torch.where(reached, now.clamp(min=1e-12), above)
            was_reached = reached

    def thin(self, victim: Victim, goal: Goal) -> None:
        """L0: go without the coordinates that matter least, the others moved to the box's edge.

        One gradient at the closest success ranks them; _THIN forwards bisect how many to keep.
        """
        rows = (self.distance.isfinite() & (self.distance > 1)).nonzero().squeeze(1)
        if not len(rows):
            return
        victim, goal, x = victim[rows], goal[rows], self.x[rows]
        far = self.x_adv[rows]
        _, _, slope = victim.gradient(far, margin, goal)
        changed = far != x
        edge = torch.where(slope > 0, self.threat.high, self.threat.low)
        full = torch.where(changed & (slope != 0), edge, far)
        worth = (slope * (full - x)).masked_fill(~changed, -torch.inf).flatten(1)
        rank = worth.argsort(dim=1, descending=True, stable=True).argsort(dim=1).view_as(x)
        low, high = torch.zeros_like(rows), self.distance[rows].long()
        for _ in range(_THIN):
            keep = (low + high) // 2
            z = torch.where(rank < wide(keep.clamp(min=1), x), full, x)
            reached = self.offer(rows, z, victim.logits(z), goal)
            low, high = torch.where(reached, low, keep), torch.where(reached, keep, high)


def wide(values: Tensor, like: Tensor) -> Tensor:
    """(n,) → (n, 1, …, 1), ready to broadcast against `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def unit(gradient: Tensor) -> Tensor:
    """Each sample's gradient at Euclidean length 1; zero where flat."""
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return gradient / wide(length.clamp(min=1e-12), gradient)


def cosine(share: float, first: float, last: float) -> float:
    """From `first` to `last` along half a cosine, after this share of the steps."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def narrow(left: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Each column for the samples `left` alone."""
    return tuple(column[left] for column in columns)
