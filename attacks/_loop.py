"""What gradient attacks share: one loop of steps, each one forward and one backward."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal
from robust.core.threat import Ball, Threat
from robust.core.victim import Loss, Victim

# (x_now, gradient, step number) of the active samples → x_next; `rows` are their positions in x.
Step = Callable[[Tensor, Tensor, int, Tensor, Ball], Tensor]


def climb(
    victim: Victim,
    start: Tensor,
    goal: Goal,
    ball: Ball,
    *,
    steps: int,
    loss: Loss,
    step: Step,
) -> Tensor:
    """`steps` gradient steps from `start`; the success, or else the iterate of highest loss.

    step(x_now, gradient, number, rows, ball) → x_next, already inside the ball, for the samples
    still active; `rows` are their positions in the batch. A sample that reaches its goal leaves at
    once: the forward of the next step tells. After the last step one forward settles who else
    reached it; a goal that persists saves that forward, and all bookkeeping, and takes the last
    iterate.
    """
    if goal.persist:
        return _climb_on(victim, start, goal, ball, steps=steps, loss=loss, step=step)
    best = start.clone()
    best_loss = torch.full((len(start),), float("-inf"), dtype=start.dtype, device=start.device)
    rows = torch.arange(len(start), device=start.device)
    now = start
    for number in range(steps):
        logits, value, gradient = victim.gradient(now, loss, goal)
        solved = goal.reached(logits)
        better = solved | (value > best_loss[rows])
        best[rows[better]] = now[better]
        best_loss[rows[better]] = value[better].to(best_loss.dtype)
        if bool(solved.any()):
            left = ~solved
            rows, now, gradient = rows[left], now[left], gradient[left]
            victim, goal, ball = victim[left], goal[left], ball[left]
            if not len(rows):
                return best
        now = step(now, gradient, number, rows, ball)
    if steps:
        logits = victim.logits(now)
        better = goal.reached(logits) | (loss(logits, goal) > best_loss[rows])
        best[rows[better]] = now[better]
    return best


def _climb_on(
    victim: Victim,
    start: Tensor,
    goal: Goal,
    ball: Ball,
    *,
    steps: int,
    loss: Loss,
    step: Step,
) -> Tensor:
    """All steps of all samples: the last iterate."""
    rows, now = torch.arange(len(start), device=start.device), start
    for number in range(steps):
        _, _, gradient = victim.gradient(now, loss, goal)
        now = step(now, gradient, number, rows, ball)
    return now


def projected_ascent(
    victim: Victim,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    rng: Generator,
    *,
    steps: int,
    step_size: float,
    loss: Loss,
    random_start: bool,
) -> Tensor:
    """Equal steps of steepest ascent, each projected onto ball ∩ box: what PGD and BIM share."""

    def step(now: Tensor, gradient: Tensor, number: int, rows: Tensor, ball: Ball) -> Tensor:
        return ball.project(ball.advance(now, gradient, step_size))

    ball = threat.around(x)
    start = ball.random(rng) if random_start else x
    return climb(victim, start, goal, ball, steps=steps, loss=loss, step=step)
