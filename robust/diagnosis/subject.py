"""What is diagnosed: a finished run, and some of the samples that it attacked."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.fitted import Fitted
from robust.core.goal import Goal
from robust.core.oracle import Oracle
from robust.core.outcome import AttackRows, RunSpec
from robust.core.recorder import Recorder
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.core.victim import Access
from robust.evaluation import Evaluation
from robust.store import Store
from robust.verification import verify

# Of the attackable samples so many are looked at: an eighth, within these bounds.
_SHARE, _FEWEST, _MOST = 8, 32, 64
_BYTES = 2**31  # of samples in memory, however many there are


@dataclass(frozen=True)
class Trial:
    """One attack on a part of the samples, measured as an evaluation measures it.

    rows        int64 (k,), their places among the samples of the Subject
    outcome     what was verified of the candidates
    x_adv       the candidates (k, …), successes or not
    recorder    what the search saw on its way
    """

    rows: Tensor
    outcome: AttackRows
    x_adv: Tensor
    recorder: Recorder

    @property
    def success(self) -> Tensor:
        """Which candidates reach the goal inside the threat: bool (k,)."""
        return torch.from_numpy(self.outcome.success).to(self.rows.device)


class Subject:
    """A finished run and n of its attackable samples, chosen at random from its seed.

    x, goal     the samples (n, …), on the run's device, and what attacks were to reach there
    ids         int64 (n,), which samples of the data these are
    left        float64 (n,): what all attacks of the run left of each, 1 robust to 0 broken; of a
                random model the share of draws that its worst point does not fool
    total       how many attackable samples there are; "full" takes all of them, or as many as two
                GiB hold
    """

    def __init__(self, run: Evaluation, store: Store, amount: str) -> None:
        self.run, self.amount = run, amount
        ids, left, labels, targets = _attackable(store)
        n = self.total = len(ids)
        if amount == "subset":
            n = min(n, max(_FEWEST, min(_MOST, n // _SHARE)))
        n = max(1, min(n, _BYTES // (4 * math.prod(run.source.shape)))) if n else 0
        chosen = torch.randperm(len(ids), generator=generator(self.spec.seed, "diagnosis"))[:n]
        places = np.sort(chosen.numpy())
        self.ids, self.left = ids[places], torch.from_numpy(left[places]).to(run.device)
        self.x = run.source.batch(self.ids).x.to(run.device)
        targeted = self.spec.targeted is not None
        wanted = torch.from_numpy((targets if targeted else labels)[places]).to(run.device)
        self.y = torch.from_numpy(labels[places]).to(run.device)
        self.goal = Goal(wanted, targeted=targeted)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def spec(self) -> RunSpec:
        return self.run.spec

    @property
    def threat(self) -> Threat:
        return self.run.threat

    @property
    def model(self) -> nn.Module:
        """The model as it is deployed, with its defenses."""
        return self.run.model

    @property
    def random(self) -> bool:
        """Whether it answers at random."""
        return self.run.random

    @property
    def white_box(self) -> bool:
        """Whether attackers of the run have the model itself, and so its gradients."""
        return not (isinstance(self.model, Oracle) or self.run.surrogates)

    @property
    def defended(self) -> bool:
        """Whether the model has defenses, or answers at random: then there are two views of it."""
        return isinstance(self.model, Defended)

    @cached_property
    def attacks(self) -> list[Attack]:
        """The attacks of the run that can be run again on other questions: those with gradients,
        but for what crafts one thing for all samples; in cascade order.
        """
        return [
            attack
            for attack in self.run.attacks
            if attack.access == Access.GRADIENT and not isinstance(attack, Fitted)
        ]

    @property
    def robust(self) -> Tensor:
        """The places of the samples that the run left robust (at least in half of the draws),
        int64 (k,).
        """
        return (self.left > 0.5).nonzero().squeeze(1)

    def parts(self, rows: Tensor | None = None) -> Sequence[Tensor]:
        """The samples `rows` (None: all) in batches of the run's size: int64 (k,) each."""
        if rows is None:
            rows = torch.arange(len(self), device=self.x.device)
        return torch.split(rows, self.spec.batch_size) if len(rows) else ()

    def search(
        self,
        attack: Attack,
        rows: Tensor | None = None,
        *,
        threat: Threat | None = None,
        salt: str = "",
    ) -> Iterator[Trial]:
        """Run an attack on samples `rows` (None: all), batch by batch, and verify what it found.

        threat      another question than the run's
        salt        other random numbers than without

        Raises RobustError where the attack does not answer such a question.
        """
        threat = threat or self.threat
        attack.check(
            threat,
            targeted=self.goal.targeted,
            shape=self.x.shape[1:],
            classes=int(self.spec.model["num_classes"]),
        )
        asked = threat

        def trials() -> Iterator[Trial]:
            for number, part in enumerate(self.parts(rows)):
                rng = generator(self.spec.seed, "diagnosis", repr(attack), salt, number)
                yield self._search(attack, part, asked, rng)

        return trials()

    def _search(self, attack: Attack, rows: Tensor, threat: Threat, rng: torch.Generator) -> Trial:
        x, goal = self.x[rows], self.goal[rows]
        recorder = Recorder(x, goal, threat)
        victim = self.run.searching.victim(len(rows), attack, goal, recorder)
        with torch.no_grad():
            x_adv = attack.search(victim, x, goal, threat, rng)
        outcome = verify(
            self.model, repr(attack), rows, x, x_adv, goal, threat, victim,
            minimal=attack.minimal, image=False, checks=self.spec.checks,
        )  # fmt: skip
        return Trial(rows, outcome, x_adv, recorder)


def broken(trials: Iterable[Trial]) -> Tensor:
    """The places of the samples that the trials broke, int64 (k,)."""
    empty = torch.zeros(0, dtype=torch.int64)
    return torch.cat([empty, *(trial.rows[trial.success].cpu() for trial in trials)])


def _attackable(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the samples that a run attacked: ids, what is left of each, labels and targets."""
    parts = []
    for shard in store.shards():
        its, left = shard.attackable, shard.withstood(shard.attacks)
        parts.append((shard.ids[its], left[its], shard.labels[its], shard.targets[its]))
    if not parts:
        raise RobustError("nothing was measured, so there is nothing to diagnose")
    ids, left, labels, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ids, left, labels, targets
