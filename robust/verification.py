"""What the engine itself measures of an attack's candidates: its word is no evidence."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .chance import draw, halves, reached, settled, vote
from .core.errors import RobustError
from .core.goal import Goal
from .core.grid import rounded
from .core.oracle import CHECKS, Oracle
from .core.outcome import AttackRows
from .core.progress import Trace
from .core.threat import Threat
from .core.victim import Victim
from .preflight import confidence, forward, guarded


def verify(
    model: nn.Module,
    name: str,
    rows: Tensor,
    x: Tensor,
    x_adv: Tensor,
    goal: Goal,
    threat: Threat,
    victim: Victim,
    *,
    minimal: bool,
    image: bool,
    checks: int = 1,
    trace: Trace | None = None,
) -> AttackRows:
    """Measure candidates on the original model: finite, in ball and box, goal reached.

    A minimal attack may leave the ball; what it finds there is no success at this eps. With
    several checks, of a model that answers at random, the goal must be reached in half of them.

    image   ask, too, whether a success survives rounding to 8 bits
    trace   what the answers of the search have shown
    """
    if x_adv.shape != x.shape:
        raise RobustError(
            f"{name} returned shape {tuple(x_adv.shape)} for samples of {tuple(x.shape)}"
        )
    n = len(x)
    refused = torch.zeros(n, dtype=torch.int64, device=x.device)
    refused[~threat.in_box(x_adv)] = 3
    if not minimal:
        refused[~threat.in_ball(x, x_adv)] = 2
    refused[~x_adv.flatten(1).isfinite().all(1)] = 1
    safe = torch.where((refused == 0).view(-1, *[1] * (x.dim() - 1)), x_adv, x)
    oracle = isinstance(model, Oracle)
    draws = 1 if oracle or checks == 1 else 2 * checks
    answers = _answers(model, safe, draws) if n else torch.zeros(0, draws, 2, device=x.device)
    hits = reached(goal, answers)
    inside = threat.in_ball(x, safe)
    # Of a random model, whose candidates are compared by these shares, they count inside alone.
    counts = (refused == 0) & (inside | (draws == 1))
    trial, fooled = (share * counts for share in halves(hits))
    if oracle and checks > 1:
        asked = fooled.nonzero().squeeze(1)
        fooled[asked] = _fooled(model, safe[asked], goal[asked], checks)
    success = (fooled >= 0.5) & (refused == 0) & inside
    survives = torch.full_like(refused, -1)
    if image and bool(success.any()):
        saved = _answers(model, rounded(safe[success], threat.low, threat.high), draws)
        survives[success] = (reached(goal[success], saved).double().mean(1) >= 0.5).long()
    logits = settled(answers)
    if draws == 1:
        prediction, probability = confidence(model, logits)
    else:
        prediction, probability = vote(answers, hits & success.unsqueeze(1))
    return AttackRows(
        label=name,
        rows=array(rows),
        success=array(success),
        prediction=array(prediction),
        confidence=array(probability),
        distance=array(threat.distance(x, safe)) if n else np.zeros(0),
        margin=array(goal.margin(logits).double() + 0 * probability),  # NaN without scores
        survives_8bit=array(survives),
        forwards=array(victim.ledger.forwards),
        backwards=array(victim.ledger.backwards),
        queries=array(victim.ledger.queries),
        refused=array(refused),
        x_adv=array(safe[success].float()),
        seconds=0.0,
        stages="\n".join(victim.marks),
        entered=_columns(victim.marks, n),
        remarks="\n".join(victim.remarks),
        remarked=_columns(victim.remarks, n),
        fooled=array(fooled),
        trial=array(trial) if draws > 1 else np.zeros(0),
        **_traced(trace),
    )


def _answers(model: nn.Module, z: Tensor, draws: int) -> Tensor:
    """So many answers to each row of z: logits (n, draws, K)."""
    return forward(model, z).unsqueeze(1) if draws == 1 else draw(model, z, draws)


def _fooled(model: nn.Module, z: Tensor, goal: Goal, checks: int) -> Tensor:
    """The share of so many further answers in which z reaches the goal, float64 (n,)."""
    assert isinstance(model, Oracle)
    if not len(z):
        return torch.zeros(0, dtype=torch.float64, device=z.device)
    with guarded(z), torch.no_grad():
        answers, _ = model.draw(z, range(CHECKS, CHECKS + checks))
    return torch.stack([goal.reached(answer) for answer in answers.unbind(1)]).double().mean(0)


def _traced(trace: Trace | None) -> dict[str, Any]:
    if trace is None:
        return {}
    return {f"trace_{name}": array(column) for name, column in vars(trace).items()}


def _columns(marks: dict[str, Tensor], n: int) -> np.ndarray:
    """The marks of n samples, side by side: bool (n, number of marks)."""
    if not marks:
        return np.zeros((n, 0), dtype=np.bool_)
    return array(torch.stack([*marks.values()], 1))


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
