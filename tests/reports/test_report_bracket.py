"""Certified and robust accuracy of the same samples, and when they bound each other."""

import json
from typing import Any

import numpy as np
import pytest
from synthetic import rows, run, shard

from robust.reports.bracket import Bracket
from robust.reports.certification import Certificates
from robust.reports.rates import wilson
from robust.reports.summary import Report


def attacked(defenses: list[dict[str, Any]] | None = None, **spec: Any) -> Report:
    """Six samples, ids 0 to 5: 0 misclassified, 1 broken at 0.1, 2 at 0.2, the others robust."""
    labels = [0] * 6
    given = shard(
        labels,
        [1, *labels[1:]],
        [rows("first", range(1, 6), {1: 1, 2: 1})],
        eps=0.2,
        broken_at=[0, 0.1, 0.2, np.inf, np.inf, np.inf],
    )
    record = run(["first"], n=6, eps=0.2, norm="l2", curve=[0.5], **spec)
    record["spec"]["model"]["defenses"] = defenses or []
    return Report(record, [given])


def certified(radii: dict[int, float], wrong: tuple[int, ...] = (), **spec: Any) -> Certificates:
    record = {
        "schema_version": 1,
        "kind": "certify",
        "status": "done",
        "spec_hash": "0",
        "spec": {
            "model": {"sha256": "ab" * 32},
            "data": {"fingerprint": "cd" * 32, "n": 6, "low": 0.0, "high": 1.0},
            **{"sigma": 0.25, "n0": 100, "n": 1000, "alpha": 0.001, "limit": None, "seed": 0},
            **spec,
        },
    }
    found = [
        {"id": i, "label": 0, "bare": 0, "prediction": int(i in wrong), "radius": r, "seconds": 1.0}
        for i, r in radii.items()
    ]
    return Certificates(record, found)


SMOOTHING = [{"name": "smoothing", "params": {"sigma": 0.25, "votes": 25}}]


def test_only_samples_in_common_count_matched_by_id() -> None:
    # In another order, of which 7 was never attacked, and 5 never certified.
    proofs = certified({4: 0.3, 7: 9.0, 3: 0.15, 2: 0.05, 1: 0.0, 0: 0.4}, wrong=(0,))
    found = Bracket(attacked(SMOOTHING), proofs)
    assert (found.why, found.n, found.same) == ("", 5, True)
    assert (found.certified, found.robust) == (1 / 5, 2 / 5)
    assert found.certified_ci == wilson(1, 5)
    assert found.robust_ci == wilson(2, 5)
    told = [(row["eps"], row["certified"], row["robust"]) for row in found.rows]
    assert told == [(0, 4 / 5, 4 / 5), (0.1, 2 / 5, 3 / 5), (0.2, 1 / 5, 2 / 5)]
    assert "lies between 20" in found.words
    assert found.beyond == 0
    record = found.to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["same_model"] is True
    assert "certified 20" in found.chart


def test_two_models_do_not_bound_each_other() -> None:
    proofs = certified(dict.fromkeys(range(6), 0.3))
    assert not Bracket(attacked(), proofs).same
    assert "Two models" in Bracket(attacked(), proofs).words
    other = [{"name": "smoothing", "params": {"sigma": 0.5}}]
    assert not Bracket(attacked(other), proofs).same
    behind = [*SMOOTHING, {"name": "kwta", "params": {}}]
    assert "the network with its defenses" in Bracket(attacked(behind), proofs).words
    # Noise is a share of the range for a defense, and in the units of the data for a certificate.
    wide = attacked(SMOOTHING)
    wide.threat["high"] = 2.0
    assert not Bracket(wide, proofs).same
    assert Bracket(wide, certified({1: 0.3}, sigma=0.5)).same


def test_what_broke_within_its_certificate_is_counted() -> None:
    found = Bracket(attacked(SMOOTHING), certified({1: 0.15, 2: 0.15, 3: 5.0, 0: 5.0}))
    assert found.beyond == 1  # 1 broke at 0.1; 2 at 0.2 alone, and 0 was wrong from the start
    assert "1 sample broke nearer than their certificate allows" in found.words


@pytest.mark.parametrize(
    ("report", "certificates", "why"),
    [
        (Report(run(["first"], norm="linf"), []), certified({1: 0.1}), "bounded in L∞"),
        (attacked(), certified({1: 0.1}, model={"sha256": "ef"}), "another model"),
        (attacked(), certified({1: 0.1}, data={"fingerprint": "", "n": 6}), "other data"),
        (attacked(), certified({9: 0.1}), "No sample"),
        (Report(run([], norm="l2"), [shard([0], [0], [])]), certified({0: 0.1}), "No attack ran"),
    ],
)
def test_what_cannot_be_compared_is_not(
    report: Report, certificates: Certificates, why: str
) -> None:
    found = Bracket(report, certificates)
    assert why in found.why
    assert why in found.words
    assert (found.certified, found.robust, found.rows, found.chart) == (None, None, [], "")
    record = found.to_json()
    assert record["certified"] is None
    assert record["same_model"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_no_certificates_no_bracket() -> None:
    assert Bracket.of(attacked(), None) is None
    assert isinstance(Bracket.of(attacked(), certified({1: 0.1})), Bracket)


def test_a_random_model_counts_by_shares() -> None:
    report = attacked(SMOOTHING, checks=4)
    report.columns.right[:] = [0.25, 1, 1, 1, 1, 1]
    report.columns.left[:] = [0, 0.25, 0.5, 1, 1, 1]
    found = Bracket(report, certified(dict.fromkeys(range(6), 0.3), wrong=(0,)))
    assert [row["eps"] for row in found.rows] == [0, 0.2]
    assert found.robust == 3.75 / 6
    assert found.rows[0]["robust"] == 5.25 / 6


def test_a_long_curve_makes_a_short_table() -> None:
    report = attacked()
    report.curve = [(k / 100, 0.5) for k in range(40)]
    rows_of = Bracket(report, certified({1: 0.1})).rows
    assert len(rows_of) <= 13
    assert report.eps in [row["eps"] for row in rows_of]
