"""What the sections about figures say, read as a visitor reads them."""

import math

import numpy as np
import pytest
from synthetic import rows, run, shard, ten
from test_report_bracket import SMOOTHING, attacked, certified
from test_report_figures import imbalanced, margins, measuring
from test_report_html import Page

from robust.reports import figures
from robust.reports.html import render
from robust.reports.summary import Report


def page(report: Report, certificates: object = None) -> Page:
    found = Page(render(report, certificates))
    assert "nan" not in found.words.lower().replace("finance", "")
    assert "None" not in found.words
    return found


def test_what_each_attack_found_in_a_cascade() -> None:
    found = page(Report(run(n=10), [ten()]))
    assert {"survival", "attacks", "cost"} <= set(found.ids)
    assert "#survival" in found.references
    assert "is not known (–): with --every" in found.words
    assert "What two attacks both broke" not in found.words  # nothing is known of that
    assert "second5111" in found.words.replace(" ", "")  # given, broken, new, alone


def test_what_attacks_found_alike() -> None:
    labels = [0] * 4
    both = [rows("<i>", range(4), {0: 1, 1: 1}), rows("second", range(4), {1: 1})]
    found = page(Report(run(["<i>", "second"], every=True), [shard(labels, labels, both)]))
    assert "What two attacks both broke" in found.words
    assert "<i>" in found.words
    assert "is not known" not in found.words


def test_one_attack_alone_needs_no_comparison() -> None:
    found = page(margins([1, 2], [0.5, -1]))
    assert "survival" not in found.ids


def test_many_attacks_make_a_small_matrix() -> None:
    names = [f"a{i}" for i in range(30)]
    attacks = [rows(name, range(40), dict.fromkeys(range(i), 1)) for i, name in enumerate(names)]
    report = Report(run(names, every=True), [shard([0] * 40, [0] * 40, attacks)])
    shown = figures.parts(report)["survival"]
    assert len(shown["overlap"]) == len(shown["names"]) == 12
    assert shown["names"][-1] == "a29"
    assert (len(shown["rows"]), shown["left_out"]) == (30, 18)


def test_margins_are_told() -> None:
    found = page(margins([5, 4, 3, 2, 6, -1], [4.0, 0.2, -1, -2, 0.39, -9]))
    assert {"margins"} <= set(found.ids)
    assert "Median unaltered 3.5 (95" in found.words
    assert "2 of 3 robust samples: 67" in found.words


def test_the_curve_of_distances_and_their_median() -> None:
    found = page(measuring([0.02, 0.03, 0.03, 0.07, 0.3, math.inf, 0.0]))
    assert "For half of the 6 samples that are right unaltered there is one within 0.05" in (
        found.words
    )
    assert "Whiskers" not in found.words
    few = page(measuring([0.05, math.inf, math.inf, 0.0]))
    assert "for 1 of the 3 samples that are right unaltered, which is less than half" in few.words
    other = page(Report(run(n=10, curve=[0.5]), [ten()]))
    assert "Whiskers" in other.words


@pytest.mark.parametrize("radii", [[0.0], [math.inf, 0.0], [0.05, 0.0], [1e-6, 50.0, 0.0]])
def test_curves_of_few_distances(radii: list[float]) -> None:
    page(measuring(radii))


def test_classes_are_told_in_words() -> None:
    found = page(imbalanced())
    assert "The worst class is b" in found.words
    assert "Macro average" in found.words


def test_the_truth_between_two_curves() -> None:
    proofs = certified({4: 0.3, 3: 0.15, 2: 0.05, 1: 0.0})
    found = page(attacked(SMOOTHING), proofs)
    assert {"bracket"} <= set(found.ids)
    assert "#bracket" in found.references
    assert "lies between 25" in found.words
    assert "On the 4 samples that were both attacked and certified" in found.words
    assert "Two models" in page(attacked(), proofs).words
    linf = page(Report(run(n=10), [ten()]), proofs)
    assert "bounded in L∞. The truth cannot be bracketed." in linf.words
    assert "bracket" not in page(attacked()).ids


def test_what_it_cost() -> None:
    record = run(n=10)
    record["flops"] = {"model": {"forward": 2_000_000, "backward": 3_000_000}}
    record["energy"] = {"joules": 7200.0, "sources": ["GPU (NVML)"]}
    report = Report(record, [ten()])
    found = page(report)
    forwards, backwards = (sum(a[k] for a in report.attacks) for k in ("forwards", "backwards"))
    total = 2e6 * forwards + 3e6 * backwards
    assert report.to_json()["flops"] == total
    assert "2 M for a forward and 3 M for a backward" in found.words
    assert f"{total / 1e9:.3g} G" in found.words
    assert "Energy 2 Wh for the whole run" in found.words
    record["flops"] = {"model": {"why": "The model runs elsewhere."}}
    assert "The model runs elsewhere." in page(Report(record, [ten()])).words
    assert Report(record, [ten()]).to_json()["flops"] is None


def test_adaptive_attacks_cost_what_the_defenses_expose() -> None:
    record = run(n=10)
    each = {"forward": 10, "backward": 10}
    record["flops"] = {"model": each, "exposed": {"forward": 100, "backward": 100}}
    for attack, known in zip(record["spec"]["attacks"], (False, True), strict=True):
        attack["adaptive"] = known
    naive, adaptive = Report(record, [ten()]).attacks
    assert naive["flops"] == 10 * (naive["forwards"] + naive["backwards"])
    assert adaptive["flops"] == 100 * (adaptive["forwards"] + adaptive["backwards"])


def test_runs_of_nothing() -> None:
    for report in (Report(run(n=30), []), Report(run([]), [shard([0, 1], [0, 0], [])])):
        ids = page(report).ids
        assert not {"survival", "margins", "bracket", "transfer", "cost"} & set(ids)


def test_a_thousand_classes_stay_small() -> None:
    labels = np.arange(2000) % 1000
    hits = {int(i): int((labels[i] + 1) % 1000) for i in range(0, 2000, 3)}
    report = Report(
        run(["first"], n=2000), [shard(labels, labels, [rows("first", range(2000), hits)])]
    )
    text = render(report)
    assert len(text) < 2_000_000
    assert report.worst_class["candidates"]
    assert "of 1,000 classes may be the one" in Page(text).words
