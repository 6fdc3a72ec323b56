"""Runs made by hand: shards with known figures, and the records around them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robust.core.outcome import AttackRows, Shard


def rows(
    label: str,
    given: Sequence[int],
    hits: dict[int, int],
    shape: tuple[int, ...] = (1, 4, 4),
    *,
    cost: int = 10,
    x_adv: np.ndarray | None = None,
    **columns: Any,
) -> AttackRows:
    """An attack on the rows `given`, that turned row r into class c for each {r: c} of `hits`.

    The sample at place i of `given` costs cost + i queries, twice that in forwards.
    """
    k = len(given)
    success = np.array([r in hits for r in given], dtype=bool)
    queries = cost + np.arange(k, dtype=np.int64)
    made = np.full((len(hits), *shape), 0.75, dtype=np.float32)
    values: dict[str, Any] = {
        "label": label,
        "rows": np.array(given, dtype=np.int64),
        "success": success,
        "prediction": np.array([hits.get(r, 0) for r in given], dtype=np.int64),
        "confidence": np.full(k, 0.8),
        "distance": np.full(k, 0.1),
        "margin": np.where(success, 0.5, -0.5),
        "survives_8bit": np.where(success, 1, -1),
        "forwards": 2 * queries,
        "backwards": queries - 1,
        "queries": queries,
        "refused": np.zeros(k, dtype=np.int64),
        "x_adv": made if x_adv is None else x_adv,
        "seconds": 1.5,
    }
    return AttackRows(**{**values, **columns})


def shard(
    labels: Sequence[int],
    prediction: Sequence[int],
    attacks: list[AttackRows],
    *,
    eps: float = 0.1,
    index: int = 0,
    shape: tuple[int, ...] = (1, 4, 4),
    broken_at: Sequence[float] | None = None,
    targets: Sequence[int] | None = None,
    x: np.ndarray | None = None,
) -> Shard:
    """A shard of len(labels) samples; what the attacks broke breaks at eps unless said."""
    n = len(labels)
    y, p = np.array(labels, dtype=np.int64), np.array(prediction, dtype=np.int64)
    t = np.full(n, -1, dtype=np.int64) if targets is None else np.array(targets, dtype=np.int64)
    hit = np.zeros(n, dtype=bool)
    for attack in attacks:
        hit[attack.rows[attack.success]] = True
    found = np.where(p != y, 0.0, np.where(hit, eps, np.inf))
    kept = np.flatnonzero(hit)
    return Shard(
        index=index,
        ids=np.arange(n, dtype=np.int64) + 1000 * index,
        labels=y,
        targets=t,
        prediction=p,
        confidence=np.full(n, 0.9),
        margin=np.full(n, -1.0),
        attackable=(p == y) & (t != y),
        broken_at=found if broken_at is None else np.array(broken_at, dtype=np.float64),
        kept=kept,
        x=np.full((len(kept), *shape), 0.65, dtype=np.float32) if x is None else x[kept],
        attacks=attacks,
    )


def run(
    attacks: Sequence[str] = ("first", "second"),
    *,
    eps: float = 0.1,
    norm: str = "linf",
    n: int | None = None,
    classes: Sequence[str] | None = None,
    low: float = 0.0,
    high: float = 1.0,
    image: bool = True,
    **spec: Any,
) -> dict[str, Any]:
    """A run.json record."""
    return {
        "schema_version": 1,
        "kind": "attack",
        "spec": {
            "model": {"path": "models/m.pt", "kind": "checkpoint", "sha256": "ab" * 32},
            "data": {
                "source": "digits",
                "fingerprint": "cd" * 32,
                "n": n,
                "image": image,
                "classes": None if classes is None else list(classes),
            },
            "threat": {"norm": norm, "eps": eps, "low": low, "high": high},
            "attacks": [
                {"name": a, "label": a, "params": {"steps": 40}, "access": "gradient"}
                for a in attacks
            ],
            "batch_size": 8,
            "limit": None,
            "targeted": None,
            "every": False,
            "curve": [],
            "seed": 7,
            "device": "cpu",
            **spec,
        },
        "status": "done",
        "argv": ["robust", "attack", "--model", "models/m.pt"],
        "created": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
        "versions": {"robust": "0.1.0", "torch": "2.13.0"},
    }


def ten() -> Shard:
    """Ten samples, two classes: 0 1 misclassified, 2 3 4 5 broken, 6 7 8 9 robust.

    `first` is given all eight correct ones and breaks 2, 3, 4; `second` the other five, breaks 5.
    """
    labels = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    prediction = [1, 0, *labels[2:]]
    return shard(
        labels,
        prediction,
        [
            rows("first", range(2, 10), {2: 1, 3: 0, 4: 1}),
            rows("second", range(5, 10), {5: 0}, cost=100),
        ],
        broken_at=[0, 0, 0.05, 0.1, 0.1, 0.1, np.inf, np.inf, np.inf, 0.2],
    )


def staged() -> Shard:
    """Ten samples again; `first` went through two stages, and had something to say."""
    given = ten()
    asked = given.attacks[0]  # eight samples, of which it breaks those at places 0, 1 and 2
    asked.stages = "descent\nrestarts"
    asked.entered = np.array([[True, i not in (0, 5)] for i in range(8)])
    asked.remarks = "were hopeless"
    asked.remarked = np.array([[i > 5] for i in range(8)])
    return given


def asked(
    access: str = "labels", attacks: Sequence[str] = ("near", "first"), **spec: Any
) -> tuple[dict[str, Any], Shard]:
    """A run against an oracle, its six samples all correct, at eps 0.1, and its one shard.

    `near` looks for the smallest distance on samples 0 to 4, 100 queries each, and finds 0 and 1
    at 20 and 50 queries; 2 comes no nearer than 0.5, 3 finds nothing, and the answers that broke 4
    were not followed. `first` breaks one of 2, 3 and 5 at the seventh of at most 30 queries.
    """
    trace = [(1, 2, 0.3), (0, 4, 0.4), (2, 8, 0.5), (0, 10, 0.2), (0, 20, 0.08), (1, 50, 0.1)]
    places, queries, distance = (np.array(column) for column in zip(*trace, strict=True))
    unknown = {"confidence": np.full(5, np.nan), "margin": np.full(5, np.nan)}
    near = rows(
        "near",
        range(5),
        {0: 1, 1: 2, 4: 0},
        queries=np.full(5, 100),
        fooled=np.array([1.0, 0.75, 0.25, 0.0, 0.5]),
        **{
            **(unknown if access == "labels" else {}),
            **{"trace_rows": places, "trace_queries": queries, "trace_distance": distance},
        },
    )
    first = rows(
        "first",
        [2, 3, 5],
        {3: 1},
        queries=np.array([30, 7, 30]),
        trace_rows=np.array([1]),
        trace_queries=np.array([7]),
        trace_distance=np.array([0.1]),
    )
    labels = [0, 1, 2, 0, 1, 2]
    given = shard(labels, labels, [near, first])
    if access == "labels":
        given.confidence[:] = first.confidence[:] = np.nan
        given.margin[:] = first.margin[:] = np.nan
    given.asked, given.repeated = 600, 40  # 567 by the attacks
    record = run(attacks, n=6, access=access, **spec)
    for attack, queries_of in zip(record["spec"]["attacks"], (100, 30), strict=True):
        attack |= {"access": access, "params": {"queries": queries_of}}
    record["spec"]["model"] |= {"path": "https://models.example/v1", "kind": "service"}
    for attack in record["spec"]["attacks"]:
        attack["minimal"] = attack["name"] == "near"
    record["preflight"] = {"asked": 24}
    return record, given
