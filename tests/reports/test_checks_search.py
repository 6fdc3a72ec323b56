"""What searches saw, whether they had converged, and the binarisation test: facts → checks."""

from typing import Any

import numpy as np
import pytest
from probe_facts import N, check, made, outcome
from synthetic import rows, run, shard

from robust.reports.checks import binarisation, convergence, search
from robust.reports.summary import Report
from robust.reports.traces import traces

PASSED = ("passed", "", False)
KEYS = ["silent-success", "incomplete-optimisation", "transfer-failure"]


def followed(**facts: Any) -> dict[str, Any]:
    """What the probe of traces saw of an honest attack that breaks half, but for these facts."""
    usual = {
        "attack": "pgd", "minimal": False, "given": N, "broken": 16, "silent": 0, "transferred": 0,
        "unbroken": 16, "flat": 0, "last_rise": [0.0] * 11, "answers": 41,
        "tenths": [16] + [0] * 9, "late": 0,
        "curve": {"of": "margin", "answers": [], "quantiles": {}},
    }  # fmt: skip
    return usual | facts


def traced(*attacks: dict[str, Any], **facts: Any) -> dict[str, Any]:
    found = list(attacks) or [followed()]
    return {"n": N, "silent_lost": 0, "transferred_lost": 0, "attacks": found, **facts}


def judged(key, *attacks, run=None, **facts):
    return check(search, key, made({"traces": traced(*attacks, **facts)}, **(run or {})))


# What searches saw


def test_honest_searches_pass():
    found = search.checks(made({"traces": traced()}))
    assert [one.key for one in found] == KEYS
    assert {outcome(one) for one in found} == {PASSED}
    assert {one.group for one in found} == {"ioaf"}
    assert all(one.figure and one.meaning.endswith(".") for one in found)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (made({}), "The run was not diagnosed for it."),
        (made({"traces": {"n": N, "error": "the attacks searched on a"}}), "The attacks searched"),
        (made({"traces": {"n": N, "attacks": []}}), "Another version of robust"),
        (made({"traces": traced() | {"attacks": []}}), "None of the attacks is one with gradients"),
    ],
)
def test_where_nothing_was_followed_nothing_applies(report, why):
    found = search.checks(report)
    assert [one.status for one in found] == ["not applicable"] * 3
    assert all(one.meaning.startswith(why) for one in found)


def test_one_success_that_was_lost_is_a_doubt_and_many_break_the_number():
    one = judged("silent-success", followed(silent=1, broken=15), silent_lost=1)
    assert outcome(one) == ("failed", "doubtful", False)
    assert one.figure == f"1 of {N} samples"
    many = judged("silent-success", followed(silent=12, broken=4), silent_lost=12)
    assert outcome(many) == ("failed", "broken", False)
    assert "12 samples" in many.meaning


def test_a_success_that_others_found_costs_nothing():
    found = judged("silent-success", followed(silent=5), followed(given=16, broken=5))
    assert outcome(found) == ("failed", "", False)
    assert found.value == 5 / N


def test_successes_that_do_not_transfer_are_a_doubt_where_they_are_lost():
    lost = judged("transfer-failure", followed(transferred=10), transferred_lost=8)
    assert outcome(lost) == ("failed", "doubtful", False)
    assert lost.value == 10 / N
    kept = judged("transfer-failure", followed(transferred=10), transferred_lost=1)
    assert outcome(kept) == PASSED
    assert "too few to prove" in kept.meaning


def test_of_a_number_that_is_nothing_no_doubt_remains():
    found = judged(
        "transfer-failure", followed(transferred=10), transferred_lost=8, run={"left": 4}
    )
    assert outcome(found) == ("failed", "", False)


@pytest.mark.parametrize(("share", "status"), [(0.0, "passed"), (0.05, "passed"), (0.06, "failed")])
def test_a_search_that_still_rises_at_its_end_is_incomplete(share, status):
    rises = [0.0] * 5 + [share] * 6  # its median
    found = judged("incomplete-optimisation", followed(last_rise=rises))
    assert found.status == status
    assert found.weight == ("doubtful" if status == "failed" else "")
    assert found.value == share


