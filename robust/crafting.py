"""The phase before the shards: what a Fitted attack crafts once for the whole run."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from .core.fitted import Fitted, Part
from .core.goal import Goal
from .core.outcome import Fit
from .core.threat import Threat
from .core.victim import Victim
from .data import Batch, Source


def samples_for(attack: Fitted, order: np.ndarray, limit: int | None) -> tuple[np.ndarray, bool]:
    """The ids to craft on, and whether they are held out: the samples behind the limit, if there
    are as many as the attack wants or as will be attacked; else the first of those attacked.
    """
    attacked = order[:limit]
    behind = order[len(attacked) :][: attack.samples]
    if len(behind) >= min(attack.samples, len(attacked)):
        return behind, True
    return attacked[: attack.samples], False


def craft(
    number: int,
    attack: Fitted,
    ids: np.ndarray,
    victim: Victim,
    threat: Threat,
    rng: Generator,
    *,
    source: Source,
    batch_size: int,
    goal: Callable[[Batch, Tensor, Tensor], Goal],
    held_out: bool,
) -> Fit:
    """The thing itself and what it took. These samples, and no others of a run, are all in memory.

    victim  one sample for each of the ids;  goal(batch, x, y) what is to be reached there
    """
    began, device, parts = time.perf_counter(), victim.ledger.forwards.device, []
    for start in range(0, len(ids), batch_size):
        batch = source.batch(ids[start : start + batch_size])
        x, y = batch.x.to(device), batch.y.to(device)
        rows = torch.arange(start, start + len(x), device=device)
        parts.append(Part(victim[rows], x, goal(batch, x, y)))
    with torch.no_grad():
        tensor = attack.fit(parts, threat, rng)
    ledger = victim.ledger
    return Fit(
        number=number,
        tensor=tensor.float().cpu().numpy(),
        samples=len(ids),
        held_out=held_out,
        forwards=int(ledger.forwards.sum()),
        backwards=int(ledger.backwards.sum()),
        queries=int(ledger.queries.sum()),
        seconds=time.perf_counter() - began,
    )
