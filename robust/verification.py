"""What the engine itself measures of an attack's candidates: its word is no evidence."""

import numpy as np
import torch
from torch import Tensor, nn

from .core.errors import RobustError
from .core.goal import Goal
from .core.outcome import AttackRows
from .core.threat import Threat
from .core.victim import Victim
from .preflight import forward


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
) -> AttackRows:
    """Measure candidates on the original model: finite, in ball and box, goal reached.

    A minimal attack may leave the ball; what it finds there is no success at this eps.
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
    logits = forward(model, safe) if n else torch.zeros(0, 2, device=x.device)
    success = goal.reached(logits) & (refused == 0) & threat.in_ball(x, safe)
    survives = torch.full_like(refused, -1)
    if image and bool(success.any()):
        low, span = threat.low, threat.high - threat.low
        rounded = ((safe[success] - low) / span * 255).round() / 255 * span + low
        survives[success] = goal[success].reached(forward(model, rounded)).long()
    confidence, prediction = logits.softmax(1).max(1)
    return AttackRows(
        label=name,
        rows=array(rows),
        success=array(success),
        prediction=array(prediction),
        confidence=array(confidence.double()),
        distance=array(threat.distance(x, safe)) if n else np.zeros(0),
        margin=array(goal.margin(logits).double()),
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
    )


def _columns(marks: dict[str, Tensor], n: int) -> np.ndarray:
    """The marks of n samples, side by side: bool (n, number of marks)."""
    if not marks:
        return np.zeros((n, 0), dtype=np.bool_)
    return array(torch.stack([*marks.values()], 1))


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
