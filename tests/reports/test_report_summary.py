import json
import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from synthetic import rows, run, shard, staged, ten

from robust.core.outcome import Shard
from robust.reports.rates import wilson
from robust.reports.summary import Report


def test_accuracies_of_a_cascade() -> None:
    report = Report(run(n=10), [ten()])
    assert (report.n, report.clean_accuracy, report.robust_accuracy) == (10, 0.8, 0.4)
    assert report.counts == {"robust": 4, "broken": 4, "misclassified": 2}
    first, second = report.attacks
    assert (first["robust_accuracy"], second["robust_accuracy"]) == (0.5, 0.4)
    assert (first["given"], first["successes"], first["success_rate"]) == (8, 3, 3 / 8)
    assert (second["given"], second["successes"], second["success_rate"]) == (5, 1, 1 / 5)


def test_every_attack_alone() -> None:
    labels = [0] * 4
    both = [rows("first", range(4), {0: 1, 1: 1}), rows("second", range(4), {1: 1})]
    report = Report(run(every=True), [shard(labels, labels, both)])
    assert [a["robust_accuracy"] for a in report.attacks] == [0.5, 0.75]
    assert report.robust_accuracy == 0.5
    cascade = Report(run(), [shard(labels, labels, both)])
    assert [a["robust_accuracy"] for a in cascade.attacks] == [0.5, 0.5]


def test_costs_and_queries_over_successes() -> None:
    first, second = Report(run(), [ten(), ten()]).attacks
    # `first` is given 8 samples a shard, at 10 … 17 queries; rows 2, 3, 4 cost 10, 11, 12.
    assert first["queries"] == 2 * sum(range(10, 18))
    assert first["forwards"] == 2 * first["queries"]
    assert first["backwards"] == first["queries"] - 16
    assert first["forwards_per_sample"] == first["forwards"] / 16
    assert (first["queries_mean"], first["queries_median"]) == (11, 11)
    assert (second["queries_mean"], second["queries_median"]) == (100, 100)
    assert first["seconds"] == 3.0
    assert first["access"] == "gradient"


def test_mean_and_median_queries_differ() -> None:
    queries = np.array([1, 2, 30, 1000])
    attack = rows("first", range(4), {0: 1, 1: 1, 2: 1}, queries=queries)
    (told,) = Report(run(["first"]), [shard([0] * 4, [0] * 4, [attack])]).attacks
    assert (told["queries_mean"], told["queries_median"]) == (11, 2)


def test_wilson_interval_of_known_values() -> None:
    # Newcombe 1998 (Stat. Med. 17:857), table I, method 3: 81/263 and 15/148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert all(map(math.isnan, wilson(0, 0)))
    report = Report(run(), [ten()])
    assert report.robust_accuracy_ci == wilson(4, 10)
    assert report.clean_accuracy_ci == wilson(8, 10)


def test_curve_from_the_smallest_eps_that_broke() -> None:
    report = Report(run(curve=[0.5, 2.0]), [ten()])
    assert report.curve == [(0.0, 0.8), (0.05, 0.7), (0.1, 0.4), (0.2, 0.3)]
    assert dict(report.curve)[report.eps] == report.robust_accuracy


def test_curve_does_not_stumble_over_rounding() -> None:
    eps = 0.1
    broken_at = [eps * 3 * (1 + 2e-16), math.inf]
    labels = [0, 0]
    given = shard(labels, labels, [rows("first", [0, 1], {})], broken_at=broken_at)
    assert Report(run(["first"], curve=[3]), [given]).curve[-1] == (eps * 3, 0.5)


def test_broken_at_a_smaller_eps_alone_is_broken() -> None:
    given = shard([0, 0], [0, 0], [rows("first", [0, 1], {})], broken_at=[0.05, math.inf])
    report = Report(run(["first"], curve=[0.5]), [given])
    assert report.robust_accuracy == 0.5
    assert any("1 sample withstood" in note for note in report.notes)


def test_a_misclassified_sample_is_never_robust() -> None:
    given = shard([0, 0], [1, 0], [rows("first", [1], {})], broken_at=[math.inf, math.inf])
    report = Report(run(["first"]), [given])
    assert (report.robust_accuracy, report.curve[0]) == (0.5, (0.0, 0.5))


def test_per_class() -> None:
    zero, one = Report(run(classes=["cat", "dog"]), [ten()]).per_class
    assert (zero["class"], zero["n"]) == ("cat", 5)
    assert (one["class"], one["n"]) == ("dog", 5)
    assert (zero["clean_accuracy"], zero["robust_accuracy"]) == (0.8, 0.4)  # 6, 8 of 0 2 4 6 8
    assert zero["robust_accuracy_ci"] == wilson(2, 5)


