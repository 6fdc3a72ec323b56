"""Leaderboards: who competes with whom, in what order, and what is said against a place."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact
from synthetic import rows, run, shard, ten

from robust.reports.checks import Verdict
from robust.reports.entry import Entry, difference
from robust.reports.leaderboard import Group, Leaderboard, letter
from robust.reports.leaderboard_page import chance, gap, render_leaderboard, to_json
from robust.reports.scatter import Point, scatter, unexceeded
from robust.reports.summary import Report

SOUND = Verdict("trustworthy", ["No check speaks against it."], False, "")


def made(
    name: str,
    left: str = "1" * 10,
    *,
    wrong: int = 0,
    ids: Sequence[int] | None = None,
    verdict: str | None = "trustworthy",
    attacks: Sequence[str] = ("auto",),
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    status: str = "done",
    n: int | None = None,
    **spec: Any,
) -> Entry:
    """A run that leaves the samples of which `left` says 1; the first `wrong` of those it does not
    leave are wrong unaltered.
    """
    labels = [0] * len(left)
    broken = [i for i, one in enumerate(left) if one == "0"]
    prediction = [int(i in broken[:wrong]) for i in range(len(left))]
    given = [i for i in range(len(left)) if not prediction[i]]
    hits = dict.fromkeys(broken[wrong:], 1)
    made = shard(labels, prediction, [rows(label, given, hits) for label in attacks])
    if ids is not None:
        made.ids = np.array(ids, dtype=np.int64)
    record = run(attacks, n=n, **spec) | {"status": status}
    record["spec"]["model"] |= {"path": f"models/{name}.pt", "sha256": name} | (model or {})
    record["spec"]["data"] |= data or {}
    entry = Entry.of(Report(record, [made]), name=name, href=f"{name}/report.html")
    found = verdict and dataclasses.replace(SOUND, status=verdict)
    return dataclasses.replace(entry, verdict=found)


def only(*entries: Entry, baseline: Entry | None = None) -> Group:
    (group,) = Leaderboard(entries, baseline).groups
    return group


def ranks(group: Group) -> dict[str, int | None]:
    return {standing.entry.name: standing.rank for standing in group.standings}


def remarks(group: Group, name: str) -> list[str]:
    (its,) = [standing for standing in group.standings if standing.entry.name == name]
    return [remark.short for remark in ([its.why] if its.why else its.cautions)]


def test_an_entry_of_a_run() -> None:
    record = run(attacks=("first", "second"), n=10)
    record["spec"]["model"] |= {"arch": "small-cnn", "parameters": 85_100}
    entry = Entry.of(Report(record, [ten()]), name="a", href=None)
    assert (entry.model, entry.arch, entry.parameters) == ("m.pt", "small-cnn", 85_100)
    assert (entry.clean, entry.robust, entry.n) == (0.8, 0.4, 10)
    assert entry.left.tolist() == [0] * 6 + [1] * 4
    assert entry.cost["queries"] == sum(10 + i for i in range(8)) + sum(100 + i for i in range(5))
    assert entry.cost["seconds"] == 12.5
    assert entry.complete
    assert entry.verdict is None
    assert not entry.diagnosed
    assert entry.date == "2026-01-02"


def test_ranks_fall_and_equal_ones_are_shared() -> None:
    group = only(made("c", "1" * 5 + "0" * 5), made("a"), made("d", "0" * 10), made("b"))
    assert ranks(group) == {"a": 1, "b": 1, "c": 3, "d": 4}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"fingerprint": "ef" * 32}}, "the data, digits, have other contents"),
        (
            {"data": {"fingerprint": "ef" * 32, "source": "cifar"}},
            "the data are others (digits against cifar)",
        ),
        ({"eps": 0.2}, "ε is another (0.1 against 0.2)"),
        ({"eps": 0.2, "data": {"source": "/elsewhere"}}, "ε is another (0.1 against 0.2)"),
        ({"norm": "l2"}, "the norm is another (L∞ against L2)"),
        ({"low": -1.0}, "the range of the data is another ([0, 1] against [-1, 1])"),
        ({"targeted": "next"}, "the goal is another (any wrong class against next)"),
        ({"access": "labels"}, "the attacker sees something else (gradient against labels)"),
        (
            {"surrogates": [{"sha256": "s"}]},
            "the attacker sees something else (gradient against transfer)",
        ),
    ],
)
def test_what_does_not_compare(change: dict[str, Any], says: str) -> None:
    board = Leaderboard([made("a"), made("b"), made("c", **change)])
    first, second = board.groups
    assert set(ranks(first)) == {"a", "b"}
    assert set(ranks(second)) == {"c"}
    assert (first.label, second.label) == ("A", "B")
    assert board.apart == [f"Runs of A and B do not compare: {says}."]


def test_the_same_samples_elsewhere_compare() -> None:
    board = Leaderboard([made("a"), made("b", data={"source": "/elsewhere/digits.npz"})])
    assert len(board.groups) == 1


def test_neighbours_on_the_same_samples_are_paired() -> None:
    a = made("a", "1" * 12 + "00" + "11")
    b = made("b", "1" * 4 + "0" * 8 + "10" + "11")  # a alone is right 8 times, b alone once
    found = difference(a, b)
    assert (found.kind, found.n) == ("paired", 16)
    assert found.difference == pytest.approx(7 / 16)
    assert found.p == pytest.approx(binomtest(8, 9).pvalue)
    assert difference(b, a).difference == pytest.approx(-7 / 16)


def test_samples_are_paired_by_their_ids() -> None:
    a = made("a", "1" * 10 + "00")
    b = made("b", "0" * 10 + "11", ids=range(11, -1, -1))  # right on 0 and 1, as the former is
    assert difference(a, b).p == pytest.approx(binomtest(8, 8).pvalue)


def test_neighbours_on_other_samples_are_independent() -> None:
    a = made("a", "1" * 9 + "0")
    b = made("b", "1" * 2 + "0" * 8, ids=range(6, 16))  # four of ten in common
    found = difference(a, b)
    assert (found.kind, found.n) == ("independent", 4)
    assert found.difference == pytest.approx(0.7)
    assert found.p == pytest.approx(fisher_exact([[9, 1], [2, 8]]).pvalue)
    half = made("h", "1" * 2 + "0" * 8, ids=range(5, 15))
    assert difference(a, half).kind == "paired"
    assert difference(a, half).n == 5


def test_p_is_raised_for_the_number_of_comparisons() -> None:
    a, b = made("a", "1" * 40), made("b", "1" * 34 + "0" * 6)
    c, d = made("c", "1" * 24 + "0" * 16), made("d", "1" * 23 + "0" * 17)
    group = only(a, b, c, d)
    raw = [binomtest(k, k).pvalue for k in (6, 10, 1)]
    found = [standing.ahead for standing in group.ranked[:-1]]
    assert [one.p for one in found if one] == pytest.approx(raw)
    # Holm: the smallest three times, the next twice, the largest as it is.
    expected = [2 * raw[0], 3 * raw[1], 1.0]
    assert [one.adjusted for one in found if one] == pytest.approx(expected)
    assert [one.significant for one in found if one] == [False, True, False]
    assert group.ranked[-1].ahead is None


def test_what_cannot_be_told_apart_from_the_first() -> None:
    a, b = made("a", "1" * 40), made("b", "1" * 34 + "0" * 6)  # p = 0.031, of three pairs
    c, d = made("c", "1" * 24 + "0" * 16), made("d", "1" * 40, status="running")
    assert [standing.entry.name for standing in only(a, b, c, d).level] == ["b"]
    assert only(d).level == []


def test_equal_models_are_seldom_told_apart() -> None:
    """The first of ten was lucky: whoever is compared with it must know that."""
    rng = np.random.default_rng(0)
    entries = [made(str(i), "1" * 200) for i in range(10)]
    wrongly = by_neighbours = 0
    for _ in range(100):
        drawn = [(rng.random(200) < 0.5).astype(float) for _ in entries]
        group = only(
            *(
                dataclasses.replace(entry, left=left, robust=float(left.mean()))
                for entry, left in zip(entries, drawn, strict=True)
            )
        )
        wrongly += len(group.level) < 9
        by_neighbours += any(s.ahead is not None and s.ahead.significant for s in group.ranked)
    assert wrongly <= 8
    assert by_neighbours <= 8


def test_of_one_model_the_run_that_leaves_least_counts() -> None:
    same = {"sha256": "one"}
    group = only(
        made("pgd", "1" * 9 + "0", attacks=["pgd"], model=same),
        made("auto", "1" * 8 + "00", model=same),
        made("other", "1" * 7 + "000"),
    )
    assert ranks(group) == {"auto": 1, "other": 2, "pgd": None}
    assert remarks(group, "pgd") == ["same model"]
    (pgd,) = [standing for standing in group.standings if standing.entry.name == "pgd"]
    assert pgd.why is not None
    assert pgd.why.words == "auto leaves no more of the same model."


def test_of_one_model_on_other_samples_the_stronger_attack_counts() -> None:
    same = {"sha256": "one"}
    group = only(
        made("pgd", "1" * 8 + "00", attacks=["pgd"], model=same, ids=range(100, 110)),
        made("auto", "1" * 9 + "0", model=same),
    )
    assert ranks(group) == {"auto": 1, "pgd": None}


def test_a_model_behind_defenses_is_another_model() -> None:
    same: dict[str, Any] = {"sha256": "one"}
    behind = same | {"defenses": [{"name": "jpeg", "params": {"quality": 75}}]}
    weaker = same | {"defenses": [{"name": "jpeg", "params": {"quality": 90}}]}
    group = only(made("a", model=same), made("b", model=behind), made("c", "0" * 10, model=weaker))
    assert ranks(group) == {"a": 1, "b": 1, "c": 3}
    unknown = {"sha256": "", "path": ""}
    assert ranks(only(made("a", model=unknown), made("b", model=unknown))) == {"a": 1, "b": 1}


def test_what_has_no_rank() -> None:
    group = only(
        made("fine", "1" * 5 + "0" * 5),
        made("broken", verdict="broken"),
        made("running", status="running"),
        made("half", n=20),
        dataclasses.replace(made("torn", n=20), damaged=1),
        made("idle", attacks=[]),
    )
    assert ranks(group)["fine"] == 1
    assert sum(rank is not None for rank in ranks(group).values()) == 1
    told = {name: remarks(group, name) for name in ranks(group)}
    assert told["broken"] == ["broken"]
    assert told["running"] == told["half"] == ["unfinished"]
    assert told["torn"] == ["damaged"]
    assert told["idle"] == ["no attack"]
    assert told["fine"] == []


def test_a_broken_run_of_a_model_still_shows_what_is_there() -> None:
    """What attacks found of it was found, so that another run's higher figure has no rank."""
    same = {"sha256": "one"}
    group = only(
        made("high", "1" * 9 + "0", model=same),
        made("low", "1" * 5 + "0" * 5, model=same, verdict="broken"),
    )
    assert ranks(group) == {"high": None, "low": None}


