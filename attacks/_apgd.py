"""Auto-PGD: the search that `apgd` and `apgd-t` run, once or once per target class."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal
from robust.core.rng import normal, uniform
from robust.core.threat import Ball, sparse_sign
from robust.core.victim import Loss, Victim

_MOMENTUM = 0.75  # α: the share of the gradient step, the rest repeats the last move
_L1_REDUCTION, _L1_SMALLEST = 1.5, 10.0


def checkpoints(steps: int) -> list[int]:
    """The iterations at which step sizes are reconsidered (2003.01690, section 3.2).

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), times steps.
    """
    percent, gap, places = 22, 22, []
    while percent <= 100:  # in whole percents, so that 0.22 + 0.19 + 0.16 is 0.57 and not more
        places.append(max(1, math.ceil(percent * steps / 100)))
        gap = max(gap - 3, 6)
        percent += gap
    return sorted(set(places))


def random_start(ball: Ball, rng: Generator) -> Tensor:
    """The paper's start: a random direction of full length, put into ball ∩ box."""
    x, threat = ball.x, ball.threat
    if threat.norm == "linf":
        draw = 2 * uniform(rng, x) - 1
        length = draw.flatten(1).abs().amax(1)
    else:
        draw = normal(rng, x)
        length = draw.flatten(1).norm(dim=1)
    if threat.norm == "l1":  # 2103.01208 projects a Gaussian draw as it is
        return ball.project(x + draw)
    return ball.project(x + threat.eps * draw / length.view(-1, *[1] * (x.dim() - 1)))


@dataclass
class _Active:
    """The samples still searched: one column each, narrowed together.

    best is x_max of the paper, with the gradient and loss there; rises counts the steps that raised
    the loss since the last checkpoint, when best_loss was mark_loss and the step was `halved` or
    not; changed and count are the L1 search's non-zero coordinates of best, and how many to move.
    """

    rows: Tensor
    now: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    mark_loss: Tensor
    step: Tensor
    rises: Tensor
    halved: Tensor
    changed: Tensor
    count: Tensor

    def __getitem__(self, places: Tensor) -> "_Active":
        columns = (getattr(self, field.name) for field in dataclasses.fields(self))
        return _Active(*(column.index_select(0, places) for column in columns))

    def observe(self, loss: Tensor) -> None:
        """Enter the loss at `now`."""
        self.rises += loss > self.loss
        self.loss = loss
        better = (loss > self.best_loss).nonzero().squeeze(1)
        _copy(better, self.now, self.best)
        _copy(better, self.gradient, self.best_gradient)
        _copy(better, loss, self.best_loss)

    def reconsider(self, enough: float) -> None:
        """At a checkpoint: halve the step and go on from the best point, where progress was poor.

        Poor: fewer than `enough` steps raised the loss (condition 1), or the step was not halved
        at the last checkpoint and the best loss has not moved since (condition 2).
        """
        poor = (self.rises < enough) | (~self.halved & (self.best_loss <= self.mark_loss))
        self.step[poor] /= 2
        self._back_to_best(poor)
        self.halved, self.mark_loss = poor, self.best_loss.clone()
        self.rises.zero_()

    def adapt_sparsity(self, changed: Tensor, largest: float) -> None:
        """L1: where the best point became sparser start anew from it, elsewhere shrink the step."""
        sparser = changed / self.changed < 0.95
        smaller = (self.step / _L1_REDUCTION).clamp(min=largest / _L1_SMALLEST)
        self.step = torch.where(sparser, largest, smaller)
        self._back_to_best(sparser)
        self.changed, self.count = changed, changed / _L1_REDUCTION

    def _back_to_best(self, which: Tensor) -> None:
        places = which.nonzero().squeeze(1)
        _copy(places, self.best, self.now)
        _copy(places, self.best_gradient, self.gradient)


def _copy(places: Tensor, source: Tensor, to: Tensor) -> None:
    """to[places] = source[places], in a third of the time."""
    to.index_copy_(0, places, source.index_select(0, places))


@dataclass
class Result:
    """x_adv (n, …), the loss there (n,), and which samples reached the goal (n,)."""

    x_adv: Tensor
    loss: Tensor
    solved: Tensor

    def keep_better(self, rows: Tensor, other: "Result") -> None:
        """Take from a further run on the samples `rows` what solved, or else has a higher loss."""
        better = other.solved | (other.loss > self.loss[rows])
        taken = rows[better]
        self.x_adv[taken], self.loss[taken] = other.x_adv[better], other.loss[better]
        self.solved[rows] |= other.solved


