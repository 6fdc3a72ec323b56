"""Universal patch: one sticker for all images, wherever it is put."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core import window
from robust.core.errors import RobustError
from robust.core.fitted import Fitted, Part
from robust.core.goal import Goal
from robust.core.rng import uniform
from robust.core.threat import Threat
from robust.core.victim import Victim

from . import _places
from ._fitting import clipped_ce, turns


@dataclass(frozen=True, kw_only=True)
class UniversalPatch(Fitted):
    """One patch for all images, crafted in expectation over where it is put.

    Brown et al., 1712.09665. Departures: the patch is an upright square and neither turned nor
    scaled, as the threat has it; the steps are signs, their length falls from a quarter of the
    range of the data to nothing by a cosine; and the loss of an image is clipped, as in 1811.11304.
    Crafted once for a run. A sample counts as broken if one of its placements breaks it.

    position        random, or row:column of the upper left corner, from 0
    samples         how many samples to craft on
    steps           steps in all, each a forward and a backward for every sample of one batch, each
                    sample with the patch somewhere else
    placements      random places tried on each sample under attack, by one forward each
    """

    norms: ClassVar[frozenset[str]] = frozenset({"patch"})
    images: ClassVar[bool] = True
    paper: ClassVar[str] = "1712.09665"
    position: str = "random"
    samples: int = 1000
    steps: int = 400
    placements: int = 10

    def check(
        self,
        threat: Threat,
        *,
        targeted: bool = False,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().check(threat, targeted=targeted, shape=shape, classes=classes)
        if self.position == "best":
            raise RobustError("universal-patch: position is random or row:column, not best")
        if shape is not None:
            _places.check_place(self.position, int(threat.eps), (shape[1], shape[2]))

    def fit(self, parts: Sequence[Part], threat: Threat, rng: Generator) -> Tensor:
        """The patch: (channels, side, side)."""
        first, span = parts[0].x, threat.high - threat.low
        side = min(int(threat.eps), *window.image_size(first))
        patch = threat.low + span * uniform(rng, first[0, :, :side, :side])
        for share, (victim, x, goal) in turns(parts, self.steps):
            corner = self._corner(x, side, rng)
            _, _, gradient = victim.gradient(window.paste(x, patch, corner), clipped_ce, goal)
            total = window.cut(gradient, corner, side).sum(0)
            patch = torch.clamp(patch + share * span / 4 * total.sign(), threat.low, threat.high)
        return patch

    def apply(
        self, fitted: Tensor, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        side, result = fitted.shape[-1], x.clone()
        best = torch.full((len(x),), float("-inf"), dtype=x.dtype, device=x.device)
        rows = torch.arange(len(x), device=x.device)
        for _ in range(self.placements if self.position == "random" else 1):
            z = window.paste(x[rows], fitted, self._corner(x[rows], side, rng))
            margin = goal.margin(victim.logits(z)).to(x.dtype)
            better = margin > best[rows]
            result[rows[better]], best[rows[better]] = z[better], margin[better]
            left = (margin <= 0) | goal.persist
            rows, victim, goal = rows[left], victim[left], goal[left]
            if not len(rows):
                break
        return result

    def _corner(self, x: Tensor, side: int, rng: Generator) -> Tensor:
        if self.position == "random":
            return window.anywhere(rng, x, side)
        return _places.fixed(self.position, x)