def test_a_higher_figure_of_a_weaker_attack_does_not_win_silently() -> None:
    group = only(
        made("easy", "1" * 9 + "0", attacks=["fgsm"]),
        made("hard", "1" * 8 + "00"),
        made("low", "0" * 10, attacks=["fgsm"]),
    )
    assert ranks(group) == {"easy": 1, "hard": 2, "low": 3}
    assert remarks(group, "easy") == ["weaker attack"]
    assert remarks(group, "hard") == []
    assert remarks(group, "low") == []  # it wins over nobody
    for easy, hard in ("ab", "ba"):
        tied = only(made(easy, attacks=["fgsm"]), made(hard))
        assert remarks(tied, easy) == ["weaker attack"]
        assert remarks(tied, hard) == []
    (easy,) = group.ranked[0].cautions
    assert (
        easy.words == "fgsm is weaker than what ran on hard (auto): the rank may be owed to that."
    )
    assert group.sound is not None
    assert group.sound.entry.name == "hard"


def test_doubts_are_said() -> None:
    naive = made("naive", "1" * 6 + "0000")
    for asked in naive.spec["attacks"]:
        asked["adaptive"] = False
    group = only(
        made("unsure", verdict="doubtful"),
        made("unseen", "1" * 9 + "0", verdict=None),
        naive,
        made("sure", "1" * 5 + "0" * 5),
    )
    assert remarks(group, "unsure") == ["doubtful"]
    assert remarks(group, "unseen") == ["not checked"]
    assert remarks(group, "naive") == ["naive attack", "weaker attack"]
    assert group.sound is not None
    assert group.sound.entry.name == "sure"


