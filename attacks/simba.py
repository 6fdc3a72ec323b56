"""SimBA: steps along one vector of a basis after the other, kept where the scores improve."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.rng import uniform
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from ._cosines import frequencies, waves
from ._square import layout


@dataclass(frozen=True, kw_only=True)
class SimBA(Attack):
    """Simple black-box attack: one step up or down a vector of an orthonormal basis at a time.

    Guo et al., 1905.07121 (L2). Departures: each step is projected onto ball ∩ box, where the paper
    ends after as many steps as eps holds; in L∞ a vector is scaled to step_size in its largest
    coordinate; the margin is raised unless loss=ce (the paper: the probability, which ends in ties
    where a model is sure); the samples of a batch go through the basis in one order, and through
    it again in a new one when it ends.

    queries     per sample, that of the start included
    basis       pixel: single coordinates; dct: cosines along all axes but the channels, the eighth
                of lowest frequency along each axis first, then the quarter, the half and all
    step_size   length of a step, in the units of x and the threat's norm; None: eps / 10, in
                L∞ eps / 2. Where 8-bit values are sent it is made as long as to move the largest
                coordinate by a level
    loss        what a step must raise: margin or ce
    """

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    paper: ClassVar[str] = "1905.07121"
    queries: int = 5000
    basis: Literal["pixel", "dct"] = "dct"
    step_size: float | None = None
    loss: Literal["margin", "ce"] = "margin"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        victim, loss, best = victim.limited(self.queries), LOSSES[self.loss], x.clone()
        size = self.step_size
        if size is None:
            size = threat.eps * (0.5 if threat.norm == "linf" else 0.1)
        if threat.eps < victim.step:
            victim.remark("cannot be moved: eps holds less than a level of the values sent")
            return best
        rows = (victim.left > 0).nonzero().squeeze(1)
        if not len(rows):
            return best
        now, victim, goal, ball = x[rows], victim[rows], goal[rows], threat.around(x)[rows]
        logits = victim.logits(now)
        value = loss(logits, goal)
        value = value.masked_fill(value.isnan(), float("-inf"))  # nothing is above NaN
        stay = ~goal.reached(logits) | goal.persist
        # A vector takes one question or two, so there are no more vectors than queries.
        for _, vector in zip(range(self.queries), self._vectors(x[:1], rng), strict=False):
            largest = float(vector.abs().amax())
            # Where only levels can be sent, a step moves at least one coordinate by one.
            least = victim.step / largest
            step = vector * max(size / largest if threat.norm == "linf" else size, least)
            failed = torch.ones_like(stay)
            for sign in (1, -1):
                stay &= victim.left > 0
                if not bool(stay.all()):
                    rows, now, value, failed = rows[stay], now[stay], value[stay], failed[stay]
                    victim, goal, ball = victim[stay], goal[stay], ball[stay]
                    stay = torch.ones_like(failed)
                if not len(rows):
                    return best
                asked = failed.nonzero().squeeze(1)
                candidate = ball[asked].project(now[asked] + sign * step)
                # Where ball and box leave no room for the step there is nothing to ask.
                moved = (candidate != now[asked]).flatten(1).any(1)
                asked, candidate = asked[moved], candidate[moved]
                if not len(asked):
                    continue
                logits = victim[asked].logits(candidate)
                found = loss(logits, goal[asked]).to(value.dtype)
                done = goal[asked].reached(logits) & (not goal.persist)
                kept = done | (found > value[asked])
                places = asked[kept]
                now[places], value[places] = candidate[kept], found[kept]
                best[rows[places]] = candidate[kept]
                failed[places] = False
                stay[asked[done]] = False
        return best

    def _vectors(self, like: Tensor, rng: Generator) -> Iterator[Tensor]:
        """The vectors of the basis in the order of the search, (1, …), without end."""
        channels, sizes = layout(like.shape[1:])
        wave = frequencies(sizes)
        # Which octave a frequency falls into: 0 for the lowest eighth of its axis, up to 3.
        octave = torch.stack([wave[:, i] * 8 / size for i, size in enumerate(sizes)]).amax(0)
        octave = (octave.floor().clamp(min=0.5).log2().floor() + 1).clamp(min=0)
        octave = octave.repeat(channels) if self.basis == "dct" else octave.repeat(channels) * 0
        while True:
            order = (octave + uniform(rng, octave) / 2).argsort(stable=True)
            for number in order.tolist():
                channel, place = divmod(number, len(wave))
                vector = torch.zeros(channels, *sizes, dtype=like.dtype)
                if self.basis == "dct":
                    vector[channel] = waves(sizes, wave[place].tolist())
                else:
                    vector[channel].view(-1)[place] = 1
                yield vector.view(like.shape).to(like.device)
