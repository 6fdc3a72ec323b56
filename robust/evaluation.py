"""The engine: a cascade of attacks over a data set, shard by shard.

It yields events and prints nothing. What it stores is what it measured itself: every
candidate of an attack is checked again on the original model.
"""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from . import chance
from .asking import Asking, is_eight_bit, pool_for, preflight_share
from .core.adaptive import Adaptive
from .core.attack import Attack
from .core.fitted import Fitted
from .core.goal import Goal
from .core.oracle import Oracle, Remote
from .core.outcome import AttackRows, RunSpec, Shard
from .core.progress import Progress
from .core.rng import generator, seeded
from .core.surrogate import Ensemble
from .core.threat import Threat
from .core.victim import Access, BudgetSpent, Ledger
from .crafting import craft, samples_for
from .data import Batch, Source
from .preflight import confidence, forward, frozen, refuse_bad_answers
from .registry import label, parse_attack
from .searching import Searching, sees_through
from .store import Store
from .targets import choose_targets
from .verification import array, verify

CURVE = (0.25, 0.5, 0.75, 1.5, 2.0)
CURVE_ATTACK = "apgd,steps=20,loss=margin"


@dataclass(frozen=True)
class Started:
    """total samples, of which `done` were measured in an earlier session; shards likewise."""

    total: int
    done: int
    shards: int
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class AttackStarted:
    """An attack begins on `given` samples; `ledger` goes on changing while it runs.

    shard −1: it crafts what it will apply to every shard.
    """

    shard: int
    attack: str
    given: int
    ledger: Ledger


@dataclass(frozen=True)
class AttackDone:
    """It reached its goal on `broken` of the `given` samples."""

    shard: int
    attack: str
    given: int
    broken: int
    seconds: float


@dataclass(frozen=True)
class ShardDone:
    """A shard is measured and stored."""

    shard: Shard


Event = Started | AttackStarted | AttackDone | ShardDone


