"""What queries bought, and what they cost, by hand."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from synthetic import asked, rows, run, shard, ten

from robust.core.outcome import Shard
from robust.reports import oracle, queries
from robust.reports.queries import Economy
from robust.reports.summary import Report

COUNTS = np.array([1, 2, 4, 8, 10, 20, 50])


def economy(*shards: Shard, counts: np.ndarray = COUNTS, attack: int = 0) -> Economy:
    found = Economy(0.1, counts)
    for given in shards:
        found.add(given.attacks[attack])
    return found


def test_a_success_takes_the_queries_up_to_the_first_point_inside_eps() -> None:
    # Of sample 4 there is no trace: it took all of its 100 queries.
    near = economy(asked()[1])
    assert near.success() == [(20, 0.2), (50, 0.4), (100, 0.6)]
    assert near.mean == pytest.approx((20 + 50 + 100) / 3)
    assert near.quantile(0.5) == 50
    assert near.median == 50
    assert near.quantile(0.9) == 100  # by 50 it is two thirds
    first = economy(asked()[1], attack=1)
    assert first.success() == [(7, 1 / 3), (30, 1 / 3)]


def test_only_what_the_engine_confirmed_is_a_success() -> None:
    given = asked()[1]
    given.attacks[0].success[1] = False  # the trace saw it inside, and no check did
    assert economy(given).success() == [(20, 0.2), (100, 0.4)]


def test_no_success_is_a_curve_at_zero_and_no_query_none() -> None:
    given = shard([0, 1], [0, 1], [rows("first", [0, 1], {}, queries=np.array([5, 9]))])
    nothing = economy(given)
    assert nothing.success() == [(9, 0.0)]
    assert (nothing.mean, nothing.quantile(0.9)) == (None, None)
    assert nothing.distance() == []
    given.attacks[0].queries[:] = 0
    assert economy(given).success() == []


def test_distances_are_quartiles_over_all_samples_given() -> None:
    # Five samples: the quartiles are the second, third and fourth nearest. Two never find anything.
    expected = [
        (4, 0.4, None, None),
        (8, 0.4, 0.5, None),
        (10, 0.3, 0.5, None),
        (20, 0.3, 0.5, None),
        (50, 0.1, 0.5, None),
        (100, 0.1, 0.5, None),
    ]
    assert economy(asked()[1]).distance() == expected
    assert economy(asked()[1], asked()[1]).distance() == expected


def test_half_of_the_samples_are_enough_for_a_median() -> None:
    given = shard(
        [0] * 4,
        [0] * 4,
        [
            rows(
                "near",
                range(4),
                {},
                trace_rows=np.array([0, 1]),
                trace_queries=np.array([1, 2]),
                trace_distance=np.array([0.5, 0.7]),
            )
        ],
    )
    assert economy(given).distance()[:2] == [(1, 0.5, None, None), (2, 0.5, 0.7, None)]


def test_what_comes_behind_the_last_count_is_the_end_of_the_curve() -> None:
    found = economy(asked()[1], counts=np.array([1, 8])).distance()
    assert found == [(8, 0.4, 0.5, None), (100, 0.1, 0.5, None)]


def test_order_of_the_trace_does_not_matter() -> None:
    given = asked()[1]
    order = np.random.default_rng(0).permutation(6)
    near = given.attacks[0]
    for column in ("trace_rows", "trace_queries", "trace_distance"):
        setattr(near, column, getattr(near, column)[order])
    assert economy(given).distance() == economy(asked()[1]).distance()
    assert economy(given).success() == economy(asked()[1]).success()


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    n = 1000
    spent = np.arange(1, n + 1) * 3
    attack = rows("first", range(n), dict.fromkeys(range(n), 1), queries=spent)
    curve = economy(shard([0] * n, [0] * n, [attack])).success()
    assert len(curve) == 99
    assert (curve[0], curve[-1]) == ((3, 0.001), (3000, 1.0))
    assert all(height == pytest.approx(count / 3000) for count, height in curve)
    assert queries.at(curve, 2) == 0
    assert queries.at(curve, 1500) == pytest.approx(0.5, abs=0.011)


def test_counts_reach_to_what_an_attack_may_ask() -> None:
    square = {"params": {"queries": 5000}}
    assert queries.counts(square, None)[[0, -1]].tolist() == [1, 5000]
    assert queries.counts(square, 300)[-1] == 300
    assert queries.counts({"params": {"queries": 100, "restarts": 3}}, None)[-1] == 300
    assert queries.counts({}, None)[-1] == 100_000
    assert 32 < len(queries.counts(square, None)) <= 64


def test_attacks_of_an_oracle_in_the_record() -> None:
    near, first = Report(*as_run(asked())).to_json()["attacks"]
    assert near["success_by_queries"] == [[20, 0.2], [50, 0.4], [100, 0.6]]
    assert near["distance_by_queries"][0] == [4, 0.4, None, None]
    assert near["distance_by_queries"][-1] == [100, 0.1, 0.5, None]
    assert (near["queries_median"], near["queries_p90"]) == (50, 100)
    assert first["success_by_queries"] == [[7, 1 / 3], [30, 1 / 3]]
    assert first["distance_by_queries"] is None


def test_distances_are_told_of_attacks_that_look_for_the_smallest() -> None:
    def told(**said: bool) -> list[bool]:
        record, given = asked()
        for attack in record["spec"]["attacks"]:
            del attack["minimal"]
            attack |= said
        found = Report(record, [given]).attacks
        return [attack["distance_by_queries"] is not None for attack in found]

    # Two successes of one sample are no sign of it: `near` has them in every case.
    assert told(minimal=False) == [False, False]
    assert told() == [False, False]
    assert told(measures=True) == [True, True]
    assert told(minimal=True, measures=False) == [True, True]


def as_run(made: tuple[dict[str, object], Shard]) -> tuple[dict[str, object], list[Shard]]:
    return made[0], [made[1]]


def test_attacks_with_gradients_have_no_curves() -> None:
    report = Report(run(), [ten()])
    for attack in report.to_json()["attacks"]:
        assert attack["success_by_queries"] is None
        assert attack["distance_by_queries"] is None
        assert attack["fooled_mean"] is None
    assert report.attacks[0]["queries_p90"] == 12  # of 10, 11, 12
    assert report.to_json()["oracle"] is None


def test_what_an_oracle_was_asked_in_all() -> None:
    record, given = asked(access="scores", queries=200)
    given.not_finite = 3
    record["price_per_1000"] = 1.5
    found = Report(record, [given, given]).to_json()["oracle"]
    assert found == {
        "access": "scores",
        "queries": 200,
        "asked": 2 * 600 + 24,
        "searched": 2 * 567,
        "own": 2 * 33 + 24,
        "repeated": 80,
        "not_finite": 6,
        "draws": 1,
        "checks": 1,
        "random": False,
        "seconds": 12.5,
        "queries_per_second": 1224 / 12.5,
        "price_per_1000": 1.5,
        "price": pytest.approx(1.836),
    }


def test_without_preflight_and_price() -> None:
    record, given = asked()
    del record["preflight"]
    report = Report(record, [given])
    assert report.oracle["asked"] == 600
    assert (report.oracle["price"], report.priced) == (None, "")
    assert oracle.priced({}) == ""
    record["price_per_1000"] = 0.0
    assert Report(record, [given]).priced == "at 0 per 1,000 queries: 0.00"
    record["price_per_1000"] = 20575.5
    assert Report(record, [given]).priced == "at 20,575.5 per 1,000 queries: 12,345.30"


def sampled(random: bool | None = True, **spec: Any) -> Report:
    record, given = asked(**spec)
    record["preflight"]["random"] = random
    return Report(record, [given])


def test_random_answers_are_told() -> None:
    report = sampled(draws=5, checks=20)
    near, first = report.attacks
    assert near["fooled_mean"] == pytest.approx((1 + 0.75 + 0.5) / 3)  # successes alone
    assert first["fooled_mean"] is None
    assert report.oracle["random"] is True
    (note,) = [note for note in report.notes if "at random" in note]
    assert note.startswith("The model answers at random")
    assert "the vote of 5 draws" in note
    assert "checked 20 times again" in note
    assert "on average they fooled it in 75.0\u202f%." in note
    assert "declared" not in note
    (note,) = [note for note in sampled(access="scores", draws=5).notes if "at random" in note]
    assert "the mean of 5 draws" in note
    assert "checked" not in note
    plain = sampled(False)
    assert plain.oracle["random"] is False
    assert not any("at random" in note or "declared" in note for note in plain.notes)


def test_draws_that_were_declared_are_no_random_answers() -> None:
    report = sampled(None, draws=5, checks=20)
    assert report.oracle["random"] is None
    (note,) = [note for note in report.notes if "draws" in note]
    assert note.startswith("5 draws were declared: each answer of the search is the vote of so ")
    assert "Whether the model answers at random was not looked at." in note
    assert "checked 20 times again" in note
    assert "The model answers" not in note
    assert not any("declared" in note for note in sampled(None).notes)


def test_older_records_do_not_say_whether_draws_were_declared() -> None:
    def random(**spec: Any) -> object:
        return Report(*as_run(asked(**spec))).to_json()["oracle"]["random"]

    assert random(draws=5, checks=20) is None
    assert random() is False


def test_with_every_attack_alone_queries_are_no_part_of_what_was_asked() -> None:
    record, given = asked(every=True)
    given.asked = 300  # the two attacks asked much the same
    found = Report(record, [given]).oracle
    assert (found["asked"], found["searched"], found["own"]) == (324, None, None)


def test_notes_on_an_oracle() -> None:
    record, given = asked()
    plain = Report(record, [given]).notes
    assert any("nothing but the class" in note for note in plain)
    assert not any("8-bit" in note or "NaN" in note for note in plain)
    record["spec"]["model"]["eight_bit"] = True
    given.not_finite = 1
    notes = Report(record, [given]).notes
    assert any(note.startswith("The model was sent 8-bit images") for note in notes)
    assert "1 answer was not finite (NaN); such an answer reaches no goal." in notes
    assert any("its scores" in note for note in Report(*as_run(asked(access="scores"))).notes)
    assert not any("Black box" in note for note in Report(run(), [ten()]).notes)


def test_no_success_on_an_oracle_is_doubted_for_its_queries() -> None:
    given = shard([0, 1], [0, 1], [rows("first", [0, 1], {})])
    (doubt,) = [n for n in Report(run(["first"], access="scores"), [given]).notes if "single" in n]
    assert "too few queries" in doubt


def test_labels_alone_leave_no_number_undefined() -> None:
    report = Report(*as_run(asked()))
    json.dumps(report.to_json(), allow_nan=False)
    assert np.isnan(report.gallery[0].adv_confidence)
    assert [example.fooled for example in report.gallery] == [1.0, None, 0.75, 0.5]


def test_memory_grows_with_samples_and_not_with_their_traces() -> None:
    n, steps = 100, 2000

    def long(index: int) -> Shard:
        attack = rows(
            "near",
            range(n),
            dict.fromkeys(range(n), 1),
            (1, 1, 1),
            queries=np.full(n, steps),
            trace_rows=np.tile(np.arange(n), steps),
            trace_queries=np.arange(1, steps + 1).repeat(n),
            trace_distance=np.linspace(1, 0.05, steps).repeat(n),
        )
        return shard([0] * n, [0] * n, [attack], index=index, shape=(1, 1, 1))

    def kept(shards: int) -> int:
        record = run(["near"], access="labels")
        record["spec"]["attacks"][0]["params"] = {"queries": steps}
        tracemalloc.start()
        report = Report(record, (long(i) for i in range(shards)))
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert report.n == n * shards
        return size

    few, many = kept(2), kept(12)
    assert (many - few) / (10 * n) < 500  # bytes a sample; its trace has 48,000
