"""Checks → one verdict."""

from dataclasses import replace

import pytest
from synthetic import rows, run, shard

from robust.diagnosis import probes
from robust.reports.checks import Check, judge, not_applicable
from robust.reports.checks.verdict import GROUPS, PROBES, modules, of
from robust.reports.summary import Report

FINE = Check(
    "second-opinion", "convergence", "Another attack", "passed", "0 of 9", "It found no more."
)
GRAVE = replace(FINE, key="unbounded", status="failed", weight="broken", meaning="It is too high.")
SLIGHT = replace(FINE, key="larger-eps", status="failed", weight="doubtful", meaning="It may be.")
QUIET = replace(FINE, key="softmax", status="failed", meaning="Only a remark.")
MASKS = replace(FINE, key="zero-gradients", masking=True)


WHOLE = {probe: {"n": 32, "of": 300, "seconds": 1.0} for probe in PROBES}


def report(left=8, diagnosis=WHOLE, guessed=False, **spec):
    """Ten samples, of which so many are left."""
    hits = dict.fromkeys(range(left, 10), 1)
    record = run(["pgd"], **spec)
    record["spec"]["model"]["guessed"] = guessed
    record |= {"diagnosis": diagnosis, "diagnose": "subset"}
    if guessed:
        record["defenses"] = [{"name": "own.py:f", "params": {}}]
    return Report(record, [shard([0] * 10, [0] * 10, [rows("pgd", range(10), hits)])])


def verdict(*checks, **facts):
    return judge(report(**facts), checks)


def test_nothing_to_look_at_gives_no_verdict():
    assert verdict() is None
    assert verdict(not_applicable("softmax", "autoattack", "Outputs", "It only answers.")) is None


def test_a_run_without_a_sample_has_no_verdict():
    record = {**run(["pgd"]), "diagnose": "subset", "diagnosis": WHOLE}
    assert judge(Report(record, []), [FINE, GRAVE]) is None


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
    found = verdict(replace(FINE, key="softmax"), replace(FINE, status="failed"))
    assert found.reasons == ["No check speaks against it."]


def test_it_is_not_trustworthy_where_nothing_looked_for_more():
    assert verdict(replace(FINE, key="convergence-estimate")) is None
    assert verdict(replace(FINE, key="convergence-estimate", status="failed", weight="doubtful"))
    assert verdict(replace(FINE, key="binarisation")) is None
    assert verdict(replace(FINE, key="convergence")).status == "trustworthy"


def test_a_diagnosis_that_is_not_complete_leaves_a_doubt():
    part = {name: facts for name, facts in WHOLE.items() if name != "reference"}
    found = verdict(FINE, diagnosis=part)
    assert found.status == "doubtful"
    assert "not complete (reference)" in found.reasons[0]
    failed = WHOLE | {"traces": {"n": 32, "error": "out of memory", "failed": True}}
    assert "(traces)" in verdict(FINE, diagnosis=failed).reasons[0]
    unasked = WHOLE | {"traces": {"n": 32, "error": "no such question"}}
    assert verdict(FINE, diagnosis=unasked).status == "trustworthy"
    assert verdict(FINE, diagnosis=part, left=0).status == "trustworthy"
    assert verdict(FINE, diagnosis={}, access="scores").status == "trustworthy"
    assert verdict(FINE, diagnosis={}, surrogates=[{}]).status == "trustworthy"
    assert set(PROBES) | {"transfer"} == set(probes.PROBES)


def test_samples_that_are_not_there_leave_a_doubt():
    found = verdict(FINE, n=12)
    assert found.status == "doubtful"
    assert found.reasons == ["Of 12 samples 10 are there: the number is one of those alone."]
    assert verdict(FINE, n=10).status == "trustworthy"


def test_very_few_samples_leave_a_doubt():
    few = {name: {**facts, "n": 18} for name, facts in WHOLE.items()}
    assert "Only 18 samples" in verdict(FINE, diagnosis=few).reasons[0]
    assert verdict(FINE, diagnosis={**few, "reference": {"n": 19}}).status == "trustworthy"


def test_masked_is_what_failed_of_the_checks_that_tell():
    assert verdict(FINE, GRAVE).masked is None
    assert verdict(FINE, MASKS).masked is False
    assert verdict(FINE, replace(MASKS, status="failed")).masked is True


@pytest.mark.parametrize(("left", "status"), [(8, "doubtful"), (0, "trustworthy")])
def test_a_masked_model_is_doubtful_where_much_is_left(left, status):
    found = verdict(FINE, replace(MASKS, status="failed"), left=left)
    assert found.status == status
    assert any("attacks made for it may leave less" in why for why in found.reasons) == (left > 0)


@pytest.mark.parametrize(("left", "status"), [(8, "doubtful"), (0, "trustworthy")])
def test_a_guessed_defense_is_doubtful_where_much_is_left(left, status):
    assert verdict(FINE, left=left, guessed=True).status == status


def test_the_basis_says_how_much_was_looked_at():
    said = verdict(FINE, SLIGHT).basis
    assert said.startswith("2 checks applied, 1 failed. They looked at 32 samples")
    assert "may have been missed" in said
    whole = {name: {**facts, "of": 32} for name, facts in WHOLE.items()}
    assert "looked at all 32 samples" in verdict(FINE, diagnosis=whole).basis
    assert "looked at" not in verdict(FINE, diagnosis={}).basis


def test_every_file_of_checks_is_found_and_none_is_made_without_a_diagnosis():
    names = {module.__name__.rsplit(".", 1)[1] for module in modules()}
    assert {"athalye", "autoattack"} <= names
    assert "check" not in names
    there = report(diagnosis={})
    assert {check.group for check in of(there)} <= set(GROUPS)
    there.run["diagnose"] = "off"
    assert of(there) == []
