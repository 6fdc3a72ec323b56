"""Naive and adaptive figures, and the shares of random models, from rows made by hand."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from synthetic import rows, run, shard

from robust.console import attack_results, folded
from robust.core.outcome import Shard
from robust.reports.html import render
from robust.reports.rates import wilson
from robust.reports.summary import Report
from robust.reports.text import NARROW, points

BIT_DEPTH = {
    **{"name": "bit-depth", "params": {"bits": 3}, "label": "bit-depth,bits=3"},
    **{"family": "denoising", "paper": "1711.00117", "claims": "noise is rounded away"},
    "broken_by": "BPDA (1802.00420)",
}


def record(*adaptive: bool, guessed: bool = False, draws: int = 1, **spec: Any) -> dict[str, Any]:
    """A run of attacks a0, a1, … on a model behind one defense."""
    made = run([f"a{i}" for i in range(len(adaptive))], **spec)
    for attack, known in zip(made["spec"]["attacks"], adaptive, strict=True):
        attack["adaptive"] = known
    made["spec"]["model"] |= {"defenses": [BIT_DEPTH], "draws": draws, "guessed": guessed}
    return {**made, "defenses": [BIT_DEPTH]}


def eight(*hits: dict[int, int]) -> Shard:
    """Eight samples of class 0, the last misclassified; the attack a<i> breaks those of hits[i]."""
    attacks = [rows(f"a{i}", range(7), found) for i, found in enumerate(hits)]
    return shard([0] * 8, [0] * 7 + [1], attacks)


def test_naive_accuracy_is_what_the_naive_attacks_leave_whatever_their_place() -> None:
    report = Report(record(True, False, every=True), [eight({0: 1, 1: 1, 2: 1}, {2: 1, 3: 1})])
    assert report.naive_accuracy == 5 / 8
    assert report.naive_accuracy_ci == wilson(5, 8)
    assert report.robust_accuracy == 3 / 8
    assert report.false_security == 2 / 8
    assert report.false_security_words == (
        "False security: 25 points. Naive attacks, which take the model as it is deployed, leave "
        f"62.5{NARROW}%; those that know its defenses leave 37.5{NARROW}%."
    )


def test_no_false_security_is_said_too() -> None:
    report = Report(record(False, True), [eight({0: 1}, {})])
    assert report.false_security == 0
    assert report.false_security_words.startswith("No false security: ")


def test_what_was_not_measured_is_none_and_said() -> None:
    naive = Report(record(False), [eight({0: 1})])
    assert (naive.naive_accuracy, naive.false_security) == (6 / 8, None)
    assert any(note.startswith("Only naive attacks ran") for note in naive.notes)
    adaptive = Report(record(True), [eight({0: 1})])
    assert (adaptive.naive_accuracy, adaptive.false_security) == (None, None)
    assert any(note.startswith("Adaptive attacks alone") for note in adaptive.notes)
    asked = record(False)
    del asked["spec"]["attacks"][0]["adaptive"]
    asked["spec"]["access"] = "scores"
    black = Report(asked, [eight({0: 1})])
    assert black.naive_accuracy is None
    assert any("Only attacks that only ask the model ran" in note for note in black.notes)


def test_each_defense_is_told_and_whether_its_attack_was_guessed() -> None:
    report = Report(record(False, True, guessed=True), [eight({}, {})])
    assert (
        "bit-depth,bits=3 (denoising, arXiv 1711.00117) claims: noise is rounded away; known to "
        "break it: BPDA (1802.00420)." in report.notes
    )
    (guessed,) = [note for note in report.notes if "was guessed" in note]
    assert "(BPDA)" in guessed
    assert "EOT" not in guessed
    report = Report(record(False, True, guessed=True, draws=20), [eight({}, {})])
    assert any("averaged over 20 draws (EOT)" in note for note in report.notes)


def random() -> Shard:
    """Four samples of class 0 in draws: a0 fools 0 and 1 by luck, a1 comes further with 0 and 2."""
    made = shard(
        [0] * 4,
        [0] * 4,
        [
            rows("a0", range(4), {0: 1, 1: 1}, trial=np.array([0.6, 0.5, 0.1, 0.0]),
                 fooled=np.array([0.5, 0.6, 0.3, 0.1])),
            rows("a1", [0, 2], {0: 2, 2: 1}, trial=np.array([0.9, 1.0]),
                 fooled=np.array([0.8, 0.9])),
        ],
    )  # fmt: skip
    made.trial, made.right = np.array([1.0, 0.9, 0.8, 0.5]), np.array([1.0, 1.0, 0.9, 0.4])
    return made


def test_shares_are_told_by_other_draws_than_those_that_chose() -> None:
    made = random()
    assert made.withstood([]) == pytest.approx([1.0, 1.0, 0.9, 0.4])
    # 2 is wrong in 0.2 of the draws unaltered, and 3 in half: a0 does no worse there.
    assert made.withstood(made.attacks[:1]) == pytest.approx([0.5, 0.4, 0.9, 0.4])
    assert made.withstood(made.attacks) == pytest.approx([0.2, 0.4, 0.1, 0.4])
    report = Report(record(False, True, draws=20, checks=20), [made])
    assert report.random
    assert report.clean_accuracy == pytest.approx(3.3 / 4)
    assert report.naive_accuracy == pytest.approx(2.2 / 4)
    assert report.robust_accuracy == pytest.approx(1.1 / 4)
    assert report.robust_accuracy_ci == pytest.approx(wilson(1.1, 4))
    assert [a["robust_accuracy"] for a in report.attacks] == pytest.approx([0.55, 0.275])
    assert [a["fooled"] for a in report.attacks] == pytest.approx([1.5 / 4, 1.7 / 2])
    assert report.counts == {"robust": 1, "broken": 2, "misclassified": 1}
    assert report.curve == [(0.0, report.clean_accuracy), (0.1, report.robust_accuracy)]
    assert report.per_class[0]["robust_accuracy"] == report.robust_accuracy
    # The example that is shown is the one that fools most draws, not the first.
    assert [(e.attack, e.fooled) for e in report.gallery] == [("a1", 0.8), ("a0", 0.6), ("a1", 0.9)]
    assert report.confusion[0].tolist() == [0, 2, 1]
    told = report.to_json()
    assert (told["draws"], told["naive_accuracy"]) == (20, report.naive_accuracy)
    assert told["curve"][1]["ci"] == pytest.approx(report.robust_accuracy_ci)
    assert json.dumps(told)


def test_minimal_attacks_on_a_random_model_leave_an_upper_bound() -> None:
    made = record(False, True, draws=20, checks=20)
    before = Report(made, [random()]).notes
    made["spec"]["attacks"][1]["minimal"] = True
    (more,) = [note for note in Report(made, [random()]).notes if note not in before]
    assert "upper bound" in more


def test_other_draws_cannot_make_a_model_more_robust_than_right() -> None:
    made = shard([0], [0], [rows("a0", [0], {}, trial=np.array([0.2]), fooled=np.zeros(1))])
    made.trial, made.right = np.array([0.9]), np.array([0.8])
    report = Report(record(False, draws=20, checks=20), [made])
    assert report.robust_accuracy == report.naive_accuracy == report.clean_accuracy == 0.8


def test_an_oracle_keeps_its_successes() -> None:
    """Repeated checks of an oracle are no shares: it counts where half of them are fooled."""
    report = Report(
        run(["a0"], access="scores", checks=20, draws=5),
        [
            shard(
                [0] * 4, [0] * 4, [rows("a0", range(4), {0: 1}, fooled=np.array([0.6, 0, 0, 0.3]))]
            )
        ],
    )
    assert not report.random
    assert report.robust_accuracy == 0.75
    assert report.attacks[0]["fooled"] is None


def test_the_interval_of_shares_agrees_with_that_of_counts() -> None:
    for k, n in ((0, 5), (3, 5), (5, 5), (1, 400), (250, 500)):
        ci = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((ci.low, ci.high), abs=1e-12)
    low, high = wilson(2.5, 5)
    assert wilson(2, 5)[0] < low < wilson(3, 5)[0]
    assert wilson(2, 5)[1] < high < wilson(3, 5)[1]


def test_points() -> None:
    found = [points(value) for value in (0.71, 0.0433, 0.05, 0.1, 0.0)]
    assert found == ["71 points", "4.3 points", "5 points", "10 points", "0 points"]


def test_the_page_says_it() -> None:
    page = render(Report(record(False, True, draws=20, checks=20), [random()]))
    assert page.count("False security: 28 points.") == 1
    assert "in the mean over 20 draws of each answer" in page
    assert "fooled the model in 16 of 20 draws" in page
    assert "draws fooled" in page
    assert "The model answers at random." in page
    plain = render(Report(run(["a0"]), [eight({0: 1})]))
    for word in ("False security", "Naive accuracy", "at random", "draws"):
        assert word not in plain


def test_the_console_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    attack_results(Report(record(False, True, draws=20, checks=20), [random()]), None)
    told = capsys.readouterr().out
    assert "means over 20 draws" in told
    assert "naive accuracy 55.0% (95% interval" in told
    assert "note: False security: 28 points." in told
    table, _, said = told.partition("clean accuracy ")
    assert max(map(len, table.splitlines())) <= 80
    assert all(line.startswith(("naive", "note:")) for line in said.splitlines()[1:])
    label = "apgd,steps=50,loss=margin,adaptive=true,eot=20"
    assert folded(label) == "apgd,steps=50,loss=margin,\nadaptive=true,eot=20"
    assert folded("pgd") == "pgd"
