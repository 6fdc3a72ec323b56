"""What a random search can learn from its answers: a smooth gradient, by regression."""

import torch
from torch import Tensor

from robust.core.threat import Ball

from ._cosines import frequencies, waves

_FIRST, _LEAST, _SHARE = 10, 5, 0.1  # first guided question; then after a tenth of those before
_NOISE = 0.1  # of an answer, as a share of the mean square of what the moves have shown
_CHANNEL = 6  # a change from one channel to the next is as rare as this frequency along an axis


class Guide:
    """A linear model of the loss around n samples, in the smoothest `count` cosines of a sample.

    Each move δ that a search has asked about and the rise of the loss there are one equation; those
    that were refused teach as much as those that were kept. The coefficients are the mean of a
    normal posterior whose prior variance falls with the frequency: ridge regression.
    """

    def __init__(self, like: Tensor, channels: int, sizes: tuple[int, ...], count: int) -> None:
        wave = frequencies((channels, *sizes))
        rate = wave.double()
        rate[:, 0] *= _CHANNEL
        rate = rate.norm(dim=1)
        order = rate.argsort(stable=True)[:count]
        basis = torch.stack([waves((channels, *sizes), wave[i].tolist()).flatten() for i in order])
        self.basis = basis.to(like)
        self.prior = (1 / (1 + rate[order])).to(like)
        self.moments = like.new_zeros(len(like), len(order), len(order))
        self.rises = like.new_zeros(len(like), len(order))
        self._next = _FIRST

    def keep(self, rows: Tensor) -> None:
        """Go on with those samples only."""
        self.moments, self.rises = self.moments[rows], self.rises[rows]

    def learn(self, move: Tensor, rise: Tensor) -> None:
        """One equation for each sample: a move (n, …) changed the loss by `rise` (n,)."""
        flat = move.flatten(1)
        size = flat.square().sum(1, keepdim=True)
        # All equations are of moves of length 1, so that large windows do not outweigh small ones.
        unit = (flat @ self.basis.T) / size.sqrt().clamp(min=1e-12)
        slope = rise.unsqueeze(1) / size.sqrt().clamp(min=1e-12)
        known = (size > 0) & slope.isfinite()
        unit, slope = torch.where(known, unit, 0), torch.where(known, slope, 0)
        self.moments.addcmul_(unit.unsqueeze(2), unit.unsqueeze(1))
        self.rises.addcmul_(unit, slope)

    def due(self, number: int) -> bool:
        """Whether question `number` is one for a whole point."""
        if number < self._next:
            return False
        self._next = number + max(_LEAST, int(_SHARE * number))
        return True

    def gradient(self) -> Tensor:
        """The estimate, (n, d)."""
        scale = self.moments.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        ridge = _NOISE * self.prior.mean() / self.prior
        matrix = self.moments + scale.view(-1, 1, 1) * torch.diag(ridge)
        coefficients: Tensor = torch.linalg.solve(matrix, self.rises)
        return coefficients @ self.basis

    def point(self, ball: Ball) -> Tensor:
        """Where the estimate is largest in ball ∩ box."""
        return ball.extreme(self.gradient().view_as(ball.x))
