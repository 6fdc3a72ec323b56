"""An oracle during one shard: who may ask it how much, and what its answers have shown."""

import math

import numpy as np
import torch
from torch import Tensor

from .core.attack import Attack
from .core.errors import RobustError
from .core.goal import Goal
from .core.grid import Grid
from .core.oracle import Oracle
from .core.outcome import AttackRows, RunSpec
from .core.progress import Progress
from .core.threat import Threat
from .core.victim import Pool, Victim
from .data import Source


class Asking:
    """What the samples x of a shard may still ask of the oracle.

    pool        where searches can start from the other side
    preflight   queries of each sample that were spent before the run

    Whatever the engine itself asks about a sample is inside its budget: the answer at the clean
    sample, the checks of a candidate, and, for images, its answer once rounded to 8 bits.
    """

    def __init__(
        self, oracle: Oracle, spec: RunSpec, x: Tensor, pool: Pool, preflight: int
    ) -> None:
        self.oracle, self.spec, self.x, self.pool = oracle, spec, x, pool
        self.threat = Threat(**spec.threat)
        self.eight_bit = is_eight_bit(spec)
        self._spent = torch.full((len(x),), preflight + oracle.draws, device=x.device)
        self._first = self._spent.clone()
        self._known = oracle.known

    def allowed(self, rows: Tensor) -> Tensor:
        """Which of the samples `rows` have a question left to search with: their places there."""
        budget = self._budget(rows)
        if budget is None:
            return torch.arange(len(rows), device=rows.device)
        return (budget >= self.oracle.draws).nonzero().squeeze(1)

    def victim(self, attack: Attack, rows: Tensor, goal: Goal) -> tuple[Victim, Progress]:
        """The oracle as this attack may ask it about the samples `rows`, and what it will show."""
        if self.spec.every:
            self.oracle.begin(self._known)
        x = self.x[rows]
        progress = Progress(x, goal, self.threat)
        victim = Victim(
            self.oracle,
            len(rows),
            attack.access,
            x.device,
            budget=self._budget(rows),
            pool=self.pool,
            progress=progress,
            grid=Grid(x, self.threat) if self.eight_bit else None,
        )
        return victim, progress

    def as_sent(self, rows: Tensor, x_adv: Tensor) -> Tensor:
        """What the model is sent of candidates for the samples `rows`: that is what is measured."""
        if not self.eight_bit:
            return x_adv
        x = self.x[rows]
        return Grid(x, self.threat).snap(x_adv, torch.arange(len(x), device=x.device))

    def charge(self, rows: Tensor, result: AttackRows) -> None:
        """Take what an attack has spent, and what checking it may have, off the budgets."""
        if self.spec.every:
            self._spent = self._first.clone()  # each attack has a budget of its own
        else:
            spent = torch.from_numpy(result.queries).to(rows.device)  # 0 with surrogates
            self._spent[rows] += spent + check_cost(self.spec)

    def _budget(self, rows: Tensor) -> Tensor | None:
        if self.spec.queries is None:
            return None
        left = self.spec.queries - check_cost(self.spec) - self._spent[rows]
        return left.clamp(min=0)


def is_eight_bit(spec: RunSpec) -> bool:
    """Whether every value is rounded to 8 bits on its way to the model."""
    return bool(spec.model.get("eight_bit"))


def check_cost(spec: RunSpec) -> int:
    """The most queries that checking one candidate takes."""
    image = spec.data["image"] and not is_eight_bit(spec)
    repeated = spec.checks if spec.checks > 1 else 0
    return spec.draws + repeated + (spec.draws if image else 0)


def preflight_share(spec: RunSpec, asked: int) -> int:
    """What each sample bears of the answers that were given before the run."""
    n: int = spec.data["n"]
    samples = min(n, spec.limit or n)
    return math.ceil(asked / max(1, samples))


def refuse_tiny_budget(spec: RunSpec, asked: int) -> None:
    """RobustError where spec.queries would leave nothing to search with."""
    if spec.queries is None:
        return
    share = preflight_share(spec, asked)
    own = share + spec.draws + check_cost(spec)
    if spec.queries < own + spec.draws:
        raise RobustError(
            f"--queries {spec.queries} leaves nothing to search with: {own - share} of each "
            f"sample's go into its clean self and checks of what is found, and {share} are its "
            f"share of what was asked before the run; give {own + spec.draws} or more"
        )


def pool_for(source: Source, ids: np.ndarray, x: Tensor, predicted: Tensor, goal: Goal) -> Pool:
    """The samples of a shard with the classes predicted, and for each class that a search needs and
    that is not among them a sample of the data that is labelled so.
    """
    present = set(predicted.tolist())
    if goal.targeted:
        lacking = set(goal.labels.tolist()) - present
    else:
        lacking = {-1} if len(present) == 1 else set()
    if not lacking:
        return Pool(x, predicted)
    labels, chosen = source.labels(), list[int]()
    for wanted in sorted(lacking):
        fits = labels == wanted if wanted >= 0 else labels != next(iter(present))
        chosen += np.flatnonzero(fits & ~np.isin(source.ids, ids))[:3].tolist()
    if not chosen:
        return Pool(x, predicted)
    more = source.batch(source.ids[np.array(chosen)])
    return Pool(
        torch.cat([x, more.x.to(x.device)]), torch.cat([predicted, more.y.to(predicted.device)])
    )
