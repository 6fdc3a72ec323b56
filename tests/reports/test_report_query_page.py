"""The page of a run against an oracle, and what the console says of it."""

import io
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from synthetic import asked, rows, run, shard, ten
from test_report_html import EVIL, Page

from robust import evaluation as engine
from robust.console import AttackProgress, attack_results
from robust.core.victim import Ledger
from robust.reports.charts import Series, line_chart, log_ticks
from robust.reports.html import render
from robust.reports.query_charts import MOST, Scale, figures
from robust.reports.summary import Report


def report(**spec: Any) -> Report:
    record, given = asked(**spec)
    record["price_per_1000"] = 1.5
    return Report(record, [given])


def svg(figure: dict[str, Any]) -> ET.Element:
    return ET.fromstring(figure["svg"])


def dots(figure: dict[str, Any]) -> list[str]:
    return [circle.get("class", "") for circle in svg(figure).iter("circle")]


def lines(figure: dict[str, Any]) -> list[list[tuple[float, float]]]:
    """The points of each line, in the chart's own units."""
    paths = [p for p in svg(figure).iter("path") if p.get("class", "").startswith("line ")]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", p.get("d", ""))]
        for p in paths
    ]


def at(figure: dict[str, Any], count: str) -> list[str]:
    """What hovering reads at so many queries."""
    titles = [title.text or "" for title in svg(figure).iter("title")]
    (found,) = [title for title in titles if title.splitlines()[0] == f"queries {count}"]
    return found.splitlines()[1:]


def test_success_against_queries_by_hand() -> None:
    success, _ = figures(report().attacks, 0.1)
    assert [name for _, name in success["legend"]] == ["near", "first"]
    assert "near broke 60\u202f% of the samples that it was given within 100" in success["svg"]
    assert at(success, "1") == ["near: 0\u202f%", "first: 0\u202f%"]
    assert at(success, "6") == ["near: 0\u202f%", "first: 0\u202f%"]
    assert at(success, "7") == ["near: 0\u202f%", "first: 33.3\u202f%"]
    assert at(success, "30") == ["near: 20.0\u202f%", "first: 33.3\u202f%"]
    assert at(success, "51") == ["near: 40.0\u202f%"]  # `first` asked 30 times at the most
    assert at(success, "100") == ["near: 60.0\u202f%"]
    assert dots(success) == ["dot s0", "hollow dot s0", "dot s1", "hollow dot s1"]
    near, first = lines(success)
    assert near[-1][0] > first[-1][0]
    assert min(y for _, y in near) < min(y for _, y in first)  # more was broken: higher


