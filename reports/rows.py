"""Shards → small per-sample columns and a few examples: all that a report keeps in memory."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.core.outcome import REFUSALS, AttackRows, Bools, Floats, Ints, Shard

from .gallery import Gallery
from .queries import Economy, counts


@dataclass
class Stage:
    """A stage of an attack: how many samples came into it, and how many it broke."""

    given: int = 0
    broken: int = 0


@dataclass
class Tally:
    """Sums over the shards for one attack.

    alone    correct samples that this attack did not break
    left     correct samples that neither this attack nor those before it broke
    survive  successes that still stand after rounding to 8 bits, of `rounded` that were asked
    fooled   sum over the successes that were checked again, `checked` of them, of the share of
             these checks that they passed
    shares   the same sum over all samples that it was given
    reached  of each sample that it was given, the distance at which the goal was reached, be it
             outside the ball; inf where it was not

    Of a random model samples count by shares: see `Shard.withstood`.
    """

    economy: Economy
    given: int = 0
    successes: int = 0
    alone: float = 0
    left: float = 0
    survive: int = 0
    rounded: int = 0
    forwards: int = 0
    backwards: int = 0
    queries: int = 0
    seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    stages: dict[str, Stage] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)
    fooled: float = 0.0
    checked: int = 0
    shares: float = 0.0
    reached: list[Floats] = field(default_factory=list)

    def add(self, rows: AttackRows) -> None:
        self.given += len(rows.rows)
        self.successes += int(rows.success.sum())
        self.survive += int((rows.survives_8bit == 1).sum())
        self.rounded += int((rows.survives_8bit >= 0).sum())
        self.forwards += int(rows.forwards.sum())
        self.backwards += int(rows.backwards.sum())
        self.queries += int(rows.queries.sum())
        self.seconds += float(rows.seconds)
        self.refused.update(REFUSALS[code] for code in rows.refused[rows.refused > 0].tolist())
        self.economy.add(rows)
        self.reached.append(_reached(rows))
        if len(rows.fooled):
            self.fooled += float(rows.fooled[rows.success].sum())
            self.checked += int(rows.success.sum())
            self.shares += float(rows.fooled.sum())
        self._add_stages(rows)
        for text, said in zip(rows.remarks.splitlines(), rows.remarked.T, strict=True):
            self.remarks[text] += int(said.sum())

    def _add_stages(self, rows: AttackRows) -> None:
        """A sample is broken by the last stage that it came into."""
        names = rows.stages.splitlines()
        if not names:
            return
        last = len(names) - 1 - rows.entered[:, ::-1].argmax(1)
        by = np.bincount(last[rows.success & rows.entered.any(1)], minlength=len(names))
        for name, given, broken in zip(names, rows.entered.sum(0), by, strict=True):
            stage = self.stages.setdefault(name, Stage())
            stage.given += int(given)
            stage.broken += int(broken)


@dataclass
class Columns:
    """Arrays of length n over all samples read, in the order of the shards.

    first           index of the first attack that broke the sample, −1 where none did
    adv_prediction  what that attack turned the sample into, −1 where none did
    survives_8bit   of that attack's example: 1 yes, 0 no, −1 not asked
    right           1 where the sample is right, else 0; of a random model the share of draws
    left, naive     the same under all attacks, and under those that do not see through defenses
    worst           the highest goal margin shown at the clean sample or a candidate inside the ball
    broke           (n, attacks): 1 the attack broke the sample, 0 it failed, −1 it was not given it
    The other names are those of Shard.
    """

    ids: Ints
    labels: Ints
    targets: Ints
    prediction: Ints
    broken_at: Floats
    first: Ints
    adv_prediction: Ints
    survives_8bit: Ints
    right: Floats
    left: Floats
    naive: Floats
    margin: Floats
    worst: Floats
    broke: NDArray[np.int8]

    @property
    def correct(self) -> Bools:
        correct: Bools = self.prediction == self.labels
        return correct


@dataclass
class Whole:
    """Sums over the shards, whatever the attack: see the names in Shard."""

    seconds: float = 0.0
    asked: int = 0
    repeated: int = 0
    not_finite: int = 0

    def add(self, shard: Shard) -> None:
        self.seconds += float(shard.seconds)
        self.asked += int(shard.asked)
        self.repeated += int(shard.repeated)
        self.not_finite += int(shard.not_finite)


def consume(
    shards: Iterable[Shard], spec: dict[str, Any]
) -> tuple[Columns, list[Tally], Gallery, Whole]:
    """Read the shards of a run with that spec, one at a time.

    Returns columns, one tally per attack in cascade order, examples, and sums over all shards.
    """
    attacks: list[dict[str, Any]] = spec["attacks"]
    labels = [attack.get("label") or attack["name"] for attack in attacks]
    eps, most = float(spec["threat"]["eps"]), spec.get("queries")
    aware = [bool(attack.get("adaptive")) for attack in attacks]
    tallies = [Tally(Economy(eps, counts(attack, most))) for attack in attacks]
    gallery = Gallery()
    parts: list[Columns] = []
    whole = Whole()
    for shard in shards:
        by_label = {rows.label: rows for rows in shard.attacks}
        if unknown := set(by_label) - set(labels):
            raise ValueError(f"shard {shard.index} holds attacks the run never asked: {unknown}")
        order = [by_label.get(label) for label in labels]
        part = _columns(shard, order, tallies, aware, eps)
        gallery.offer(shard, part.first, order)
        parts.append(part)
        whole.add(shard)
    parts = parts or [_nothing(len(attacks))]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    columns = Columns(**{column.name: joined(column.name) for column in fields(Columns)})
    return columns, tallies, gallery, whole


def _nothing(attacks: int) -> Columns:
    """The columns of no sample."""
    whole = ("ids", "labels", "targets", "prediction", "first", "adv_prediction", "survives_8bit")
    columns: dict[str, Any] = {column.name: np.zeros(0) for column in fields(Columns)}
    columns |= {name: np.zeros(0, np.int64) for name in whole}
    return Columns(**columns | {"broke": np.zeros((0, attacks), np.int8)})


def _reached(rows: AttackRows) -> Floats:
    """The distance at which each candidate reached the goal; inf where it did not."""
    hit = rows.fooled >= 0.5 if len(rows.fooled) else rows.success | (rows.margin > 0)
    return np.where(hit & (rows.refused == 0), rows.distance, np.inf)


def _columns(
    shard: Shard,
    order: list[AttackRows | None],
    tallies: list[Tally],
    aware: list[bool],
    eps: float,
) -> Columns:
    worst = shard.margin.astype(np.float64)
    broke = np.full((len(shard), len(order)), -1, dtype=np.int8)
    first, adv_prediction, survives = np.full((3, len(shard)), -1, dtype=np.int64)
    most = np.zeros(len(shard))
    for a, (rows, tally) in enumerate(zip(order, tallies, strict=True)):
        before = [one for one in order[: a + 1] if one is not None]
        tally.left += float(shard.withstood(before).sum())
        tally.alone += float(shard.withstood(before[-1:] if rows is not None else []).sum())
        if rows is None:
            continue
        tally.add(rows)
        broke[rows.rows, a] = rows.success
        inside = (rows.refused == 0) & (rows.distance <= eps * (1 + 1e-9))
        at = rows.rows[inside]
        worst[at] = np.fmax(worst[at], rows.margin[inside])
        hit = rows.rows[rows.success]
        wins = (rows.trial if shard.random else np.ones(len(rows.rows)))[rows.success]
        new = wins > most[hit]
        most[hit[new]], first[hit[new]] = wins[new], a
        adv_prediction[hit[new]] = rows.prediction[rows.success][new]
        survives[hit[new]] = rows.survives_8bit[rows.success][new]
    there = [(rows, known) for rows, known in zip(order, aware, strict=True) if rows is not None]
    return Columns(
        ids=shard.ids.copy(),
        labels=shard.labels.copy(),
        targets=shard.targets.copy(),
        prediction=shard.prediction.copy(),
        broken_at=shard.broken_at.copy(),
        first=first,
        adv_prediction=adv_prediction,
        survives_8bit=survives,
        right=shard.withstood([]),
        left=shard.withstood([rows for rows, _ in there]),
        naive=shard.withstood([rows for rows, known in there if not known]),
        margin=shard.margin.astype(np.float64),
        worst=worst,
        broke=broke,
    )
