"""JUnit XML: its structure is that of the schema in common use, and failures are the gates'."""

import re
from xml.etree import ElementTree as ET

import pytest
from report_kinds import RUNS, defended_record, defended_shard, kinds
from synthetic import run, ten

from robust.commands.gating import Gating
from robust.reports import junit
from robust.reports.checks import Verdict
from robust.reports.diff import Difference
from robust.reports.gates import Gate, fail_if_worse_than, fail_under
from robust.reports.summary import Report

KINDS = kinds()
GATES = [Gate("--fail-under 0.1", True, "it holds"), Gate("--fail-under 0.9", False, "too low")]


def parsed(text: str) -> ET.Element:
    """The root, after a look at what Ant's and Jenkins' schemas ask of the structure."""
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert set(suite.attrib) == {
            *("name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"),
            *("id", "package"),
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
        tags = [child.tag for child in suite]
        order = ["properties", "testcase", "system-out", "system-err"]
        assert sorted(tags, key=order.index) == tags
        assert all(tags.count(tag) == 1 for tag in order if tag != "testcase")
        assert all(set(p.attrib) == {"name", "value"} for p in suite.find("properties"))
        cases = suite.findall("testcase")
        for case in cases:
            assert set(case.attrib) == {"classname", "name", "time"}
            assert float(case.attrib["time"]) >= 0
            assert [child.tag for child in case] in ([], ["failure"], ["error"], ["skipped"])
        names = [(case.attrib["classname"], case.attrib["name"]) for case in cases]
        assert len(set(names)) == len(names)
        assert int(suite.attrib["tests"]) == len(cases)
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[key]) == sum(case.find(tag) is not None for case in cases)
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_is_a_suite(kind) -> None:
    report = KINDS[kind]
    root = parsed(junit.of(report, GATES))
    (failure,) = root.iter("failure")
    assert failure.attrib["message"] == "too low"
    assert (root.find(".//error") is not None) == (not report.complete or bool(report.damaged))


def test_figures_are_properties_and_attacks_are_tests() -> None:
    root = parsed(junit.of(Report(run(n=10), [ten()])))
    properties = {p.attrib["name"]: p.attrib["value"] for p in root.iter("property")}
    assert properties["robust_accuracy"] == "0.4"
    assert properties["clean_accuracy"] == "0.8"
    assert properties["threat"] == "L∞ ε = 0.1"
    attacks = [c for c in root.iter("testcase") if c.attrib["classname"] == "robust.attack"]
    assert [c.attrib["name"] for c in attacks] == ["first", "second"]
    assert {c.attrib["time"] for c in attacks} == {"1.500"}
    (skipped,) = root.iter("skipped")
    assert skipped.attrib["message"] == "the run was not diagnosed"
    assert "first: 3 of 8 broken" in (root.findtext(".//system-out") or "")


def test_what_is_missing_is_an_error_that_names_it() -> None:
    error = parsed(junit.of(KINDS["damaged"])).find(".//error")
    assert error is not None
    assert error.attrib["message"] == "10 of 30 samples were measured"
    assert "shards/00001.h5: it is empty" in (error.text or "")


def test_names_that_xml_cannot_hold() -> None:
    record = run(n=10)
    record["spec"]["model"]["path"] = 'a\x00\x1b[31m<&"\ud800\ufffe'
    root = parsed(junit.of(Report(record, [ten()])))
    assert '\ufffd[31m<&"' in root[0].attrib["name"]


@pytest.mark.parametrize(
    ("bound", "passed"), [(0.39, True), (0.4, True), (0.41, False), (0.0, True), (1.0, False)]
)
def test_the_gate_of_a_bound(bound, passed) -> None:
    gate = fail_under(Report(run(n=10), [ten()]), bound)
    assert gate.passed is passed
    assert f"0.4 is {'at least' if passed else 'below'} --fail-under {bound:g}" in gate.told


def test_what_was_not_measured_passes_no_gate() -> None:
    nothing = KINDS["no attacks"]
    assert not fail_under(nothing, 0.0).passed
    plain = KINDS["plain"]
    for pair in ((nothing, plain), (plain, nothing)):
        gate = fail_if_worse_than(Difference(*pair), "base")
        assert not gate.passed
        assert "was not measured" in gate.told


def test_a_random_model_can_be_gated() -> None:
    base = Report(defended_record(), [defended_shard()])
    after = Report(*RUNS["random"]())
    gate = fail_if_worse_than(Difference(base, after), "base")
    assert "sign-flip test" in gate.told


BROKEN = Verdict("broken", ["The attacks stopped early."], masked=None, basis="3 checks applied.")


def judged(verdict: Verdict | None, **params: int) -> Report:
    """A run with that verdict, whose first attack has these parameters."""
    record = run(n=10)
    record["spec"]["attacks"][0]["params"] |= params
    report = Report(record, [ten()])
    report.__dict__["verdict"] = verdict  # in place of what the checks say
    return report


def test_a_gate_that_holds_on_a_figure_not_to_be_trusted_says_so() -> None:
    broken = judged(BROKEN)
    own = "The figure of this run is broken by its own checks."
    gate = fail_under(broken, 0.1)
    assert (gate.passed, gate.cautions) == (True, (own,))
    weak = judged(BROKEN, steps=1)
    pair = fail_if_worse_than(Difference(judged(BROKEN), weak), "runs/base")
    assert pair.passed
    assert pair.cautions == (
        "The attacks of this run are weaker than those of runs/base: it may only look more robust.",
        "The figure of runs/base is broken by its own checks.",
        own,
    )
    for trusted in (None, Verdict("trustworthy", [], masked=False, basis="")):
        assert fail_under(judged(trusted), 0.1).cautions == ()
        same = Difference(judged(trusted), judged(trusted))
        assert fail_if_worse_than(same, "runs/base").cautions == ()


def test_what_speaks_against_a_gate_is_skipped_beside_it_and_fails_nothing() -> None:
    report = judged(BROKEN)
    gates = [fail_under(report, 0.1), fail_under(report, 0.9)]
    root = parsed(junit.of(report, [*gates, Gate("--fail-under 0.2", True, "it holds")]))
    cases = [case for case in root.iter("testcase") if case.attrib["classname"] == "robust.caution"]
    assert len(cases) == 3
    skipped = [case.find("skipped") for case in cases]
    assert [one is not None for one in skipped] == [True, True, False]
    assert skipped[0].attrib["message"] == gates[0].cautions[0]
    (failure,) = root.iter("failure")
    assert gates[1].told in failure.text
    assert "broken by its own checks" in failure.text
    output = root.findtext(".//system-out") or ""
    assert "--fail-under 0.1: held. The figure of this run is broken" in output


def test_a_caution_is_told_once_and_changes_no_exit_code(tmp_path, capsys) -> None:
    options = {"fail_under": 0.1, "fail_if_worse_than": None, "junit": None, "quiet": False}
    gating = Gating(options, tmp_path / "run", None)
    gating._base, gating._path = judged(None), "runs/base"
    assert gating.exit_code(judged(BROKEN, steps=1)) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[2:] == [
        "robust: caution: The figure of this run is broken by its own checks.",
        "robust: caution: The attacks of this run are weaker than those of runs/base: it may only "
        "look more robust.",
    ]
