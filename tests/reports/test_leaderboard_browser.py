"""The leaderboard in headless Chromium: sorting, filters, keys, paper, and who can use it."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from test_leaderboard import EVIL, made
from test_report_browser import LONG, MEASURE, column

from robust.reports.leaderboard import Leaderboard
from robust.reports.leaderboard_page import render_leaderboard

TABLE = "#runs table"


def several() -> str:
    """Seven runs: three, one of which is the baseline, and two without a rank; two at another eps;
    one that is certified.
    """
    base = made("base", "1" * 4 + "0" * 6, wrong=2, model={"parameters": 900_000})
    proven = dataclasses.replace(
        made("proven", "1" * 3 + "0" * 7, wrong=1), certified=0.2, certified_ci=(0.05, 0.5)
    )
    entries = [
        base,
        made("high", "1" * 9 + "0", attacks=["fgsm"], model={"parameters": 1_200_000}),
        proven,
        made("running", status="running"),
        made("broken", verdict="broken"),
        made("far", "1" * 6 + "0" * 4, eps=0.2, verdict="doubtful"),
        made("farther", "1" * 5 + "0" * 5, eps=0.2),
    ]
    return render_leaderboard(Leaderboard(entries, base))


def hostile() -> str:
    names = [LONG, EVIL, f"{LONG}{EVIL}"]
    entries = [
        made(name, "1" * (9 - i) + "0" * (i + 1), attacks=[name], model={"arch": name})
        for i, name in enumerate(names)
    ]
    return render_leaderboard(Leaderboard(entries, entries[0]))


@pytest.mark.parametrize("render", [several, hostile])
def test_it_fits_and_can_be_used_by_all(render: Callable[[], str], open_page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(render())
    for width, scheme in ((1400, "light"), (360, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(MEASURE)
        assert found["over"] == 0, (width, found)
        assert found["cut"] == [], width
        faults = axe.run(page).response["violations"]
        said = [(f["id"], f["impact"], f["nodes"][0]["html"]) for f in faults]
        assert [s for s in said if s[1] in ("serious", "critical")] == [], (width, scheme)


@pytest.mark.parametrize("render", [several, hostile])
def test_it_prints_on_a4_across(render: Callable[[], str], open_page: Any) -> None:
    page = open_page(render())
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1000, "height": 700})
    found = page.evaluate(MEASURE)
    assert found["over"] == 0
    assert found["cut"] == []
    assert not page.locator(".filters").is_visible()
    wide = "all => all.filter(it => it.scrollWidth > it.clientWidth + 1).map(it => it.ariaLabel)"
    assert page.locator(".scroll").evaluate_all(wide) == []
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", page.pdf(prefer_css_page_size=True))
    assert {(round(float(w)), round(float(h))) for w, h in boxes} <= {(842, 595), (842, 596)}


def names(page: Any) -> list[str]:
    shown = page.locator(f"{TABLE} tbody tr:visible > th a")
    return [name.strip() for name in shown.all_inner_texts()]


def test_runs_are_sorted(open_page: Any) -> None:
    page = open_page(several())
    first = ["high", "base", "proven", "broken", "running", "far", "farther"]
    assert names(page) == first
    robust = page.locator(f"{TABLE} th", has_text="robust accuracy").get_by_role("button")
    robust.click()
    assert names(page) == ["proven", "base", "farther", "far", "high", "broken", "running"]
    page.keyboard.press("Enter")
    assert names(page)[-2:] == ["base", "proven"]
    page.keyboard.press("Enter")
    assert names(page) == first
    page.locator(f"{TABLE} th", has_text="parameters").get_by_role("button").click()
    assert names(page)[:2] == ["base", "high"]  # 900 k, 1.2 M, and then those not known
    page.locator(f"{TABLE} th", has_text="certified").get_by_role("button").click()
    assert names(page)[0] == "proven"
    page.locator(f"{TABLE} th", has_text="rank").get_by_role("button").click()
    assert set(names(page)[-2:]) == {"broken", "running"}


def test_runs_are_filtered(open_page: Any) -> None:
    page = open_page(several())
    shown = page.locator("output[name=shown]")
    assert page.locator("select[name=data]").count() == 0  # all are of one data set
    page.locator("select[name=threat]").select_option("L∞ ε = 0.2")
    assert (names(page), shown.inner_text()) == (["far", "farther"], "2 of 7 shown")
    page.locator("select[name=verdict]").select_option("doubtful")
    assert names(page) == ["far"]
    page.get_by_role("button", name="Show all").click()
    page.locator(f"{TABLE} tbody tr:visible").nth(6).wait_for()  # after the form is as it was
    assert len(names(page)) == 7
    page.locator("input[name=name]").fill("doubtful")
    assert names(page) == []  # it looks at names alone
    page.locator("input[name=name]").fill("FAR")
    assert names(page) == ["far", "farther"]
    page.locator(f"{TABLE} th", has_text="robust accuracy").get_by_role("button").click()
    assert names(page) == ["farther", "far"]


def test_dots_are_read_by_keys(open_page: Any) -> None:
    page = open_page(several())
    reader = page.locator("#group-A .reader")
    reader.focus()
    page.keyboard.press("Home")
    said = [reader.get_attribute("aria-valuetext")]
    for _ in range(2):
        page.keyboard.press("ArrowRight")
        said.append(reader.get_attribute("aria-valuetext"))
    assert len(set(said)) == 3
    assert any("1: high" in words and "weaker attack" in words for words in said)
    assert any("base (baseline)" in words for words in said)


def test_it_is_complete_without_scripts(open_page: Any) -> None:
    page = open_page(several(), scripts=False)
    assert len(names(page)) == 7
    assert not page.locator("form.filters").is_visible()
    assert page.locator("svg.chart circle").count() == 5


def test_what_opens_is_a_report(open_page: Any) -> None:
    page = open_page(hostile())
    hrefs = page.locator(f"{TABLE} th a").evaluate_all("all => all.map(a => a.protocol)")
    assert set(hrefs) == {"file:"}
    assert column(page, TABLE, 1)[0].startswith("1")


def test_runs_are_sorted_by_date(open_page: Any) -> None:
    days = {"new": "2026-11-24T01", "old": "2026-01-02T09", "later": "2026-01-02T10"}
    entries = [
        dataclasses.replace(made(name, model={"sha256": name}), created=f"{day}:00:00+00:00")
        for name, day in days.items()
    ]
    page = open_page(render_leaderboard(Leaderboard(entries)))
    page.locator(f"{TABLE} th", has_text="date").get_by_role("button").click()
    assert names(page) == ["old", "later", "new"]
