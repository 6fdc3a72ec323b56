"""Two runs compared: pairs of samples, what is significant, what is refused."""

import json
import re

import numpy as np
import pytest
from report_kinds import HOSTILE, RUNS, defended_record, defended_shard, kinds
from scipy.stats import binomtest
from synthetic import rows, run, shard

from robust.reports import diff_markdown
from robust.reports.diff import Difference, conflicts
from robust.reports.gates import fail_if_worse_than
from robust.reports.summary import Report

N = 60


def attacked(broken, *, ids=range(N), wrong=(), classes=2, record=None, labels=None, **spec):
    """A run on samples of classes 0, 1, …, of which the attack breaks those of these ids."""
    ids = np.array(ids)
    y = ids % classes if labels is None else np.array(labels)
    p = np.where(np.isin(ids, wrong), (y + 1) % classes, y)
    places = {int(i): int((y[i] + 1) % classes) for i in np.flatnonzero(np.isin(ids, broken))}
    given = [int(i) for i in np.flatnonzero(p == y)]
    found = shard(y, p, [rows("first", given, {i: k for i, k in places.items() if i in given})])
    found.ids = ids
    return Report(record or run(["first"], n=len(ids), **spec), [found])


def test_samples_are_paired_by_their_ids_whatever_their_order() -> None:
    base = attacked(range(10))
    shuffled = attacked(range(5, 30), ids=range(N)[::-1])
    found = Difference(base, shuffled)
    assert found.newly_broken == list(range(10, 30))
    assert found.newly_robust == list(range(5))
    assert found.robust is not None
    assert (found.robust.before, found.robust.after) == (50 / 60, 35 / 60)
    assert found.robust.difference == pytest.approx(-15 / 60)
    assert found.robust.p == pytest.approx(binomtest(5, 25).pvalue)
    assert found.worse
    assert not found.better
    assert Difference(shuffled, base).better
    assert Difference(shuffled, base).robust.difference == pytest.approx(15 / 60)


def test_what_chance_explains_is_neither_worse_nor_better() -> None:
    found = Difference(attacked(range(10)), attacked(range(5, 17)))
    assert found.robust is not None
    assert found.robust.difference < 0
    assert not found.worse
    assert not found.better
    assert fail_if_worse_than(found, "base").passed
    same = Difference(attacked(range(10)), attacked(range(10)))
    assert (same.robust.p, same.robust.difference) == (1, 0)
    assert same.cautions == []
    assert same.changed == []


def test_the_gate_fails_where_it_is_worse() -> None:
    gate = fail_if_worse_than(Difference(attacked(range(10)), attacked(range(30))), "base")
    assert not gate.passed
    assert re.search(r"0\.5 is significantly worse than the 0\.8333 of base", gate.told)
    better = fail_if_worse_than(Difference(attacked(range(30)), attacked(range(10))), "base")
    assert better.passed


def test_clean_accuracy_is_compared_too() -> None:
    found = Difference(attacked([]), attacked([], wrong=range(12)))
    assert found.clean is not None
    assert found.clean.difference == pytest.approx(-12 / 60)
    assert found.clean.significant
    assert found.robust.difference == found.clean.difference


def test_only_samples_of_both_runs_count() -> None:
    found = Difference(attacked(range(20)), attacked([0, 1, 55], ids=range(10, 60)))
    assert (len(found.ids), found.robust.n) == (50, 50)
    assert found.newly_broken == [55]
    assert found.newly_robust == list(range(10, 20))
    assert any("Only 50 samples of 60 and 50 are in both runs" in said for said in found.cautions)


def test_classes_are_compared_for_all_at_once() -> None:
    # Of class 0 twelve samples more are broken, of class 1 one, of class 2 none.
    broken = [*range(0, 36, 3), 1]
    found = Difference(attacked([], classes=3), attacked(broken, classes=3))
    first, second, third = found.per_class
    assert (first.name, first.n, first.difference) == ("0", 20, pytest.approx(-12 / 20))
    assert first.p == pytest.approx(3 * binomtest(0, 12).pvalue)  # Holm: three tests
    assert first.significant
    assert (second.name, second.p) == ("1", 1)
    assert third.difference == 0


def test_attacks_are_told_by_their_labels() -> None:
    one = Report(*RUNS["plain"]())
    found = Difference(one, attacked(range(3), ids=range(10)))
    assert found.attacks == [
        {"attack": "first", "before": 0.5, "after": 0.7},
        {"attack": "second", "before": 0.4, "after": None},
    ]


def test_what_changed_is_listed() -> None:
    record = run(["first"], n=N, seed=8)
    record["spec"]["model"] |= {"path": "other.pt", "sha256": "ef" * 32}
    record["versions"] = {"robust": "0.2.0", "torch": "2.13.0"}
    changed = {row.what: (row.before, row.after) for row in
               Difference(attacked([]), attacked([], record=record)).changed}  # fmt: skip
    assert changed == {
        "model": ("models/m.pt", "other.pt"),
        "model sha256": ("ab" * 32, "ef" * 32),
        "seed": ("7", "8"),
        "robust": ("0.1.0", "0.2.0"),
    }