def test_the_baseline() -> None:
    base = made("base", "1" * 4 + "0" * 12)
    better, worse = made("better", "1" * 12 + "0" * 4), made("worse", "1" * 3 + "0" * 13)
    elsewhere = made("elsewhere", "1" * 16, eps=0.3)
    board = Leaderboard([base, better, worse, elsewhere], base)
    first, second = board.groups
    gains = {s.entry.name: s.gain for s in first.standings}
    assert gains["base"] is None
    assert gains["better"] is not None
    assert gains["better"].difference == 0.5
    assert gains["better"].adjusted == pytest.approx(2 * binomtest(8, 8).pvalue)
    assert gains["worse"] is not None
    assert gains["worse"].difference == pytest.approx(-1 / 16)
    assert [s.baseline for s in first.standings] == [False, True, False]
    assert second.baseline is None
    assert second.standings[0].gain is None


def test_the_front() -> None:
    group = only(
        made("robust", "1" * 6 + "0000", wrong=4),
        made("clean", "1" * 4 + "0" * 6),
        made("neither", "1" * 3 + "0" * 7, wrong=5),
        made("same", "1" * 4 + "0" * 6),
    )
    assert [entry.name for entry in group.front] == ["robust", "clean"]
    points = [(1, 1), (2, 3), (0, 3), (2, 3), (4, 0)]
    assert unexceeded(points, lambda p: p) == [(2, 3), (4, 0)]


