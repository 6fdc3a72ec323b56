"""A few broken samples with their adversarial examples, of however many a run holds."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from robust.core.outcome import AttackRows, Ints, Pixels, Shard

GALLERY = 150
GALLERY_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Example:
    """One broken sample, by the first attack that broke it; x and x_adv are copies.

    The confidences are NaN where the model gave labels alone; fooled is the share of repeated
    checks in which the example fooled it, None where it was not checked again. Of a random model
    the attack is the one whose example fools it most often.
    """

    id: int
    label: int
    target: int
    prediction: int
    confidence: float
    attack: str
    adv_prediction: int
    adv_confidence: float
    distance: float
    x: Pixels
    x_adv: Pixels
    fooled: float | None = None


class Gallery:
    """At most 150 examples and 64 MiB, spread over classes and attacks; whatever the run's size."""

    def __init__(self) -> None:
        self._kept: list[Example] = []
        self._per_kind: Counter[tuple[int, str]] = Counter()

    def offer(self, shard: Shard, first: Ints, order: list[AttackRows | None]) -> None:
        """Take what is needed of the shard's broken samples; `first` indexes into `order`."""
        kept = {int(position): i for i, position in enumerate(shard.kept)}
        places = {
            a: {int(row): i for i, row in enumerate(rows.rows)}
            for a, rows in enumerate(order)
            if rows is not None
        }
        for position in np.flatnonzero(first >= 0).tolist():
            rows = order[first[position]]
            if rows is None or position not in kept:
                continue
            x = shard.x[kept[position]]
            if not self._wants((int(shard.labels[position]), rows.label), 2 * x.nbytes):
                continue
            at = places[int(first[position])][position]
            self._kept.append(
                Example(
                    id=int(shard.ids[position]),
                    label=int(shard.labels[position]),
                    target=int(shard.targets[position]),
                    prediction=int(shard.prediction[position]),
                    confidence=float(shard.confidence[position]),
                    attack=rows.label,
                    adv_prediction=int(rows.prediction[at]),
                    adv_confidence=float(rows.confidence[at]),
                    distance=float(rows.distance[at]),
                    x=x.copy(),
                    x_adv=rows.x_adv[int(rows.success[:at].sum())].copy(),
                    fooled=float(rows.fooled[at]) if len(rows.fooled) else None,
                )
            )
            self._per_kind[int(shard.labels[position]), rows.label] += 1

    def _wants(self, kind: tuple[int, str], nbytes: int) -> bool:
        """Whether to take one more of this class and attack; makes room among the most if so."""
        if len(self._kept) < max(1, min(GALLERY, GALLERY_BYTES // max(nbytes, 1))):
            return True
        richest, most = self._per_kind.most_common(1)[0]
        if self._per_kind[kind] + 1 >= most:
            return False
        last = max(i for i, e in enumerate(self._kept) if (e.label, e.attack) == richest)
        del self._kept[last]
        self._per_kind[richest] -= 1
        return True

    def __iter__(self) -> Iterator[Example]:
        return iter(sorted(self._kept, key=lambda example: (example.label, example.id)))

    def __len__(self) -> int:
        return len(self._kept)
