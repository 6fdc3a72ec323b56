"""Reports of every kind of attack run, made by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
from probe_facts import made, reference
from synthetic import asked, rows, run, shard, staged, ten

from robust.core.outcome import Shard
from robust.reports.summary import Report

HOSTILE = "<script>alert(1)</script>`|\n@team =cmd()"
BIT_DEPTH = {
    **{"name": "bit-depth", "params": {"bits": 3}, "label": "bit-depth,bits=3"},
    **{"family": "denoising", "paper": "1711.00117", "claims": "noise is rounded away"},
    "broken_by": "BPDA (1802.00420)",
}


def defended_record(**spec: Any) -> dict[str, Any]:
    """A run naive and adaptive on a model behind one defense."""
    record = run(["a0", "a1"], n=8, **spec)
    for attack, known in zip(record["spec"]["attacks"], (False, True), strict=True):
        attack["adaptive"] = known
    record["spec"]["model"] |= {"defenses": [BIT_DEPTH], "draws": 1, "guessed": False}
    return {**record, "defenses": [BIT_DEPTH]}


def defended_shard() -> Shard:
    return shard(
        [0] * 8, [0] * 7 + [1], [rows("a0", range(7), {0: 1}), rows("a1", range(7), {1: 1})]
    )


def random_shard() -> Shard:
    """Eight samples of which draws are right by shares, and candidates fool by shares."""
    found = defended_shard()
    found.right, found.trial = np.linspace(0.3, 1, 8), np.linspace(0.3, 1, 8)
    for attack in found.attacks:
        attack.fooled = attack.trial = np.linspace(0.9, 0, 7)
    return found


def hostile() -> tuple[dict[str, Any], list[Shard]]:
    """Names that would be markup, a formula or a table's cell, were they not held to be text."""
    record = run(["first", "second"], n=10, classes=[HOSTILE, "=1+1"])
    record["spec"]["model"]["path"] = HOSTILE
    record["spec"]["data"]["source"] = HOSTILE
    return record, [ten()]


def damaged() -> tuple[dict[str, Any], list[Shard]]:
    record = run(n=30)
    return {**record, "damage": {"shards/00001.h5": "it is empty"}}, [ten()]


def fitted() -> tuple[dict[str, Any], list[Shard]]:
    numbers = {"forwards": 5, "backwards": 4, "queries": 0, "seconds": 0.5}
    fit = {"number": 0, "samples": 9, "held_out": True, **numbers}
    return {**run(n=10), "fits": [fit]}, [ten()]


def measuring() -> tuple[dict[str, Any], list[Shard]]:
    record = run(n=10)
    record["spec"]["attacks"][1] |= {"measures": True, "minimal": True}
    return record, [ten()]


def _asked(access: str) -> tuple[dict[str, Any], list[Shard]]:
    record, its = asked(access)
    return record, [its]


# Of each kind the record and the shards.
RUNS: dict[str, Callable[[], tuple[dict[str, Any], list[Shard]]]] = {
    "plain": lambda: (run(n=10, curve=[0.5, 2.0]), [ten()]),
    "every": lambda: (run(n=10, every=True), [ten()]),
    "two shards": lambda: (run(n=20), [ten(), _moved(ten())]),
    "stages": lambda: (run(n=10), [staged()]),
    "measuring": measuring,
    "fitted": fitted,
    "labels": lambda: _asked("labels"),
    "scores": lambda: _asked("scores"),
    "defended": lambda: (defended_record(), [defended_shard()]),
    "random": lambda: (defended_record(draws=20, checks=20), [random_shard()]),
    "targeted": lambda: (
        run(["first"], n=4, targeted="next"),
        [
            shard(
                [0, 1, 0, 1], [0, 1, 0, 1], [rows("first", range(4), {0: 1})], targets=[1, 0, 1, 1]
            )
        ],
    ),
    "incomplete": lambda: ({**run(n=100), "status": "interrupted"}, [ten()]),
    "damaged": damaged,
    "no attacks": lambda: (run([], n=4), [shard([0, 1, 0, 1], [0, 1, 1, 1], [])]),
    "nothing": lambda: ({**run(n=10), "status": "running"}, []),
    "hostile": hostile,
}


def _moved(found: Shard) -> Shard:
    found.index, found.ids = 1, found.ids + 10
    return found


def kinds() -> dict[str, Report]:
    """A report of each kind, and one of a run that was diagnosed."""
    found = {name: Report(*make()) for name, make in RUNS.items()}
    return {**found, "diagnosed": made({"reference": reference()})}