def test_confusion_counts_the_first_attack_alone() -> None:
    given = shard(
        [0, 1, 2],
        [0, 1, 0],
        [rows("first", [0, 1], {0: 2}), rows("second", [0, 1], {0: 1, 1: 2})],
    )
    report = Report(run(every=True), [given])
    assert report.confusion.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert [example.attack for example in report.gallery] == ["first", "second"]
    assert report.to_json()["confusion"] == [
        {"true": "0", "predicted": "2", "count": 1},
        {"true": "1", "predicted": "2", "count": 1},
    ]


def test_eight_bits() -> None:
    survives = np.array([1, 0, 1, -1, -1, -1, -1, -1])
    given = ten()
    given.attacks[0].survives_8bit = survives
    given.attacks[1].survives_8bit = np.full(5, -1)
    report = Report(run(), [given])
    assert report.survives_8bit == 2 / 3
    assert any("8 bits" in note for note in report.notes)
    assert not any("8 bits" in note for note in Report(run(), [ten()]).notes)


def test_refused_candidates_are_named() -> None:
    given = ten()
    given.attacks[0].refused = np.array([0, 0, 0, 1, 2, 2, 0, 0])
    report = Report(run(), [given, ten()])
    assert report.attacks[0]["refused"] == {"not finite": 1, "outside the ball": 2}
    assert report.attacks[1]["refused"] == {}
    (note,) = [note for note in report.notes if "refused" in note]
    assert "1 not finite, 2 outside the ball" in note


def test_a_sample_is_broken_by_the_last_stage_that_it_came_into() -> None:
    more = staged()
    more.attacks[0].stages = "descent\nprobe"  # another batch may take another way
    report = Report(run(), [staged(), more, ten()])
    assert report.attacks[0]["stages"] == [
        {"name": "descent", "given": 16, "broken": 2},
        {"name": "restarts", "given": 6, "broken": 2},
        {"name": "probe", "given": 6, "broken": 2},
    ]
    assert report.attacks[1]["stages"] == []


def test_what_an_attack_says_of_samples_is_a_note() -> None:
    report = Report(run(), [staged(), staged(), ten()])
    assert report.attacks[0]["remarks"] == [{"text": "were hopeless", "samples": 4}]
    assert "first: 4 samples were hopeless." in report.notes
    assert not any("hopeless" in note for note in Report(run(), [ten()]).notes)


def test_json_round_trip_and_fields() -> None:
    report = Report(run(n=10, curve=[0.5]), [ten()])
    record = report.to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    fields = (
        "schema_version model data n threat clean_accuracy robust_accuracy seconds seed versions"
    )
    assert set(fields.split()) <= set(record)
    assert record["threat"]["norm"] == "linf"
    assert record["threat"]["eps"] == 0.1
    assert record["robust_accuracy_ci"] == list(wilson(4, 10))
    asked = "name params access robust_accuracy success_rate forwards backwards queries"
    asked += " queries_mean queries_median seconds"
    assert set(asked.split()) <= set(record["attacks"][0])
    assert record["curve"][1] == {"eps": 0.05, "accuracy": 0.7, "ci": list(wilson(7, 10))}
    assert (record["seed"], record["seconds"]) == (7, 12.5)


def test_seconds_of_a_run_that_recorded_none() -> None:
    record = {k: v for k, v in run().items() if k != "seconds"}
    shards = [ten(), ten()]
    shards[0].seconds, shards[1].seconds = 2.5, 4.0
    assert Report(record, shards).to_json()["seconds"] == 6.5


def test_partial_run() -> None:
    whole, part = Report(run(n=10), [ten()]), Report(run(n=30), [ten()])
    assert whole.complete
    assert not part.complete
    assert part.notes[0].startswith("Incomplete: 10 of 30 samples")
    assert Report(run(n=30, limit=10), [ten()]).complete


def test_nothing_measured_yet() -> None:
    report = Report(run(n=30), [])
    assert report.n == 0
    assert math.isnan(report.robust_accuracy)
    record = report.to_json()
    json.dumps(record, allow_nan=False)
    assert record["robust_accuracy"] is None
    assert record["robust_accuracy_ci"] == [None, None]


def test_no_attack_is_no_robustness() -> None:
    report = Report(run([]), [shard([0, 1, 1], [0, 1, 0], [])])
    assert report.clean_accuracy == 2 / 3
    assert math.isnan(report.robust_accuracy)
    assert report.curve == [(0.0, 2 / 3)]
    assert report.to_json()["robust_accuracy"] is None
    assert any("not measured" in note for note in report.notes)


