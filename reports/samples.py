"""A run as a table: CSV (RFC 4180, UTF-8), one line a sample."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.core.outcome import AttackRows, Ints, Shard

if TYPE_CHECKING:
    from .summary import Report

COLUMNS = (
    *("id", "label", "label_name", "target", "prediction", "prediction_name", "confidence"),
    *("margin", "right", "robust", "radius", "broken_by", "adv_prediction", "adv_prediction_name"),
    *("adv_confidence", "adv_margin", "distance", "survives_8bit"),
    *("forwards", "backwards", "queries"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def lines(report: "Report", shards: Iterable[Shard]) -> Iterator[str]:
    """The table, a head and one line a sample, each ending in a newline.

    report      of these shards; they are read once more, one at a time, without their pixels if
                the store can leave these out, so that memory does not grow with the run

    id              position of the sample in its data set
    label, prediction, target       numbers of classes, with their names where there are any;
                    target is empty where any wrong class counts
    confidence      probability of the predicted class; margin: goal margin in logits, above 0
                    where an attacker has what he wants already. Empty where the model gives no
                    scores
    right           1 where the clean sample is right, else 0; of a random model a share of draws
    robust          the same under all attacks
    radius          smallest eps known to break it, in the units of the data: 0 where it is wrong
                    unaltered, empty where nothing broke it
    broken_by       the first attack that broke it (of a random model, the one whose example fools
                    it most often), and of its example: adv_prediction, adv_confidence, adv_margin,
                    distance in the norm of the threat, survives_8bit (1, 0; empty: not asked)
    forwards, backwards, queries    what all attacks spent on it
    attack LABEL    one column for each attack: 1 broken, 0 withstood, empty: not given to it

    A name that a spreadsheet would take for a formula has an apostrophe before it.
    Raises ValueError where the shards are not those of the report.
    """
    names = [str(attack["label"]) for attack in report.attacks]
    yield _line([*COLUMNS, *(f"attack {name}" for name in names)])
    start = 0
    for shard in shards:
        stop = start + len(shard)
        if not np.array_equal(report.columns.ids[start:stop], shard.ids):
            raise ValueError(f"shard {shard.index} is not one that the report was made of")
        yield from _rows(report, shard, names, start)
        start = stop


def _rows(report: "Report", shard: Shard, names: list[str], start: int) -> Iterator[str]:
    columns, by_label = report.columns, {rows.label: rows for rows in shard.attacks}
    order = [by_label.get(name) for name in names]
    places = [None if rows is None else _places(rows, len(shard)) for rows in order]
    spent = _spent(order, len(shard))
    for i in range(len(shard)):
        at = start + i
        first = int(columns.first[at])
        yield _line(
            [
                int(shard.ids[i]),
                *_class(report, shard.labels[i]),
                int(shard.targets[i]) if shard.targets[i] >= 0 else "",
                *_class(report, shard.prediction[i]),
                _number(shard.confidence[i]),
                _number(shard.margin[i]),
                _number(columns.right[at]),
                _number(report.withstood[at]) if report.tallies else "",
                _number(report.radius[at]),
                *_example(report, order, places, first, i),
                *spent[:, i].tolist(),
                *("" if broke < 0 else int(broke) for broke in columns.broke[at].tolist()),
            ]
        )


def _places(rows: AttackRows, n: int) -> Ints:
    """For each sample of a shard its place among the rows of an attack, −1 where it has none."""
    places = np.full(n, -1, dtype=np.int64)
    places[rows.rows] = np.arange(len(rows.rows))
    return places


def _spent(order: list[AttackRows | None], n: int) -> Ints:
    """Forwards, backwards and queries of each sample, over all attacks: (3, n)."""
    spent = np.zeros((3, n), dtype=np.int64)
    for rows in order:
        if rows is not None:
            spent[:, rows.rows] += np.stack([rows.forwards, rows.backwards, rows.queries])
    return spent


def _example(
    report: "Report",
    order: list[AttackRows | None],
    places: list[Ints | None],
    first: int,
    i: int,
) -> list[Any]:
    """What broke a sample, and the example with which it did."""
    rows, its = (order[first], places[first]) if first >= 0 else (None, None)
    if rows is None or its is None:
        return [""] * 7
    k = its[i]
    survives = int(rows.survives_8bit[k])
    return [
        _text(rows.label),
        *_class(report, rows.prediction[k]),
        _number(rows.confidence[k]),
        _number(rows.margin[k]),
        _number(rows.distance[k]),
        survives if survives >= 0 else "",
    ]


def _class(report: "Report", number: Any) -> tuple[int, str]:
    return int(number), _text(report.classes[int(number)])


def _number(value: Any) -> str:
    return f"{float(value):.9g}" if math.isfinite(value) else ""


def _text(name: str) -> str:
    return f"'{name}" if name.startswith(_FORMULA) else name


def _line(cells: Iterable[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(list(cells))
    return buffer.getvalue()
