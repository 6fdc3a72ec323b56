"""Steps that carry over to other networks: momentum and varied inputs (MI-, NI-, DI-, TI-FGSM)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.threat import Threat
from robust.core.victim import Loss, Victim

from . import _inputs


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Iterative attack whose examples transfer: momentum, look-ahead and varied inputs combined.

    As it is, MI-FGSM (Dong et al., 1710.06081). With nesterov NI-FGSM, with scales=5 besides
    SI-NI-FGSM (Lin et al., 1908.06281), with diversity=0.5 M-DI²-FGSM (Xie et al., 1803.06978),
    with translation=7 TI-FGSM (Dong et al., 1904.02884); they combine. The names mi-fgsm, ni-fgsm,
    si-ni-fgsm, di-fgsm and ti-fgsm stand for these. Made for `--surrogate`, where it goes to its
    last iterate; it also attacks a model directly.

    Departures: exact projection on ball ∩ box, every norm. The look-ahead of NI is a step along the
    momentum, put into the ball, so that it is a candidate itself. DI shrinks and moves each image
    by itself, in a frame of its own size. Without surrogates a sample leaves as soon as it is
    solved, which under diversity only the last iterate can show.

    step_size       length of a step in the threat's norm, in the units of x; None: eps / steps
    decay           μ, the share of the sum of L1-normalised gradients that a step keeps
    nesterov        take the gradient where the momentum alone would lead
    diversity       probability that an image is shrunk, to 0.9 at the least, and moved; images only
    translation     odd size of the Gaussian kernel that smooths the gradient, 0: none; images only
    scales          gradients at x, x/2, x/4, … are averaged: how many, each a forward and backward
    """

    paper: ClassVar[str] = "1710.06081"
    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    nesterov: bool = False
    diversity: float = 0.0
    translation: int = 0
    scales: int = 1
    loss: Literal["ce", "margin", "dlr"] = "ce"

    @property
    def images(self) -> bool:  # type: ignore[override]  # depends on what was asked for
        return self.diversity > 0 or self.translation > 0

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        loss = LOSSES[self.loss]
        size = threat.eps / self.steps if self.step_size is None else self.step_size
        # Answers about varied images are no evidence about the samples.
        told = self.diversity == 0
        ball, rows = threat.around(x), torch.arange(len(x), device=x.device)
        best, best_loss = x.clone(), torch.full_like(x.flatten(1)[:, 0], float("-inf"))
        now, velocity = x, torch.zeros_like(x)
        for _ in range(self.steps):
            at = now
            if self.nesterov:
                at = ball.project(ball.advance(now, velocity, self.decay * size))
            logits, value, gradient = self._gradient(victim, at, goal, threat, loss, rng)
            if told:
                solved = goal.reached(logits) & (not goal.persist)
                better = solved | (value > best_loss[rows])
                best[rows[better]] = at[better]
                best_loss[rows[better]] = value[better].to(best_loss.dtype)
                if bool(solved.any()):
                    left = ~solved
                    rows, now, gradient, velocity = (
                        part[left] for part in (rows, now, gradient, velocity)
                    )
                    victim, goal, ball = victim[left], goal[left], ball[left]
                    if not len(rows):
                        return best
            length = gradient.flatten(1).abs().sum(1).clamp(min=torch.finfo(x.dtype).tiny)
            unit = gradient / length.view(-1, *[1] * (x.dim() - 1))
            velocity = self.decay * velocity + unit
            now = ball.project(ball.advance(now, velocity, size))
        if goal.persist and told:
            best[rows] = now
            return best
        logits = victim.logits(now)
        better = goal.reached(logits) | goal.persist | (loss(logits, goal) > best_loss[rows])
        best[rows[better]] = now[better]
        return best

    def _gradient(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, loss: Loss, rng: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and loss of the first variation, and the gradient that all of them agree on."""
        total = torch.zeros_like(x)
        answers: list[tuple[Tensor, Tensor]] = []
        for power in range(self.scales):
            # What is asked about other points than x, no watch shall take for an answer about x.
            apart = power > 0 or self.diversity > 0
            asked = victim.watched(goal)[0] if apart else victim
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                varied = threat.low + (leaf - threat.low) / 2**power if power else leaf
                if self.diversity:
                    varied = _inputs.shrunk_and_moved(varied, threat.low, 0.9, self.diversity, rng)
                logits, value, slope = asked.gradient(varied.detach(), loss, goal)
                (gradient,) = torch.autograd.grad(varied, leaf, slope) if apart else (slope,)
            answers.append((logits, value))
            total += gradient
        if self.translation:
            total = _inputs.smoothed(total, self.translation)
        return *answers[0], total