def test_zero_successes_are_doubted() -> None:
    given = shard([0, 1], [0, 1], [rows("first", [0, 1], {})])
    report = Report(run(["first"]), [given])
    assert report.robust_accuracy == report.clean_accuracy == 1
    (attack,) = report.attacks
    assert (attack["success_rate"], attack["queries_median"]) == (0, None)
    assert any("No attack broke" in note for note in report.notes)
    assert not any("No attack broke" in note for note in Report(run(), [ten()]).notes)


def test_an_attack_that_had_nothing_left() -> None:
    given = shard([0, 1], [0, 1], [rows("first", [0, 1], {0: 1, 1: 0})])
    second = Report(run(), [given]).attacks[1]
    assert (second["given"], second["success_rate"], second["robust_accuracy"]) == (0, None, 0)


def test_targeted() -> None:
    labels = [0, 1, 2, 1]
    attack = rows("first", [0, 2], {0: 1})
    given = shard(labels, [0, 1, 2, 0], [attack], targets=[1, 1, 1, 1])
    report = Report(run(["first"], targeted="1"), [given])
    assert (report.robust_accuracy, report.clean_accuracy) == (0.5, 0.75)
    assert report.to_json()["targeted"] == "1"
    assert any(note.startswith("1 sample already had the target") for note in report.notes)


def test_shards_may_come_in_any_order_and_once() -> None:
    def stream() -> Iterator[Shard]:
        other = ten()
        other.index, other.ids = 1, other.ids + 10
        yield other
        yield ten()

    report = Report(run(n=20), stream())
    assert (report.n, report.robust_accuracy) == (20, 0.4)


def test_rows_of_an_unknown_attack_are_an_error() -> None:
    with pytest.raises(ValueError, match="second"):
        Report(run(["first"]), [ten()])


@pytest.mark.parametrize("record", [{**run(), "schema_version": 99}, {**run(), "kind": "train"}])
def test_other_records_are_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"99|train"):
        Report(record, [])


def test_gallery_shows_the_right_pixels() -> None:
    shape = (1, 4, 4)
    x = np.stack([np.full(shape, k / 10, np.float32) for k in range(4)])
    x_adv = np.stack([x[1] + 0.05, x[3] + 0.05])
    attack = rows("first", [1, 2, 3], {1: 1, 3: 0}, x_adv=x_adv)
    report = Report(run(["first"]), [shard([0, 0, 1, 1], [1, 0, 1, 1], [attack], x=x)])
    assert [(e.id, e.adv_prediction) for e in report.gallery] == [(1, 1), (3, 0)]
    for example in report.gallery:
        np.testing.assert_array_equal(example.x, x[example.id])
        np.testing.assert_array_equal(example.x_adv, x[example.id] + np.float32(0.05))


def big(index: int, n: int = 64, shape: tuple[int, ...] = (3, 32, 32)) -> Shard:
    """Every sample broken; the classes come sorted, ten shards a class."""
    labels = [index // 10] * n
    attack = rows("first", range(n), dict.fromkeys(range(n), 99), shape)
    return shard(labels, labels, [attack], index=index, shape=shape)


def test_gallery_is_spread_over_sorted_classes() -> None:
    report = Report(run(["first"]), (big(i, 8) for i in range(60)))
    labels = [example.label for example in report.gallery]
    assert len(labels) == 150
    assert {labels.count(c) for c in range(6)} == {25}


def test_gallery_holds_what_a_rare_attack_found() -> None:
    def of(index: int) -> Shard:
        labels = [index // 10] * 8
        common = rows("first", range(8), dict.fromkeys(range(1 if index == 5 else 0, 8), 9))
        rare = rows("second", [0], {0: 9} if index == 5 else {})
        return shard(labels, labels, [common, rare], index=index)

    found = list(Report(run(), (of(i) for i in range(60))).gallery)
    assert len(found) == 150
    assert [e.attack for e in found].count("second") == 1


def test_memory_does_not_grow_with_pixels() -> None:
    def kept(shards: int) -> int:
        tracemalloc.start()
        report = Report(run(["first"]), (big(i) for i in range(shards)))
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert report.n == 64 * shards
        return size

    few, many = kept(2), kept(42)
    pixels = 40 * 64 * 2 * 3 * 32 * 32 * 4
    assert many - few < pixels / 50
    assert all(e.x.base is None and e.x_adv.base is None for e in Report(run(), [ten()]).gallery)


def test_repr_is_one_line() -> None:
    assert repr(Report(run(), [ten()])) == (
        "Report(robust_accuracy=0.4, clean_accuracy=0.8, n=10, threat=linf eps=0.1, attacks=2)"
    )