def test_one_attack_that_ends_where_it_can_is_enough():
    rising = followed(last_rise=[0.5] * 11)
    found = judged("incomplete-optimisation", rising, followed(attack="auto", given=16, broken=0))
    assert outcome(found) == PASSED
    assert "auto" in found.figure


def test_a_search_that_never_rises_says_nothing():
    flat = followed(flat=9, last_rise=[0.0] * 11)
    found = judged("incomplete-optimisation", flat)
    assert outcome(found) == ("failed", "broken", False)
    assert found.figure == "9 of 16 failed searches of pgd"
    assert judged("incomplete-optimisation", flat | {"minimal": True}).weight == "doubtful"
    assert judged("incomplete-optimisation", flat | {"flat": 8}).status == "passed"


def test_what_broke_everything_was_complete():
    found = judged("incomplete-optimisation", followed(broken=N, unbroken=0, last_rise=[]))
    assert outcome(found) == PASSED
    met = followed(broken=0, transferred=N, unbroken=0, last_rise=[])
    assert judged("incomplete-optimisation", met, transferred_lost=N).status == "not applicable"


def test_facts_of_another_version_are_told_from_those_of_this_one():
    report = made({probe: {"n": N} for probe in ("traces", "convergence", "binarisation")})
    for module in (search, convergence, binarisation):
        for one in module.checks(report):
            assert one.status == "not applicable"
            assert one.meaning.startswith("Another version of robust")


# Convergence


def converged(broken=0, robust=16, n=N):
    return {"n": n, "robust": robust, "broken": broken, "attacks": []}


def test_convergence_is_judged_by_what_the_samples_prove():
    def found(broken):
        return check(convergence, "convergence", made({"convergence": converged(broken)}))

    assert outcome(found(0)) == PASSED
    assert outcome(found(1)) == PASSED
    assert "prove" in found(1).meaning
    assert found(3).weight == "doubtful"
    eight = found(8)
    assert outcome(eight) == ("failed", "broken", False)
    # All 100 samples were classified correctly, so that 8 of 32 are a quarter of the number.
    assert eight.figure.startswith("8 of 16 samples left robust: 25 points")
    assert "11.5–43.4" in eight.figure  # Clopper-Pearson, 8 of 32
    assert eight.value == 0.25


def test_what_is_left_counts_as_a_share_of_all_samples():
    report = made({"convergence": converged(8)})
    report.columns.right[:50] = 0
    found = check(convergence, "convergence", report)
    assert found.value == 0.125


def test_where_nothing_is_left_nothing_can_change():
    found = check(convergence, "convergence", made({"convergence": converged(robust=0)}))
    assert outcome(found) == PASSED


def estimated(*attacks, **facts):
    return check(convergence, "convergence-estimate", made({"traces": traced(*attacks), **facts}))


def test_samples_that_break_late_tell_of_more():
    assert outcome(estimated()) == PASSED
    assert outcome(estimated(followed(late=1))) == PASSED
    late = estimated(followed(late=4))
    assert outcome(late) == ("failed", "doubtful", False)
    assert late.figure == "4 of 16 samples broke in the second half of pgd"
    assert outcome(estimated(followed(late=4), convergence=converged())) == ("failed", "", False)
    assert outcome(estimated(followed(late=4), convergence=converged(8)))[1] == "doubtful"


def test_it_is_the_last_attack_that_tells():
    assert outcome(estimated(followed(late=9), followed(given=16, broken=3, unbroken=13))) == PASSED
    assert estimated(followed(), followed(given=16, broken=8, late=8)).status == "failed"
    assert outcome(estimated(followed(late=9, broken=N, unbroken=0))) == PASSED
    assert estimated(followed(broken=0)).status == "not applicable"