def search(
    victim: Victim, goal: Goal, ball: Ball, rng: Generator, *, steps: int, loss: Loss, rho: float
) -> Result:
    """One run from a random start, for L1 in the widest ball."""
    widest = wider(ball, 3) if ball.threat.norm == "l1" else ball
    return climb(victim, random_start(widest, rng), goal, ball, steps=steps, loss=loss, rho=rho)


def climb(
    victim: Victim, start: Tensor, goal: Goal, ball: Ball, *, steps: int, loss: Loss, rho: float
) -> Result:
    """One run from `start`. For L1 in balls of 3 eps, 2 eps and eps (2103.01208)."""
    if ball.threat.norm != "l1":
        return ascend(victim, start, goal, ball, steps, loss, rho)
    # What the larger balls reach is no success yet: they only find a start for the next.
    climbing, part = dataclasses.replace(goal, persist=True), int(0.3 * steps)
    for wide in (wider(ball, 3), wider(ball, 2)) if part else ():
        start = ascend(victim, wide.project(start), climbing, wide, part, loss, rho).x_adv
    return ascend(victim, ball.project(start), goal, ball, steps - 2 * part, loss, rho)


def wider(ball: Ball, times: int) -> Ball:
    return dataclasses.replace(ball.threat, eps=times * ball.threat.eps).around(ball.x)


def ascend(
    victim: Victim, start: Tensor, goal: Goal, ball: Ball, steps: int, loss: Loss, rho: float
) -> Result:
    """`steps` steps of Auto-PGD from `start`: `steps` forward-backwards and one forward more."""
    n, device = len(start), start.device
    everyone = start.new_ones(n)
    sparse = ball.threat.norm == "l1"
    largest = ball.threat.eps * (1 if sparse else 2)
    marks = set(checkpoints(steps))
    period = max(1, int(0.04 * steps))
    result = Result(
        start.clone(),
        -math.inf * everyone,
        torch.zeros(n, dtype=torch.bool, device=device),
    )
    if not steps:
        return result

    changed = _changed(ball, start)
    active = _Active(
        rows=torch.arange(n, device=device),
        now=start.clone(),
        before=start,
        gradient=torch.zeros_like(start),
        loss=math.inf * everyone,
        best=start.clone(),
        best_gradient=torch.zeros_like(start),
        best_loss=result.loss.clone(),
        mark_loss=result.loss.clone(),
        step=largest * everyone,
        rises=torch.zeros(n, device=device),
        halved=torch.zeros(n, dtype=torch.bool, device=device),
        changed=changed,
        count=changed / _L1_REDUCTION,
    )
    last_mark = 0
    for number in range(steps + 1):
        if number:
            active.before, active.now = active.now, _move(active, ball, first=number == 1)
        if number < steps:
            logits, value, active.gradient = victim.gradient(active.now, loss, goal)
        else:
            logits = victim.logits(active.now)
            value = loss(logits, goal)
        active.observe(value.to(start.dtype))
        solved = goal.reached(logits) & (not goal.persist)
        if bool(solved.any()):
            gone, left = active.rows[solved], (~solved).nonzero().squeeze(1)
            result.x_adv[gone] = active.now[solved]
            result.loss[gone], result.solved[gone] = active.loss[solved], True
            active, victim, goal, ball = active[left], victim[left], goal[left], ball[left]
            if not len(active.rows):
                return result
        if number == 0:
            active.mark_loss = active.best_loss.clone()
        elif sparse and number % period == 0:
            active.adapt_sparsity(_changed(ball, active.best), largest)
        elif not sparse and number in marks:
            active.reconsider(rho * (number - last_mark))
            last_mark = number
    result.x_adv[active.rows], result.loss[active.rows] = active.best, active.best_loss
    return result


def _move(active: _Active, ball: Ball, *, first: bool) -> Tensor:
    now = active.now
    if ball.threat.norm == "l1":
        free = ball.corner(now, active.gradient).ne_(now).mul_(active.gradient)
        step = active.step.view(-1, *[1] * (now.dim() - 1))
        return ball.project(torch.addcmul(now, sparse_sign(free, active.count), step))
    ahead = ball.advance(now, active.gradient, active.step)
    if first:
        return ball.project(ahead)
    z = ball.nearest(ahead)
    move = torch.lerp(now, z, _MOMENTUM).add_(now, alpha=1 - _MOMENTUM)
    return ball.project(move.sub_(active.before, alpha=1 - _MOMENTUM))


def _changed(ball: Ball, z: Tensor) -> Tensor:
    """How many coordinates differ from x: float (n,), at least 1."""
    return z.clone().ne_(ball.x).flatten(1).sum(1).clamp_(min=1)