def test_a_value_holds_until_the_next() -> None:
    success, distance = figures(report().attacks, 0.1)
    (band,) = [p.get("d", "") for p in svg(distance).iter("path") if p.get("class") == "band s0"]
    corners = [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", band)]
    assert len(corners) > 10
    for line in [*lines(success), *lines(distance), corners]:
        for (x, y), (right, below) in pairwise(line):
            assert x == right or y == below


def test_marks_lie_on_their_curve() -> None:
    success, _ = figures(report().attacks, 0.1)
    median, p90, *_ = [
        (float(c.get("cx", "")), float(c.get("cy", ""))) for c in svg(success).iter("circle")
    ]
    (near, _) = lines(success)
    (left, bottom), (right, _) = near[0], near[-1]

    def place(count: float, height: float) -> tuple[float, float]:
        top = 26  # of the chart, at 100 %; the scale goes from 1 to 100 queries
        return left + (right - left) * math.log10(count) / 2, bottom - (bottom - top) * height

    assert median == pytest.approx(place(50, 0.4), abs=0.11)
    assert p90 == pytest.approx(place(100, 0.6), abs=0.11)
    assert {median, p90} <= set(near)


def test_distance_against_queries_by_hand() -> None:
    _, distance = figures(report().attacks, 0.1)
    assert [name for _, name in distance["legend"]] == ["near"]
    assert "near 0.5 after 100 queries" in distance["svg"]
    assert at(distance, "8") == ["near: 0.5"]
    assert at(distance, "100") == ["near: 0.5"]
    levels = [p for p in svg(distance).iter("path") if p.get("class") == "level"]
    assert len(levels) == 1
    assert "ε = 0.1" in distance["svg"]
    (band,) = [p.get("d", "") for p in svg(distance).iter("path") if p.get("class") == "band s0"]
    assert "inf" not in band + str(lines(distance))


def test_a_distance_that_half_the_samples_never_get_has_no_line() -> None:
    record, given = asked()
    near = given.attacks[0]
    keep = near.trace_rows != 2  # then two of five are left
    for column in ("trace_rows", "trace_queries", "trace_distance"):
        setattr(near, column, getattr(near, column)[keep])
    found = Report(record, [given])
    assert [spread[2] for spread in found.attacks[0]["distance_by_queries"]] == [None] * len(
        found.attacks[0]["distance_by_queries"]
    )
    page = Page(render(found))
    assert "No values were recorded." in page.words


def test_scale_is_logarithmic_over_orders_of_magnitude() -> None:
    log = Scale(10, 5000)
    assert log.log
    assert log(100) == 2
    assert log(0) == 1  # the left end
    assert log.back(log(123)) == pytest.approx(123)
    assert [log.back(t) for t in log.ticks] == pytest.approx([10, 100, 1000])
    even = Scale(20, 90)
    assert not even.log
    assert (even(45), even.low) == (45, 0)
    assert log_ticks(2, 60) == pytest.approx([2, 5, 10, 20, 50])
    assert log_ticks(1, 1e4) == pytest.approx([1, 10, 100, 1e3, 1e4])


def test_many_attacks_share_a_chart() -> None:
    n = MOST + 2
    names = [f"attack {i}" for i in range(n)]
    trace = {
        "trace_rows": np.zeros(2, np.int64),
        "trace_queries": np.array([2, 5]),
        "trace_distance": np.array([0.3, 0.1]),
    }
    attacks = [rows(name, [0], {0: 1} if i else {}, **trace) for i, name in enumerate(names)]
    record = run(names, access="scores", every=True)
    for attack in record["spec"]["attacks"]:
        attack["minimal"] = True
    found = Report(record, [shard([0], [0], attacks)])
    success, distance = figures(found.attacks, 0.1)
    bands = [p.get("class") for p in svg(distance).iter("path") if "band" in p.get("class", "")]
    assert bands == [f"band s{i % 4}" for i in range(MOST)]
    assert distance["legend"] == success["legend"]
    assert len(success["legend"]) == MOST == len(set(success["legend"]))
    assert len({look for look, _ in success["legend"]}) == MOST
    for figure in (success, distance):
        assert f"The first {MOST} of {n} attacks" in figure["caption"]
    assert set(dots(success)) <= {
        f"{kind} s{i}" for kind in ("dot", "hollow dot") for i in range(4)
    }


def test_band_level_and_marks_of_a_chart() -> None:
    chart = ET.fromstring(
        line_chart(
            [0, 1, 2],
            [
                Series(
                    "s", [None, 1, 2], band=([None, 0, 1], [None, np.inf, 3]), marks=[(1, 1, True)]
                )
            ],
            label="l",
            x_name="x",
            y_name="y",
            y_range=(0, 4),
            level=(4, "<top>"),
        )
    )
    paths = {p.get("class"): p.get("d", "") for p in chart.iter("path")}
    top = paths["level"].split("H")[0].split()[1]
    assert paths["band s0"].split("L")[0].endswith(f" {top}")  # ∞ reaches to the top
    assert paths["band s0"].count(" ") == 4
    assert [c.get("class") for c in chart.iter("circle")] == ["hollow dot s0"]
    assert "<top>" in [t.text for t in chart.iter("text")]


def test_page_of_an_oracle() -> None:
    page = Page(render(report(queries=2000)))
    assert {"queries", "cost"} <= set(page.ids)
    assert {"#queries", "#cost"} <= set(page.references)
    assert "Access: labels, at most 2,000 queries a sample" in page.words
    assert "a sample and attack" not in page.words
    assert "Asked in all 624 queries, 104 a sample" in page.words
    assert "By the attacks 567 queries" in page.words
    assert "By the measurement 57 queries" in page.words
    assert "From memory 40 answers" in page.words
    assert "49.9 queries per second" in page.words
    assert "Price at 1.5 per 1,000 queries: 0.94" in page.words
    assert "queries per sample" in page.words
    assert "backwards" not in page.words
    assert "90th percentile" in page.words
    assert "50 (56.7)20–100 10020–100 1.5 s" in page.words


def test_page_of_every_attack_on_what_the_model_gives() -> None:
    record, given = asked(queries=50, every=True)
    record["spec"]["model"]["access"] = "scores"
    words = Page(render(Report(record, [given]))).words
    assert (
        "Access: labels (the model gives scores), at most 50 queries a sample and attack" in words
    )


def test_page_where_attacks_are_counted_as_if_alone() -> None:
    record, given = asked(every=True)
    given.asked = 300  # of the same questions, most were asked by both
    words = Page(render(Report(record, [given]))).words
    assert "567 queries, each attack counted as if alone; the model was asked 324 in all" in words
    assert "Asked in all 324 queries" in words
    assert "By the attacks not told apart" in words
    assert "By the measurement" not in words
    assert "None" not in words


def test_an_attack_that_may_not_ask_as_often_as_it_would() -> None:
    words = Page(render(report(queries=50))).words
    assert "queries=100 (the run allows 50)" in words
    assert "queries=30 (" not in words
    assert "the run allows" not in Page(render(report(queries=100))).words


def test_page_with_gradients_is_as_before() -> None:
    page = Page(render(Report(run(n=10), [ten()])))
    assert "queries" not in page.ids
    assert "What it cost to ask" not in page.words
    assert "The run did not count them." in page.words  # operations, before they were counted
    for words in ("Access:", "90th percentile", "queries per sample", "Price"):
        assert words not in page.words
    assert "backwards per sample" in page.words


def test_labels_alone_show_no_confidence() -> None:
    page = Page(render(report()))
    assert "nan" not in page.text.lower()
    assert "confidence" not in page.words
    assert "confidence" in Page(render(report(access="scores"))).words
    for shape in ((1, 4, 4), (16,)):
        attack = rows("first", [0], {0: 1}, shape, confidence=np.full(1, np.nan))
        given = shard([0], [0], [attack], shape=shape)
        given.confidence[:] = np.nan
        words = Page(render(Report(run(["first"], access="labels"), [given]))).words
        assert "nan" not in words.lower()
        assert "confidence" not in words


def test_random_checks_are_shown_with_the_examples() -> None:
    record, given = asked(draws=5, checks=20)
    for random in (True, None):
        record["preflight"]["random"] = random
        words = Page(render(Report(record, [given]))).words
        assert "fooled the model in 75 % of 20 checks" in words
        assert "5 were asked for wherever one would have done" in words
        assert ("because they are random" in words) == (random is True)
        assert ("as was declared" in words) == (random is None)
    assert "checks" not in Page(render(report())).words.split("Examples")[-1]


def test_transfer_to_an_oracle_is_told_apart() -> None:
    record, given = asked(surrogates=[{"path": "other.pt"}])
    for attack in given.attacks:
        attack.queries[:] = 0
        attack.trace_rows = attack.trace_queries = np.zeros(0, np.int64)
        attack.trace_distance = np.zeros(0)
    found = Report(record, [given])
    words = Page(render(found)).words
    assert "The attacks searched on other models and asked this one nothing" in words
    assert not any("Black box" in note for note in found.notes)
    assert found.oracle["own"] == found.oracle["asked"] == 624
    assert [attack["success_by_queries"] for attack in found.attacks] == [None, None]


def test_what_a_service_is_called_stays_text() -> None:
    record, given = asked()
    record["spec"]["model"] |= {"path": f"https://models.example/{EVIL}?x=1&y=2", "access": EVIL}
    given.attacks[0].label = record["spec"]["attacks"][0]["label"] = EVIL
    source = render(Report(record, [given]))
    page = Page(source)
    assert EVIL in page.text
    assert all(r.startswith(("#", "data:image/png;base64,")) for r in page.references)


def shown(found: Report, capsys: pytest.CaptureFixture[str]) -> str:
    attack_results(found, "report.html")
    return capsys.readouterr().out


def test_results_on_the_console(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = shown(report(queries=2000), capsys)
    assert "queries of a success (mean / median)" in out
    assert re.search(r"near +5 +3 +50.0% +57 / 50 +1.5 s", out)
    assert "f / b" not in out
    table, _, said = out.partition("clean accuracy ")
    assert all(len(line) <= 80 for line in table.splitlines())
    told = (
        "asked the model 624 times in all (40 answers were known), at 1.5 per 1,000 queries: 0.94"
    )
    assert told in said.splitlines()
    record, given = asked()
    given.repeated = 0
    given.attacks[0].success[:] = False
    out = shown(Report(record, [given]), capsys)
    assert "asked the model 624 times in all\n" in out
    assert re.search(r"near +5 +0 .*– +1.5 s", out)
    out = shown(Report(run(), [ten()]), capsys)
    assert "f / b per sample" in out
    assert "asked the model" not in out


def test_progress_counts_what_an_attack_pays_for() -> None:
    def line(**spent: int) -> str:
        ledger = Ledger(4)
        for name, value in spent.items():
            setattr(ledger, name, torch.full((4,), value))
        progress = AttackProgress("title")
        progress.on(engine.AttackStarted(0, "square", 4, ledger))
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(progress)
        return console.export_text()

    assert "square on 4 samples: 1,200 queries each" in line(forwards=1200, queries=1200)
    assert "square on 4 samples: 7 queries each" in line(forwards=9, queries=7)
    assert "20 forwards each" in line(forwards=20, backwards=19, queries=20)
    assert "20 forwards each" in line(forwards=20)  # surrogates: nothing is asked
