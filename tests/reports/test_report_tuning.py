"""The page and the figures of a tuning run."""

import json
import re

import pytest

from robust.reports.scatter import Point, scatter
from robust.reports.tuning import Trials, render_tuning

LR = {"name": "lr", "low": 0.01, "high": 1.0, "log": True, "whole": False, "choices": []}
BITS = {"name": "bits", "low": 1, "high": 8, "log": False, "whole": True, "choices": []}
MODE = {"name": "mode", "low": None, "high": None, "log": False, "whole": False,
        "choices": ["good", "<b>bad</b>"]}  # fmt: skip


def row(number, clean, robust, state="complete", error=None, **values):
    return {
        "number": number,
        "values": {"lr": 0.1, "bits": 4, "mode": "good", **values},
        "state": state,
        "clean": clean,
        "robust": robust,
        "value": robust if state == "complete" else None,
        "seconds": 2.0,
        "error": error,
        "notes": None,
        "baseline": number == 0,
    }


def trials(rows, search=(LR, BITS, MODE), **changes):
    subject = {
        "model": {"path": "models/m.pt", "sha256": "ab" * 32},
        "data": {"source": "digits", "fingerprint": "cd"},
        "threat": {"norm": "linf", "eps": 8 / 255},
        "defenses": [{"name": "jpeg", "params": {}}],
        "samples": 500,
    }
    record = {
        "schema_version": 1,
        "kind": "tune",
        "status": "done",
        "created": "2026-01-02T03:04:05+00:00",
        "argv": ["robust", "tune", "--model", "models/m.pt"],
        "versions": {"torch": "2"},
        "options": "--with jpeg,quality=30",
        "spec": {"subject": subject, "search": list(search), "objective": "robust", "seed": 0},
    }
    return Trials({**record, **changes}, rows)


ROWS = [
    row(0, 0.95, 0.40),
    row(1, 0.90, 0.60, lr=0.02),
    row(2, 0.90, 0.55, lr=0.5),
    row(3, 0.80, 0.60, mode="<b>bad</b>"),
    row(4, 0.70, 0.70, bits=2),
    row(5, 0.99, 0.10, bits=8),
    row(6, 0.97, 0.95, state="pruned"),
    row(7, None, None, state="failed", error="diverged <at> once"),
    row(8, 0.70, 0.70, bits=1),
    row(9, None, None, state="running"),
]


def test_the_front_is_what_nothing_exceeds():
    """By hand: 2 and 3 are exceeded by 1, which is as clean or as robust; 8 equals 4."""
    assert [one["number"] for one in trials(ROWS).front] == [4, 1, 0, 5]
    assert trials([]).front == []
    assert [one["number"] for one in trials(ROWS[:1]).front] == [0]


def test_figures():
    found = trials(ROWS).to_json()
    assert (found["best"], found["baseline"], found["pareto"]) == (4, 0, [4, 1, 0, 5])
    assert found["gain"] == pytest.approx(0.30)
    assert (found["complete"], found["pruned"], found["failed"]) == (7, 1, 1)
    assert found["seconds"] == 20
    assert json.loads(json.dumps(found)) == found
    nothing = trials(ROWS[6:8]).to_json()
    assert (nothing["best"], nothing["baseline"], nothing["gain"]) == (None, None, None)


def dots(page):
    return re.findall(r'<circle class="([^"]+)"[^>]*r="([\d.]+)"><title>([^<]*)</title>', page)


def test_the_page_shows_every_finished_trial():
    page = render_tuning(trials(ROWS))
    chart = page[page.index('id="trade-off"') : page.index('id="parameters"')]
    shown = {title.splitlines()[0].partition(",")[0]: (kind, r) for kind, r, title in dots(chart)}
    assert set(shown) == {f"trial {k}" for k in (0, 1, 2, 3, 4, 5, 8)}
    filled = {name for name, (kind, _) in shown.items() if "hollow" not in kind}
    assert filled == {"trial 0", "trial 1", "trial 4", "trial 5"}
    assert shown["trial 0"][0] == "dot s1"  # without tuning, in a colour of its own
    assert [name for name, (_, r) in shown.items() if float(r) > 4] == ["trial 4"]
    assert "70.0" in page[page.index("<h1>") : page.index("</h1>")]
    assert "8/255" in page
    assert "+30.0" in page
    assert "--with jpeg,quality=30" in page
    assert "diverged &lt;at&gt; once" in page
    assert "<b>bad</b>" not in page
    assert page.count("given up") >= 2
    assert page.count("<script") == 1
    assert "http" not in page.replace("http-equiv", "")


def test_each_parameter_has_a_chart():
    page = render_tuning(trials(ROWS))
    charts = re.findall(r"<h3>([^<]+)</h3>", page)
    assert charts == ["lr", "bits", "mode"]
    lr = page[page.index("<h3>lr</h3>") : page.index("<h3>bits</h3>")]
    xs = {title.splitlines()[0]: x for x, title in re.findall(
        r'cx="([\d.]+)"[^>]*><title>([^<]*)</title>', lr)}  # fmt: skip
    left, middle, right = (float(xs[f"trial {k}"]) for k in (1, 3, 2))
    # 0.02, 0.1 and 0.5 are as far apart in the logarithm.
    assert middle - left == pytest.approx(right - middle, abs=0.2)


def test_a_run_without_finished_trials_has_a_page():
    page = render_tuning(trials(ROWS[7:8], status="interrupted"))
    assert "No trial has come to its end" in page
    assert "status: interrupted" in page


def test_the_line_goes_round_what_is_reached():
    svg = scatter(
        [Point(0, 1, "a"), Point(1, 0, "b")],
        label="l", x_name="x", y_name="y", front=[(0.0, 1.0), (1.0, 0.0)],
    )  # fmt: skip
    (path,) = re.findall(r'class="line raw s0" d="([^"]+)"', svg)
    (ax, ay), (bx, by) = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert re.fullmatch(rf"M[\d.]+ {ay}V{ay}H{ax}V{by}H{bx}V[\d.]+", path)


def test_axes_hold_no_more_than_everything_and_the_baseline():
    """All at 100 %; whole numbers from 2 to 3 are searched, and the baseline is at 4."""
    bits = {**BITS, "low": 2, "high": 3}
    rows = [row(1, 1.0, 1.0, bits=4), row(2, 1.0, 1.0, bits=2), row(3, 1.0, 1.0, bits=3)]
    page = render_tuning(trials(rows, search=(bits,)))
    assert "120" not in re.findall(r"([\d.]+)\u202f%</text>", page)
    chart = page[page.index("<h3>bits</h3>") : page.index('id="trials"')]
    ticks = [float(t) for t in re.findall(r">([\d.]+)</text>", chart)]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)
    assert max(ticks) == 4
