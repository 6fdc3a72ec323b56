"""What a search saw on its way, step by step: the traces that its diagnosis reads."""

import torch
from torch import Tensor

from .goal import Goal
from .threat import Threat


class Recorder:
    """Keeps, of a search on the batch x (n, …), each sample's answers in the order they came.

    n samples. Where a sample was asked several times in one call, what is kept is its best answer,
    and it counts as one.

    reached     bool (n,): some answer, at a point of ball and box, reached the goal
    best        (n, …), the point of highest goal margin among those; x where there is none
    asked       int64 (n,): how many answers the sample was given
    first       int64 (n,): the how-manieth of them was the first to reach the goal; 0 where none
    """

    def __init__(self, x: Tensor, goal: Goal, threat: Threat) -> None:
        self.x, self.goal, self.threat = x, goal, threat
        n, device = len(x), x.device
        self.reached = torch.zeros(n, dtype=torch.bool, device=device)
        self.best = x.clone()
        self.asked, self.first = torch.zeros(2, n, dtype=torch.int64, device=device)
        self._highest = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
        self._margins: list[Tensor] = []
        self._inside: list[Tensor] = []
        self._near: list[Tensor] = []

    def see(self, rows: Tensor, z: Tensor, logits: Tensor) -> None:
        """Enter the answers at z (k, …) for the samples `rows`, int64 (k,)."""
        margin, reached = self.goal[rows].margin(logits).double(), self.goal[rows].reached(logits)
        distance, boxed = self.threat.distance(self.x[rows], z), self.threat.in_box(z)
        inside = boxed & (distance <= self.threat.eps)
        self.asked += torch.bincount(rows, minlength=len(self.x)).clamp(max=1)
        hit = (reached & inside).nonzero().squeeze(1)
        self._keep(rows[hit], z[hit], margin[hit])
        nowhere = torch.full_like(margin, torch.nan)
        self._margins.append(self._column(rows, margin))
        self._inside.append(self._column(rows, torch.where(inside, margin, nowhere)))
        self._near.append(self._column(rows, torch.where(reached & boxed, -distance, nowhere)))

    @property
    def margins(self) -> Tensor:
        """Goal margins, answer by answer: float64 (n, answers), NaN where one was not asked."""
        return self._joined(self._margins)

    @property
    def inside(self) -> Tensor:
        """The same at points of ball and box alone, NaN elsewhere too: float64 (n, answers)."""
        return self._joined(self._inside)

    @property
    def distances(self) -> Tensor:
        """Of answers that reach the goal, inside the ball or not: their points' distances from x,
        float64 (n, answers); NaN elsewhere.
        """
        return -self._joined(self._near)

    def _keep(self, rows: Tensor, z: Tensor, margin: Tensor) -> None:
        """Enter successes, each with its margin; a sample may be among `rows` more than once."""
        order = margin.argsort(stable=True)
        rows, z, margin = rows[order], z[order], margin[order]
        new = rows[~self.reached[rows]]
        self.first[new] = self.asked[new]
        self.reached[rows] = True
        places = torch.arange(len(rows), device=rows.device)
        last = torch.full_like(self.first, -1).scatter_reduce(0, rows, places, "amax")
        last = last[last >= 0]  # of each sample the highest
        last = last[margin[last] > self._highest[rows[last]]]
        self.best[rows[last]], self._highest[rows[last]] = z[last], margin[last]

    def _column(self, rows: Tensor, values: Tensor) -> Tensor:
        n = len(self.x)
        worst = torch.full((n,), -torch.inf, dtype=torch.float64, device=values.device)
        told = ~values.isnan()
        rows, values = rows[told], values[told]
        found = worst.scatter_reduce(0, rows, values.detach().double(), "amax")
        asked = torch.zeros(n, dtype=torch.bool, device=values.device).index_fill(0, rows, True)
        return found.masked_fill(~asked, torch.nan)

    def _joined(self, columns: list[Tensor]) -> Tensor:
        if not columns:
            return self.x.new_zeros((len(self.x), 0), dtype=torch.float64)
        return torch.stack(columns, 1)