@dataclass
class Evaluation:
    """One model, one data set, one cascade: what `run` needs beside the spec.

    model       pixels in [low, high] to logits, on the spec's device; put into eval mode and
                given back as it was. An Oracle where spec.access is less than gradient
    attacks     the instances that spec.attacks describes, in the same order
    surrogates  where there are any, attacks search on their ensemble and ask nothing of the model
    preflight   answers that the oracle gave before the run; they count towards spec.queries
    """

    spec: RunSpec
    model: nn.Module
    source: Source
    attacks: Sequence[Attack]
    surrogates: Sequence[nn.Module] = ()
    preflight: int = 0
    threat: Threat = field(init=False)
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.threat = Threat(**self.spec.threat)
        self.device = torch.device(self.spec.device)
        for attack in self.attacks:
            attack.check(
                self.threat, targeted=self.spec.targeted is not None, shape=self.source.shape
            )
        self._oracle = self.model if isinstance(self.model, Oracle) else None
        self._ensemble = Ensemble(self.surrogates)
        self._asking: Asking | None = None
        self._fitted: dict[str, Tensor] = {}
        self.searching = Searching(self.spec, self.model, self._ensemble, self.device)

    def run(self, store: Store) -> Iterator[Event]:
        """Measure every shard that the store does not have yet."""
        everything = order_of(self.source, self.spec.shuffle, self.spec.seed)
        order = everything[: self.spec.limit]
        size = self.spec.batch_size
        starts = range(0, len(order), size)
        done = store.done()
        finished = sum(min(size, len(order) - start) for i, start in enumerate(starts) if i in done)
        labels = tuple(label(attack) for attack in self.attacks)
        yield Started(len(order), finished, len(starts), labels)
        with frozen(self.model), frozen(self._ensemble):
            spoilt = any(isinstance(a, Fitted) for a in self.attacks) and _spoilt(store)
            if spoilt or len(done) < len(starts):
                self.searching.prepare(self.attacks, self.source)
                yield from self._fit_all(store, everything)
            for index, start in enumerate(starts):
                if index in done:
                    continue
                batch = self.source.batch(order[start : start + size])
                with seeded(self.spec.seed, "model", index), self._remembering(store, index):
                    shard = yield from self._measure(index, batch)
                store.write(shard)
                store.forget(f"{index:05d}")
                yield ShardDone(shard)

    @contextlib.contextmanager
    def _remembering(self, store: Store, index: int) -> Iterator[None]:
        """An oracle's answers are remembered for a shard; those from elsewhere are kept on disk."""
        if self._oracle is None:
            yield
            return
        far = isinstance(self._oracle.model, Remote)
        journal = store.journal(f"{index:05d}") if far else None
        try:
            with self._oracle.remembering(journal):
                yield
        finally:
            if journal is not None:
                journal.close()

    def _fit_all(self, store: Store, order: np.ndarray) -> Iterator[Event]:
        """Let the attacks that craft one thing for all samples do so, unless the store has it."""
        there = store.fits()
        for number, attack in enumerate(self.attacks):
            if not isinstance(attack, Fitted):
                continue
            name = label(attack)
            if number not in there:
                ids, held_out = samples_for(attack, order, self.spec.limit)
                victim = self.searching.victim(len(ids), attack)
                yield AttackStarted(-1, f"{name} (crafting)", len(ids), victim.ledger)
                with seeded(self.spec.seed, "model", "fit", number):
                    there[number] = craft(
                        number,
                        attack,
                        ids,
                        victim,
                        self.threat,
                        generator(self.spec.seed, name, "fit"),
                        source=self.source,
                        batch_size=self.spec.batch_size,
                        goal=lambda batch, x, y: self._goal(batch.ids, x, y)[1],
                        held_out=held_out,
                    )
                store.write_fit(there[number])
                seconds = there[number].seconds
                yield AttackDone(-1, f"{name} (crafting)", len(ids), 0, seconds)
            self._fitted[name] = torch.from_numpy(there[number].tensor).to(self.device)

    @property
    def random(self) -> bool:
        """Whether the model, which is no oracle, answers at random."""
        return self._oracle is None and self.spec.checks > 1

    def _goal(self, ids: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Goal]:
        """The model's answers at the clean samples, logits (n, draws, K), and what attacks are to
        reach there.
        """
        if self.random:
            answers = chance.draw(self.model, x, 2 * self.spec.checks)
        else:
            answers = forward(self.model, x).unsqueeze(1)
        logits = chance.settled(answers)
        if self._oracle is None:  # whose answers may be broken for a sample: that one is misjudged
            refuse_bad_answers(answers.sum(1), ids)
        targets = choose_targets(self.spec.targeted, logits, y, ids, self.spec.seed)
        return answers, Goal(y if targets is None else targets, targeted=targets is not None)

    def _measure(self, index: int, batch: Batch) -> Generator[Event, None, Shard]:
        began = time.perf_counter()
        x, y = batch.x.to(self.device), batch.y.to(self.device)
        counts = self._counts()
        answers, goal = self._goal(batch.ids, x, y)
        logits = chance.settled(answers)
        prediction, probability = confidence(self.model, logits)
        attackable = (prediction == y) & ~goal.reached(logits)
        shares: dict[str, np.ndarray] = {}
        if self.random:
            correct = answers.argmax(2) == y.unsqueeze(1)
            prediction, probability = chance.vote(answers, torch.ones_like(correct))
            attackable = correct.any(1) & ~(goal.targeted & (goal.labels == y))
            names = ("trial", "right")
            shares = dict(zip(names, map(array, chance.halves(correct)), strict=True))
        if self._oracle is not None:
            pool = pool_for(self.source, batch.ids.numpy(), x, prediction, goal)
            share = preflight_share(self.spec, self.preflight)
            self._asking = Asking(self._oracle, self.spec, x, pool, share)
        broken_at = torch.full(y.shape, float("inf"), dtype=torch.float64, device=self.device)
        broken_at[prediction != y] = 0
        broken, measured = torch.zeros_like(attackable), torch.zeros_like(attackable)

        found: list[AttackRows] = []
        for attack in self.attacks:
            given = (attackable if self.spec.every else attackable & ~broken).nonzero().squeeze(1)
            result = yield from self._attack(
                index, attack, label(attack), x, goal, given, self.threat
            )
            rows = torch.from_numpy(result.rows).to(self.device)
            done = result.success
            if self.random:  # a lucky candidate is no reason to look no further
                done = np.minimum(result.trial, result.fooled) == 1
            broken[rows[torch.from_numpy(done).to(self.device)]] = True
            found.append(result)
            if attack.measures:
                measured[rows] = True
                broken_at[rows] = torch.minimum(broken_at[rows], _reached_at(result, goal[rows]))
        broken_at[broken] = broken_at[broken].clamp(max=self.threat.eps)
        yield from self._curve(index, x, goal, attackable & ~measured, broken_at)

        kept = sorted({int(row) for result in found for row in result.rows[result.success]})
        asked, repeated, not_finite = self._counts() - counts
        return Shard(
            index=index,
            ids=batch.ids.numpy(),
            labels=batch.y.numpy(),
            targets=array(goal.labels if goal.targeted else -torch.ones_like(y)),
            prediction=array(prediction),
            confidence=array(probability),
            margin=array(goal.margin(logits).double() + 0 * probability),  # NaN without scores
            attackable=array(attackable),
            broken_at=array(broken_at),
            kept=np.array(kept, dtype=np.int64),
            x=array(x[torch.tensor(kept, dtype=torch.int64, device=self.device)].float()),
            seconds=time.perf_counter() - began,
            asked=int(asked),
            repeated=int(repeated),
            not_finite=int(not_finite),
            **shares,
            attacks=found,
        )

    def _counts(self) -> np.ndarray:
        """What an oracle has answered, and how often no question was needed, so far."""
        oracle = self._oracle
        if oracle is None:
            return np.zeros(3, dtype=np.int64)
        return np.array([oracle.asked, oracle.repeated, oracle.not_finite])

    def _attack(
        self,
        index: int,
        attack: Attack,
        name: str,
        x: Tensor,
        goal: Goal,
        rows: Tensor,
        threat: Threat,
    ) -> Generator[Event, None, AttackRows]:
        """One attack on the samples `rows` of a shard: its rows, every candidate verified."""
        progress: Progress | None = None
        searched = torch.arange(len(rows), device=self.device)
        if self._asking is not None:
            searched = self._asking.allowed(rows)
        if self._asking is None or self.surrogates:
            victim = self.searching.victim(len(rows), attack, goal[rows])
        else:
            victim, progress = self._asking.victim(attack, rows, goal[rows])
        x, goal = x[rows], goal[rows]
        yield AttackStarted(index, name, len(rows), victim.ledger)
        began = time.perf_counter()
        x_adv = x.clone()
        if len(searched):
            rng = generator(self.spec.seed, name, index)
            search = attack.search
            if isinstance(attack, Fitted):
                search = partial(attack.apply, self._fitted[name])
            # What fools a surrogate need not fool the model: nothing is solved on the way.
            aim = replace(goal, persist=True) if self.surrogates else goal
            with torch.no_grad(), contextlib.suppress(BudgetSpent):
                part = (victim[searched], x[searched], aim[searched])
                x_adv[searched] = search(*part, threat, rng)
            if progress is not None:
                x_adv = progress.best(x_adv, inside=not attack.minimal)
            if self._asking is not None:
                x_adv = self._asking.as_sent(rows, x_adv)
        if len(searched) < len(rows):
            spent = torch.ones(len(rows), dtype=torch.bool, device=self.device)
            spent[searched] = False
            victim[spent].remark("had no query left for a search")
        seconds = time.perf_counter() - began
        result = verify(
            self.model, name, rows, x, x_adv, goal, threat, victim,
            minimal=attack.minimal,
            image=self.source.image and not is_eight_bit(self.spec),
            checks=self.spec.checks,
            trace=None if progress is None else progress.trace,
        )  # fmt: skip
        result.seconds = seconds
        if self._asking is not None:
            self._asking.charge(rows, result)
        yield AttackDone(index, name, len(rows), int(result.success.sum()), seconds)
        return result

    def _curve(
        self, index: int, x: Tensor, goal: Goal, attackable: Tensor, broken_at: Tensor
    ) -> Iterator[Event]:
        """Fill in broken_at at the further eps of the curve, by a short attack.

        Downwards only what broke at the next larger eps is attacked, upwards only what is left:
        accuracy is monotone in eps, so what is skipped can only make the curve an upper bound.
        """
        eps = self.threat.eps
        gradient = any(given.access == Access.GRADIENT for given in self.attacks)
        if self.surrogates or not (gradient and has_curve(self.threat)):
            return
        attack = parse_attack(CURVE_ATTACK)
        if any(sees_through(given, self.model) for given in self.attacks):
            attack = Adaptive(attack=attack)
        down = sorted((factor for factor in self.spec.curve if factor < 1), reverse=True)
        up = sorted(factor for factor in self.spec.curve if factor > 1)
        reached = eps
        for factor in [*down, *up]:
            left = attackable & (broken_at == reached if factor < 1 else broken_at.isinf())
            rows, reached = left.nonzero().squeeze(1), factor * eps
            result = yield from self._attack(
                index,
                attack,
                f"curve at {factor:g} eps",
                x,
                goal,
                rows,
                replace(self.threat, eps=reached),
            )
            success = torch.from_numpy(result.success).to(self.device)
            broken_at[rows[success]] = reached


def _spoilt(store: Store) -> bool:
    """Whether something that was crafted is there and damaged; shards that are done do without."""
    store.fits()
    return any(file.startswith("fitted/") for file in store.damage)


def order_of(source: Source, shuffle: bool, seed: int) -> np.ndarray:
    """The ids of the data in the order in which a run takes them."""
    ids: np.ndarray = source.ids
    if shuffle:
        ids = ids[torch.randperm(len(ids), generator=generator(seed, "order")).numpy()]
    return ids


def has_curve(threat: Threat) -> bool:
    """Whether accuracy at multiples of eps can be measured by the short attack for it."""
    return threat.eps > 0 and threat.norm in parse_attack(CURVE_ATTACK).norms


def _reached_at(result: AttackRows, goal: Goal) -> Tensor:
    """The distance at which each candidate reached its goal, float64 (k,); inf where it did not."""
    reached = (result.fooled >= 0.5) & (result.refused == 0)
    return torch.from_numpy(np.where(reached, result.distance, np.inf)).to(goal.labels.device)