def by_queries(queries, given=100, budget=1000):
    """An oracle's run: successes after so many queries, all others without any."""
    hits = dict.fromkeys(range(len(queries)), 1)
    found = rows(
        "square",
        range(given),
        hits,
        queries=np.array([*queries, *[budget] * (given - len(queries))]),
        trace_rows=np.arange(len(queries)),
        trace_queries=np.array(queries, dtype=np.int64),
        trace_distance=np.full(len(queries), 0.1),
    )
    record = run(["square"], n=given, access="scores", checks=1) | {"diagnose": "subset"}
    return Report(record, [shard([0] * given, [0] * given, [found])])


def test_without_gradients_queries_tell_when_samples_broke():
    early = check(convergence, "convergence-estimate", by_queries([10, 20, 30, 400, 790]))
    assert outcome(early) == PASSED
    assert early.figure == "0 of 5 samples broke in the last fifth of the queries"
    late = check(convergence, "convergence-estimate", by_queries([10, 20, 850, 900, 950, 990]))
    assert outcome(late) == ("failed", "doubtful", False)
    assert late.value == 0.04
    measured = check(convergence, "convergence", by_queries([10]))
    assert measured.status == "not applicable"


# Binarisation


def binary(**facts: Any) -> dict[str, Any]:
    usual = {
        "n": N, "features": "last linear layer", "samples": 16, "left_out": 0, "points": 1000,
        "by_chance": 1, "solved": 16, "hard": 16, "hard_by_chance": 0, "hard_solved": 16,
        "attacks": [{"attack": "pgd", "refused": None}],
    }  # fmt: skip
    return usual | facts


def binarised(**facts):
    given = {"left": facts.pop("left")} if "left" in facts else {}
    return check(binarisation, "binarisation", made({"binarisation": binary(**facts)}, **given))


def test_attacks_that_solve_their_problems_pass():
    found = binarised()
    assert outcome(found) == PASSED
    assert found.figure.startswith("16 of 16 problems solved, by random points 1; of 16 harder")
    assert outcome(binarised(solved=14, hard_solved=14)) == PASSED


@pytest.mark.parametrize(
    ("facts", "weight"),
    [
        ({"solved": 13}, "doubtful"),
        ({"solved": 3}, "broken"),
        ({"solved": 12, "by_chance": 12}, "broken"),
        ({"hard_solved": 13}, "doubtful"),
        ({"hard_solved": 0}, "doubtful"),
        ({"solved": 3, "left": 2}, ""),
    ],
)
def test_attacks_that_miss_more_than_one_in_twenty_fail(facts, weight):
    assert outcome(binarised(**facts)) == ("failed", weight, False)


def test_problems_that_chance_solves_are_no_test_unless_they_are_missed():
    assert binarised(by_chance=13, hard=0, hard_solved=0).status == "not applicable"
    assert binarised(by_chance=13).status == "passed"
    assert binarised(by_chance=13, solved=9, hard=0).status == "failed"


def test_without_problems_there_is_no_test():
    assert binarised(samples=0, solved=0, hard=0, hard_solved=0).status == "not applicable"
    refused = [{"attack": "pgd", "refused": "it needs three classes"}]
    assert binarised(attacks=refused).status == "not applicable"
    assert binarisation.checks(made({}))[0].status == "not applicable"


# Series for a chart


def test_traces_are_series_of_what_is_known():
    curve = {
        "of": "distance", "answers": [1, 2, 5], "quantiles": {"0.5": [None, 0.3, 0.2],
        "0.9": [None, None, 0.4]},
    }  # fmt: skip
    (found,) = traces(made({"traces": traced(followed(curve=curve, attack="fmn"), followed())}))
    assert (found.attack, found.of) == ("fmn", "distance")
    assert found.median == [(2, 0.3), (5, 0.2)]
    assert found.quantiles[0.9] == [(5, 0.4)]
    assert traces(made({})) == []
