"""Markdown for people: the figures are in it, and names stay text."""

import re

import pytest
from markdown_it import MarkdownIt
from report_kinds import HOSTILE, kinds
from synthetic import run, ten

from robust.reports import card, markdown, md
from robust.reports.summary import Report

KINDS = kinds()


def shown(text: str) -> str:
    """What a reader gets to see: HTML as GitHub makes it, raw HTML let through."""
    html: str = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return html


def test_what_a_reviewer_wants_to_know_is_there() -> None:
    text = markdown.of(Report(run(n=10), [ten()])).replace("\u202f", " ")
    assert "## Robustness of `models/m.pt`" in text
    assert "**Robust accuracy 40 %** (95 % interval 17–69), clean accuracy 80 %" in text
    assert "on 10 samples of `digits`; L∞ ε = 0.1." in text
    assert "| `first` | 8 | 3 | 50 % (24–76) | 1.5 s |" in text
    assert "| `second` | 5 | 1 | 40 % (17–69) | 1.5 s |" in text
    assert "```sh\nrobust attack --model models/m.pt\n```" in text
    assert "Seed 7, robust 0.1.0." in text
    assert "Verdict" not in text


def test_the_verdict_is_told_with_its_reasons() -> None:
    report = KINDS["diagnosed"]
    assert report.verdict is not None
    text = markdown.of(report)
    assert f"**Verdict: {report.verdict.status}.**" in text
    assert all(md.escape(reason) in text for reason in report.verdict.reasons)


def test_what_is_missing_is_said() -> None:
    assert "**Incomplete: 10 of 100 samples.**" in markdown.of(KINDS["incomplete"])
    assert "shards/00001.h5 (it is empty)" in markdown.of(KINDS["damaged"])
    assert "**Robust accuracy –**" in markdown.of(KINDS["no attacks"])
    naive = re.search(r"know of no defense leave ([\d.]+)", markdown.of(KINDS["defended"]))
    assert naive
    assert float(naive[1]) == 75


@pytest.mark.parametrize("export", [markdown.of, card.of])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_can_be_told(kind, export) -> None:
    text = export(KINDS[kind])
    assert text.endswith("\n")
    assert "nan" not in text
    assert "None" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


def test_names_stay_text() -> None:
    html = shown(markdown.of(KINDS["hostile"]))
    assert "<script" not in html
    assert (
        "&lt;script&gt;alert(1)&lt;/script&gt;`|" in html
    )  # what the user called it, word for word
    assert not re.search(r"(?<!<code>)@team", re.sub(r"<code>.*?</code>", "", html))


@pytest.mark.parametrize(
    "text",
    [
        "<b>x</b>",
        "a | b",
        "`x`",
        "*x* _y_ ~z~",
        "[a](http://x.example)",
        "# x",
        "&lt;",
        "a\\*b",
        "$x$",
    ],
)
def test_prose_and_code_show_what_was_written(text) -> None:
    kept = re.sub(r"<[^>]*>", "", shown(md.escape(text))).strip()
    expected = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert kept == expected
    head, cell = "| a |\n| :-- |\n", md.table(["h"], [[md.code(text)]])
    for made in (md.code(text), head and cell):
        assert f"<code>{expected}</code>" in shown(made)


def test_mentions_call_nobody() -> None:
    assert "@team" not in md.escape("ask @team")


@pytest.mark.parametrize("text", ["", "`", "``", "a`b``c", " x "])
def test_code_spans_of_odd_texts(text) -> None:
    found = re.search("<code>(.*)</code>", shown(f"a {md.code(text)} b"))
    assert (found[1].strip() if found else None) == text.strip()


def test_a_block_is_not_left_early() -> None:
    html = shown(md.block("robust attack --model '\n```\n# x'"))
    assert html.count("<pre>") == 1
    assert "<h1>" not in html


def test_hostile_text_in_every_place_of_the_card() -> None:
    body = card.of(KINDS["hostile"]).split("---\n", 2)[2]
    assert "<script" not in shown(body)
    assert HOSTILE.rpartition("@")[2] in body
