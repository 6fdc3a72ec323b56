"""Adversarial patch: one square of the image, found and painted for each sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core import window
from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.rng import uniform
from robust.core.threat import Ball, Threat
from robust.core.victim import Victim

from . import _places
from ._apgd import Result

_TRIAL = 3  # gradient steps at each place that is tried


@dataclass(frozen=True, kw_only=True)
class PatchAttack(Attack):
    """A patch for each image: look for the best place, then ascend inside it.

    After Brown et al., 1712.09665, and the search for a place in Rao et al., 2005.02313. The places
    where the gradient promises most are filled as it wants them, one forward each; the best of them
    get three gradient steps each from noise, and the best of all may still move by a pixel to each
    side, twice, before the remaining steps. Steps are signs, their length falls to nothing by a
    cosine. For one patch on all images see universal-patch.

    position        best, random, or row:column of the upper left corner, from 0
    steps           gradient steps at the place chosen
    step_size       the first step, in the units of x; None: the whole range of the data
    probes          how many places are looked at, by one forward each
    places          how many of them are tried by gradient steps
    """

    norms: ClassVar[frozenset[str]] = frozenset({"patch"})
    images: ClassVar[bool] = True
    paper: ClassVar[str] = "1712.09665"
    position: str = "best"
    steps: int = 40
    step_size: float | None = None
    probes: int = 100
    places: int = 8
    loss: Literal["ce", "margin", "dlr"] = "margin"

    def check(
        self,
        threat: Threat,
        *,
        targeted: bool = False,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().check(threat, targeted=targeted, shape=shape, classes=classes)
        if shape is not None:
            _places.check_place(self.position, int(threat.eps), (shape[1], shape[2]))

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        side = int(threat.eps)
        if not (side and len(x)):
            return x.clone()
        ball = threat.around(x)
        noise = torch.lerp(ball.lower, ball.upper, uniform(rng, x))
        if self.position == "best":
            place = _Places(victim, goal, ball, noise, self)
            place.look()
            place.move()
            found, corner = place.found, place.corner
        else:
            given = _places.corner_of(self.position) is not None
            corner = _places.fixed(self.position, x) if given else window.anywhere(rng, x, side)
            found = _nothing(torch.where(window.mask(x, corner, side), noise, x))
        rows = (~found.solved).nonzero().squeeze(1)
        if len(rows):
            run = self.paint(
                victim[rows], found.x_adv[rows], goal[rows], ball[rows], corner[rows], self.steps
            )
            found.keep_better(rows, run)
        return found.x_adv

    def paint(
        self, victim: Victim, start: Tensor, goal: Goal, ball: Ball, corner: Tensor, steps: int
    ) -> Result:
        """Ascend inside the windows; `steps` forward-backwards and a forward."""
        threat, loss = ball.threat, LOSSES[self.loss]
        first = threat.high - threat.low if self.step_size is None else self.step_size
        inside = window.mask(start, corner, int(threat.eps))
        result = _nothing(start)
        rows, now = torch.arange(len(start), device=start.device), start
        for number in range(steps + 1):
            if number < steps:
                logits, value, gradient = victim.gradient(now, loss, goal)
            else:
                logits, gradient = victim.logits(now), torch.zeros_like(now)
                value = loss(logits, goal)
            solved = goal.reached(logits) & (not goal.persist)
            result.keep_better(rows, Result(now, value.to(now.dtype), solved))
            if bool(solved.any()):
                left = ~solved
                rows, now, gradient, inside = rows[left], now[left], gradient[left], inside[left]
                victim, goal, ball = victim[left], goal[left], ball[left]
                if not len(rows):
                    break
            length = first * (1 + math.cos(math.pi * number / max(steps, 1))) / 2
            moved = torch.clamp(now + length * gradient.sign(), ball.lower, ball.upper)
            now = torch.where(inside, moved, now)
        return result


class _Places:
    """The search for a place: the best painting so far, and the corner where each is."""

    def __init__(
        self, victim: Victim, goal: Goal, ball: Ball, noise: Tensor, attack: PatchAttack
    ) -> None:
        self.victim, self.goal, self.ball, self.noise = victim, goal, ball, noise
        self.attack, self.side = attack, int(ball.threat.eps)
        self.found = _nothing(ball.x)
        self.corner = torch.zeros(len(noise), 2, dtype=torch.int64, device=noise.device)

    def look(self) -> None:
        """Probe places by their gradient, try the best of those by a few steps."""
        x, loss = self.ball.x, LOSSES[self.attack.loss]
        logits, _, gradient = self.victim.gradient(x, loss, self.goal)
        self.found.solved = self.goal.reached(logits) & (not self.goal.persist)
        far = torch.where(gradient > 0, self.ball.upper, self.ball.lower)
        far = torch.where(gradient == 0, self.noise, far)
        promise = window.sums((gradient * (far - x)).sum(1), self.side)
        corners = _places.spread(promise, self.attack.probes, max(1, self.side // 2))
        scores = torch.full(corners.shape[:2], float("-inf"), dtype=x.dtype, device=x.device)
        for number, corner in enumerate(corners.unbind(1)):
            rows = self._open()
            scores[rows, number] = self._ask(rows, self._filled(rows, corner, far), corner)
        for place in scores.topk(min(self.attack.places, scores.shape[1])).indices.unbind(1):
            rows = self._open()
            corner = corners[torch.arange(len(x), device=x.device), place]
            if len(rows):
                run = self.attack.paint(
                    self.victim[rows],
                    self._filled(rows, corner, self.noise),
                    self.goal[rows],
                    self.ball[rows],
                    corner[rows],
                    _TRIAL,
                )
                self._enter(rows, run, corner)

    def move(self) -> None:
        """Move each painting by a pixel where that raises the loss."""
        last = torch.tensor(window.corners(self.ball.x, self.side), device=self.corner.device) - 1
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)) * 2:
            corner = self.corner + torch.tensor([down, right], device=last.device)
            rows = self._open()
            rows = rows[((corner[rows] >= 0) & (corner[rows] <= last)).all(1)]
            moved = self.found.x_adv[rows].roll((down, right), (2, 3))
            inside = window.mask(moved, corner[rows], self.side)
            self._ask(rows, torch.where(inside, moved, self.ball.x[rows]), corner)

    def _open(self) -> Tensor:
        return (~self.found.solved).nonzero().squeeze(1)

    def _filled(self, rows: Tensor, corner: Tensor, content: Tensor) -> Tensor:
        x = self.ball.x[rows]
        return torch.where(window.mask(x, corner[rows], self.side), content[rows], x)

    def _ask(self, rows: Tensor, z: Tensor, corner: Tensor) -> Tensor:
        """The loss at z, samples `rows`, whose patches are at their corners."""
        if not len(rows):
            return z.new_zeros(0)
        goal = self.goal[rows]
        logits = self.victim[rows].logits(z)
        value = LOSSES[self.attack.loss](logits, goal).to(z.dtype)
        self._enter(rows, Result(z, value, goal.reached(logits) & (not goal.persist)), corner)
        return value

    def _enter(self, rows: Tensor, run: Result, corner: Tensor) -> None:
        ahead = rows[run.solved | (run.loss > self.found.loss[rows])]
        self.corner[ahead] = corner[ahead]
        self.found.keep_better(rows, run)


def _nothing(x: Tensor) -> Result:
    """Before anything was asked."""
    worst = torch.full((len(x),), float("-inf"), dtype=x.dtype, device=x.device)
    return Result(x.clone(), worst, torch.zeros(len(x), dtype=torch.bool, device=x.device))
