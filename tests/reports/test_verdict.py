"""Checks → one verdict."""

from dataclasses import replace

import pytest
from synthetic import rows, run, shard

from robust.reports.checks import Check, judge, not_applicable
from robust.reports.checks.verdict import GROUPS, modules, of
from robust.reports.summary import Report

FINE = Check(
    "second-opinion", "convergence", "Another attack", "passed", "0 of 9", "It found no more."
)
GRAVE = replace(FINE, key="unbounded", status="failed", weight="broken", meaning="It is too high.")
SLIGHT = replace(FINE, key="larger-eps", status="failed", weight="doubtful", meaning="It may be.")
QUIET = replace(FINE, key="softmax", status="failed", meaning="Only a remark.")
MASKS = replace(FINE, key="zero-gradients", masking=True)


def report(left=8, diagnosis=None, guessed=False):
    """Ten samples, of which so many are left."""
    hits = dict.fromkeys(range(left, 10), 1)
    record = run(["pgd"])
    record["spec"]["model"]["guessed"] = guessed
    record |= {"diagnosis": diagnosis or {}, "diagnose": "subset"}
    if guessed:
        record["defenses"] = [{"name": "own.py:f", "params": {}}]
    return Report(record, [shard([0] * 10, [0] * 10, [rows("pgd", range(10), hits)])])


def verdict(*checks, **facts):
    return judge(report(**facts), checks)


def test_nothing_to_look_at_gives_no_verdict():
    assert verdict() is None
    assert verdict(not_applicable("softmax", "autoattack", "Outputs", "It only answers.")) is None


def test_the_gravest_failure_decides_and_comes_first():
    assert verdict(FINE).status == "trustworthy"
    assert verdict(FINE, QUIET).status == "trustworthy"
    assert verdict(FINE, SLIGHT).status == "doubtful"
    found = verdict(SLIGHT, FINE, GRAVE)
    assert found.status == "broken"
    assert found.reasons == [
        "Another attack (0 of 9): It is too high.",
        "Another attack (0 of 9): It may be.",
    ]


def test_what_passed_speaks_for_it():
    other = replace(FINE, key="binarisation", title="A solvable problem", figure="")
    assert verdict(other, FINE).reasons == [
        "Another attack (0 of 9): It found no more.",
        "A solvable problem: It found no more.",
    ]
    assert verdict(replace(FINE, key="softmax")).reasons == ["No check speaks against it."]


def test_masked_is_what_failed_of_the_checks_that_tell():
    assert verdict(FINE, GRAVE).masked is None
    assert verdict(MASKS).masked is False
    assert verdict(replace(MASKS, status="failed")).masked is True


@pytest.mark.parametrize(("left", "status"), [(8, "doubtful"), (0, "trustworthy")])
def test_a_masked_model_is_doubtful_where_much_is_left(left, status):
    found = verdict(replace(MASKS, status="failed"), left=left)
    assert found.status == status
    assert any("attacks made for it may leave less" in why for why in found.reasons) == (left > 0)


@pytest.mark.parametrize(("left", "status"), [(8, "doubtful"), (0, "trustworthy")])
def test_a_guessed_defense_is_doubtful_where_much_is_left(left, status):
    assert verdict(FINE, left=left, guessed=True).status == status


def test_the_basis_says_how_much_was_looked_at():
    facts = {"a": {"n": 24, "seconds": 1.5}, "b": {"n": 24, "seconds": 2.5}}
    said = verdict(FINE, SLIGHT, diagnosis=facts).basis
    assert said.startswith("2 checks applied, 1 failed. They looked at 24 samples")
    assert "looked at" not in verdict(FINE).basis


def test_every_file_of_checks_is_found_and_none_is_made_without_a_diagnosis():
    names = {module.__name__.rsplit(".", 1)[1] for module in modules()}
    assert {"athalye", "autoattack"} <= names
    assert "check" not in names
    there = report()
    assert {check.group for check in of(there)} <= set(GROUPS)
    there.run["diagnose"] = "off"
    assert of(there) == []
