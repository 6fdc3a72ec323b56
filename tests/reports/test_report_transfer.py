"""The transfer matrix on the page and in report.json."""

import json

from synthetic import run, ten
from test_report_html import Page

from robust.reports.html import render
from robust.reports.rates import wilson
from robust.reports.summary import Report

FOUND = {
    "amount": "subset",
    "n": 16,
    "models": ["<a>.pt", "b.pt", "target.pt"],
    "attack": "pgd",
    "given": [10, 0, 8],
    "broken": [[9, 0, 4], None, [1, 0, 8]],
    "why": "it has no gradient.",
}


def report(found: dict) -> Report:
    return Report({**run(n=10), "diagnosis": {"transfer": found}}, [ten()])


def test_rates_have_intervals_and_what_is_unknown_is_none() -> None:
    told = report(FOUND).to_json()["transfer"]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    first, second, third = told["rows"]
    assert first["model"] == "<a>.pt"
    assert first["cells"][2] == {
        "model": "target.pt",
        "given": 8,
        "broken": 4,
        "rate": 0.5,
        "ci": list(wilson(4, 8)),
    }
    assert first["cells"][1]["rate"] is None
    assert second["cells"] is None
    assert third["cells"][2]["rate"] == 1


def test_the_matrix_is_shown_with_names_as_text() -> None:
    page = Page(render(report(FOUND)))
    assert "transfer" in page.ids
    assert "#transfer" in page.references
    assert "<a>.pt" in page.words
    assert "A row is missing: it has no gradient." in page.words
    assert "16 samples were crafted by pgd" in page.words


def test_no_matrix_of_one_model() -> None:
    for found in ({}, {"error": "no other model was given to craft on", "n": 16}):
        assert report(found).transfer is None
        assert "transfer" not in Page(render(report(found))).ids