def test_shares_of_random_models_are_compared() -> None:
    def random(name: str, share: float) -> Entry:
        left = np.full(40, share)
        return dataclasses.replace(made(name, "1" * 40), left=left, robust=share)

    found = difference(random("a", 0.9), random("b", 0.8))
    assert found.kind == "paired"
    assert found.difference == pytest.approx(0.1)
    assert found.significant


def test_letters() -> None:
    assert [letter(i) for i in (0, 1, 25, 26, 27, 701, 702)] == [
        "A",
        "B",
        "Z",
        "AA",
        "AB",
        "ZZ",
        "AAA",
    ]


def test_words() -> None:
    def of(left: str, other: str) -> str:
        return gap(difference(made("a", left), made("b", other)))

    assert of("1111", "1110") == "+25 points"
    assert of("1110", "1111") == "−25 points"
    assert of("1110", "0111") == "0 points"
    assert (chance(0.0312), chance(0.0004), chance(1.0)) == ("p = 0.031", "p < 0.001", "p = 1")


EVIL = '<script>alert("1")</script>'


def test_strings_of_users_stay_text() -> None:
    first = made(EVIL, model={"path": f"m/{EVIL}.pt", "arch": EVIL}, data={"source": EVIL})
    second = made(
        f"{EVIL}2", "1" * 9 + "0", attacks=[EVIL], data={"source": EVIL}, verdict="doubtful"
    )
    third = made("c", eps=0.2, targeted=EVIL)
    page = render_leaderboard(Leaderboard([first, second, third], first))
    assert EVIL not in page
    assert page.count("<script") == 1
    assert "&lt;script&gt;" in page
    assert not re.search(r"""(href|src)=["'](javascript|data|https?):""", page)


def test_the_page_says_what_the_figures_do() -> None:
    base = made("base", "1" * 4 + "0" * 12)
    page = render_leaderboard(
        Leaderboard([base, made("easy", "1" * 12 + "0" * 4, attacks=["fgsm"])], base)
    )
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\u202f", " ")
    assert "Highest robust accuracy 75 %" in plain
    assert "It is told apart from all runs below it." in plain
    assert "Something speaks against it: weaker attack." in plain
    assert "The highest place that nothing speaks against is 2, base , with 25 %." in plain
    assert "fgsm is weaker than what ran on base (auto): the rank may be owed to that." in plain
    assert '<a href="base/report.html">base</a>' in page
    assert "the same 16 samples" in plain
    assert "weaker than those of the next" in plain


def test_a_page_of_many_runs_is_small() -> None:
    rng = np.random.default_rng(0)
    entries = []
    for i in range(150):
        left = "".join(map(str, (rng.random(50) < 0.5).astype(int)))
        entries.append(made(f"run-{i:03d}", left, eps=0.1 if i % 3 else 0.2))
    page = render_leaderboard(Leaderboard(entries, entries[1]))
    assert page.count("<tr data-item") == 150
    assert len(page.encode()) < 1_000_000


def test_json() -> None:
    base = made("base", verdict=None)
    board = Leaderboard([base, made("idle", attacks=[]), made("b", "1" * 6 + "0" * 4)], base)
    found = json.loads(json.dumps(to_json(board, ["c is no run folder"]), allow_nan=False))
    assert found["skipped"] == ["c is no run folder"]
    (group,) = found["groups"]
    assert group["baseline"] == "base"
    assert group["front"] == ["base"]
    runs = {one["run"]: one for one in group["runs"]}
    assert runs["b"]["rank"] == 2
    assert runs["b"]["robust_accuracy"] == 0.6
    assert runs["b"]["against_baseline"]["difference"] == pytest.approx(-0.4)
    assert runs["base"]["against_next"]["kind"] == "paired"
    assert runs["idle"]["robust_accuracy"] is None
    assert runs["idle"]["rank"] is None
    assert runs["idle"]["unranked_because"] == "No attack ran."


def test_marks_cover_nothing() -> None:
    near = [Point(x, 0.5, "t", mark=str(i)) for i, x in enumerate((0.5, 0.501, 0.502, 0.503))]
    svg = scatter([*near, Point(0, 0, "t", mark="far")], label="l", x_name="x", y_name="y")
    marks = re.findall(r'<text x="([\d.]+)" y="[\d.]+">(\w+)</text>', svg)
    assert "far" in [mark for _, mark in marks]
    shown = [mark for _, mark in marks if mark != "far"]
    assert 1 <= len(shown) <= 2  # one at the left, one at the right