def refused(change) -> list[str]:
    record = run(["first"], n=N)
    change(record["spec"])
    return conflicts(run(["first"], n=N)["spec"], record["spec"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["data"].update(fingerprint="99" * 32), "The data differ: digits (cdcdcdcd)"),
        (lambda s: s["threat"].update(eps=0.2), "The threats differ: L∞ ε = 0.1 and L∞ ε = 0.2"),
        (lambda s: s["threat"].update(norm="l2"), "The threats differ: L∞ ε = 0.1 and L2"),
        (lambda s: s["threat"].update(high=255.0), "The ranges of the data differ: [0, 1] and"),
        (lambda s: s.update(targeted="next"), "The attackers differ: any wrong class; and target"),
        (lambda s: s.update(access="labels"), "The attackers differ"),
    ],
)
def test_other_questions_are_told_apart(change, told) -> None:
    (only,) = refused(change)
    assert only.startswith(told)


def test_where_things_lie_does_not_matter() -> None:
    assert refused(lambda s: s["data"].update(source="elsewhere/digits")) == []
    assert refused(lambda s: s["model"].update(sha256="99" * 32)) == []
    assert refused(lambda s: s.update(seed=3, batch_size=2)) == []


def test_runs_on_other_data_are_compared_as_a_whole() -> None:
    record = run(["first"], n=N)
    record["spec"]["data"]["fingerprint"] = "99" * 32
    found = Difference(attacked(range(10)), attacked(range(30), record=record))
    assert not found.paired
    assert found.pairing == "other samples: Fisher's exact test"
    assert found.robust.difference == pytest.approx(-20 / 60)
    assert found.worse
    assert (found.newly_broken, found.per_class) == ([], [])


def test_weaker_attacks_and_doubtful_figures_are_warned_of() -> None:
    weak = run(["first"], n=N)
    weak["spec"]["attacks"][0]["params"] = {"steps": 10}
    found = Difference(attacked([]), attacked([], record=weak))
    assert found.cautions == [
        "The attacks of the second run are weaker than those of the first run: it may only look "
        "more robust."
    ]
    assert "stronger" in Difference(attacked([], record=weak), attacked([])).cautions[0]
    damaged = {**run(["first"], n=2 * N), "damage": {"shards/00001.h5": "it is empty"}}
    said = Difference(attacked([]), attacked([], record=damaged)).cautions
    assert "1 file of the second run could not be read." in said
    assert "Only 60 of 120 samples of the second run were measured." in said


def test_random_models_are_compared_by_their_shares() -> None:
    base, after = Report(defended_record(), [defended_shard()]), Report(*RUNS["random"]())
    found = Difference(base, after)
    assert found.robust is not None
    assert found.robust.after == pytest.approx(after.withstood.mean())
    assert "sign-flip test" in found.pairing


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_can_be_compared_with_a_plain_one(kind) -> None:
    for pair in ((KINDS["plain"], KINDS[kind]), (KINDS[kind], KINDS["plain"])):
        found = Difference(*pair)
        json.dumps(found.to_json(), allow_nan=False)
        text = diff_markdown.of(found, "runs/a", "runs/b")
        assert text.startswith("## Robustness: ")
        assert "nan" not in text
        assert "None" not in text


def test_the_comment_says_what_a_reviewer_asks() -> None:
    text = diff_markdown.of(
        Difference(attacked(range(10)), attacked(range(5, 30))), "runs/main", "runs/branch"
    ).replace("\u202f", " ")
    assert text.startswith("## Robustness: significantly worse (−25.0 points)\n")
    assert "`runs/branch` against `runs/main`; L∞ ε = 0.1." in text
    line = next(line for line in text.splitlines() if line.startswith("| robust accuracy"))
    assert line.startswith("| robust accuracy | 83.3 % | 58.3 % | −25.0 points | −")
    assert line.endswith("| p = 0.0041, significant |")
    assert "| clean accuracy | 100 % | 100 % | ±0.0 points |" in text
    assert "- Newly broken: 20 (ids 10, 11, 12," in text
    assert "- Newly robust: 5 (ids 0, 1, 2, 3, 4)" in text
    assert "Model, data, attacks, settings and versions are the same." in text


def test_long_lists_are_cut_and_counted() -> None:
    text = diff_markdown.of(Difference(attacked([]), attacked(range(50))))
    assert "18, 19 and 30 more)" in text
    classes = 30
    text = diff_markdown.of(
        Difference(attacked([], classes=classes), attacked(range(classes), classes=classes))
    )
    assert "20 classes moved less." in text


def test_hostile_names_stay_text_in_the_comment() -> None:
    text = diff_markdown.of(Difference(KINDS["plain"], KINDS["hostile"]), HOSTILE, HOSTILE)
    outside = re.sub(r"(`+).*?\1", "", text)
    assert "<script" not in outside
    assert "@team" not in outside
