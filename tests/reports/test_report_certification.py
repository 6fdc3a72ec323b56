"""Figures and page of a certification, from rows that are made up."""

import math

import pytest
from scipy.stats import norm
from test_report_html import Page

from robust.reports.certification import Certificates, render_certification

RECORD = {
    "schema_version": 1,
    "kind": "certify",
    "status": "done",
    "created": "2026-01-02T03:04:05+00:00",
    "argv": ["robust", "certify", "--model", "<m>.pt"],
    "spec_hash": "0" * 16,
    "spec": {
        "model": {"path": "models/<m>.pt", "arch": "small-cnn", "sha256": "ab"},
        "data": {"source": "digits", "n": 100, "low": 0.0, "high": 1.0, "fingerprint": "cd"},
        "sigma": 0.5,
        "n0": 100,
        "n": 1000,
        "alpha": 0.001,
        "limit": 5,
        "seed": 0,
    },
    "versions": {"torch": "2"},
}


def row(number, label, prediction, radius, bare=None):
    return {
        "id": number,
        "label": label,
        "bare": label if bare is None else bare,
        "selection": {prediction: 100},
        "estimation": {prediction: 1000},
        "prediction": prediction,
        "p": 0.9,
        "radius": radius,
        "seconds": 2.0,
    }


ROWS = [row(0, 1, 1, 0.3), row(1, 2, 2, 0.8), row(2, 3, 4, 0.9, bare=4), row(3, 1, -1, 0.0),
        row(4, 5, 5, 0.5)]  # fmt: skip


def test_figures_are_those_of_the_rows():
    found = Certificates(RECORD, ROWS)
    assert found.accuracy == 3 / 5
    assert found.bare_accuracy == 4 / 5
    assert found.counts == {"right": 3, "wrong": 1, "abstained": 1}
    assert found.average_radius == pytest.approx((0.3 + 0.8 + 0.5) / 5)
    expected = {0.0: 3, 0.3: 3, 0.31: 2, 0.5: 2, 0.79: 1, 0.8: 1, 0.85: 0}
    assert {r: found.certified_accuracy(r) for r in expected} == {
        r: count / 5 for r, count in expected.items()
    }
    low, high = found.certified_accuracy_ci(0.5)
    assert low < 2 / 5 < high
    assert found.seconds == 10.0
    assert found.complete


def test_no_radius_is_larger_than_that_of_copies_that_all_agree():
    found = Certificates(RECORD, ROWS)
    assert found.largest == pytest.approx(0.5 * norm.ppf(0.001 ** (1 / 1000)))
    assert found.marks[0] == 0.0
    assert found.largest - 0.3 < found.marks[-1] <= found.largest


def test_a_network_that_knows_nothing_of_noise_is_told_how_to_learn_it():
    hint = "robust train --defense smoothing,sigma=0.5"
    assert any(hint in note for note in Certificates(RECORD, ROWS).notes)  # 80 % to 60 %
    assert not any(hint in note for note in Certificates(RECORD, ROWS[:2]).notes)
    wide = {**RECORD, "spec": {**RECORD["spec"], "data": {"n": 100, "low": -1.0, "high": 1.0}}}
    assert any("smoothing,sigma=0.25" in note for note in Certificates(wide, ROWS).notes)


def test_the_json_says_what_the_page_says():
    found = Certificates(RECORD, ROWS).to_json()
    assert found["kind"] == "certify"
    assert found["samples"] == 5
    assert found["average_certified_radius"] == pytest.approx(0.32)
    assert found["certified_accuracy"][0] == {
        "radius": 0.0, "accuracy": 0.6, "ci": pytest.approx(found["accuracy_ci"])
    }  # fmt: skip
    assert [r["id"] for r in found["rows"]] == [0, 1, 2, 3, 4]


def test_the_page_tells_them_with_the_guarantee_and_escapes_names():
    page = render_certification(Certificates(RECORD, ROWS))
    text = Page(page).words
    assert "Average certified radius 0.320" in text
    assert "right, with a proven radius: 3" in text
    assert "abstained: 1" in text
    assert "wrong: 1" in text
    assert "not for the bare network; it is in L2" in text
    assert "not clipped" in text
    assert "<m>" not in page
    assert "&lt;m&gt;.pt" in page
    assert page.count("<script") == 1
    assert "http" not in page.replace("http-equiv", "")
    assert "Certified accuracy against the radius in L2: 60" in page
    assert 'class="incomplete"' not in page


def test_a_run_that_was_cut_off_says_so_and_one_without_rows_has_a_page():
    assert "incomplete: 2 of 5 samples" in render_certification(Certificates(RECORD, ROWS[:2]))
    empty = Certificates(RECORD, [])
    assert math.isnan(empty.accuracy)
    assert empty.to_json()["accuracy"] is None
    assert "incomplete: 0 of 5 samples" in render_certification(empty)
