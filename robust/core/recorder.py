"""What a search saw on its way, step by step: the traces that its diagnosis reads."""

import torch
from torch import Tensor

from .goal import Goal
from .threat import Threat


class Recorder:
    """Keeps, of a search on the batch x (n, …), each sample's answers in the order they came.

    n samples. Where a sample was asked several times in one call, what is kept is its best answer.

    reached     bool (n,): some answer, at a point of ball and box, reached the goal
    """

    def __init__(self, x: Tensor, goal: Goal, threat: Threat) -> None:
        self.x, self.goal, self.threat = x, goal, threat
        self.reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._margins: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._lengths: list[Tensor] = []

    def see(self, rows: Tensor, z: Tensor, logits: Tensor) -> None:
        """Enter the answers at z (k, …) for the samples `rows`, int64 (k,)."""
        goal, x = self.goal[rows], self.x[rows]
        hit = goal.reached(logits) & self.threat.in_box(z) & self.threat.in_ball(x, z)
        self.reached[rows[hit]] = True
        self._margins.append(self._column(rows, goal.margin(logits)))

    def climb(self, rows: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Enter a step of ascent: the loss (k,) that it raises, and its gradient (k, …)."""
        self._losses.append(self._column(rows, loss))
        self._lengths.append(self._column(rows, gradient.flatten(1).double().norm(dim=1)))

    @property
    def margins(self) -> Tensor:
        """Goal margins, answer by answer: float64 (n, answers), NaN where one was not asked."""
        return self._joined(self._margins)

    @property
    def losses(self) -> Tensor:
        """The losses that were raised by gradient, float64 (n, number of steps); NaN likewise."""
        return self._joined(self._losses)

    @property
    def lengths(self) -> Tensor:
        """Euclidean lengths of their gradients, float64 (n, number of steps); NaN likewise."""
        return self._joined(self._lengths)

    def _column(self, rows: Tensor, values: Tensor) -> Tensor:
        n = len(self.x)
        worst = torch.full((n,), -torch.inf, dtype=torch.float64, device=values.device)
        found = worst.scatter_reduce(0, rows, values.detach().double(), "amax")
        asked = torch.zeros(n, dtype=torch.bool, device=values.device).index_fill(0, rows, True)
        return found.masked_fill(~asked, torch.nan)

    def _joined(self, columns: list[Tensor]) -> Tensor:
        if not columns:
            return self.x.new_zeros((len(self.x), 0), dtype=torch.float64)
        return torch.stack(columns, 1)
