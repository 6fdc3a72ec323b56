"""Classes, survival, distances and margins, from shards whose figures are known."""

import json
import math

import numpy as np
import pytest
from synthetic import rows, run, shard, ten

from robust.core.outcome import AttackRows
from robust.reports import classes, statistics, survival
from robust.reports.rates import wilson
from robust.reports.summary import Report


def record(report: Report) -> dict:
    found = report.to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


# Intervals


def test_every_rate_of_an_attack_has_its_interval() -> None:
    first, second = record(Report(run(n=10), [ten()]))["attacks"]
    assert first["success_rate_ci"] == list(wilson(3, 8))
    assert second["success_rate_ci"] == list(wilson(1, 5))
    assert first["queries_median_ci"] == list(statistics.quantile_interval([10, 11, 12]))
    assert first["queries_p90_ci"] == list(statistics.quantile_interval([10, 11, 12], 0.9))
    assert first["survives_8bit_ci"] == list(wilson(3, 3))
    assert record(Report(run(n=10), [ten()]))["survives_8bit_ci"] == list(wilson(4, 4))


def test_quantiles_of_queries_have_intervals_of_their_own() -> None:
    given = shard([0] * 40, [0] * 40, [rows("first", range(40), dict.fromkeys(range(40), 1))])
    (told,) = Report(run(["first"]), [given]).attacks
    asked = range(10, 50)
    assert told["queries_median_ci"] == statistics.quantile_interval(asked)
    assert told["queries_p90_ci"] == statistics.quantile_interval(asked, 0.9)
    assert told["queries_p90_ci"][0] > told["queries_median_ci"][1]


def test_how_many_samples_a_narrow_interval_takes() -> None:
    report = Report(run(n=10), [ten()])
    assert record(report)["samples_needed"] == statistics.samples_needed(0.4) == 9216
    assert Report(run([]), [shard([0], [0], [])]).samples_needed is None


# Classes


def imbalanced() -> Report:
    """Class a: 12 samples, 9 of them robust; class b: 2 samples, one misclassified, one broken."""
    labels = [0] * 12 + [1] * 2
    hits = {0: 1, 1: 1, 2: 1, 12: 0}
    given = shard(labels, [*labels[:13], 0], [rows("first", range(13), hits)])
    return Report(run(["first"], n=14, classes=["a", "b", "never"]), [given])


def test_the_macro_average_counts_classes_alike() -> None:
    report = imbalanced()
    assert report.robust_accuracy == 9 / 14
    found = record(report)["macro"]
    assert (found["classes"], found["largest"], found["smallest"]) == (2, 12, 2)
    assert found["clean_accuracy"] == 0.75
    assert found["robust_accuracy"] == 0.375
    assert found["robust_accuracy_ci"] == list(statistics.macro([9, 0], [12, 2])[1])
    assert found["clean_accuracy_ci"] == list(statistics.macro([12, 1], [12, 2])[1])


def test_the_worst_class_is_named_and_its_figure_not_taken_at_its_word() -> None:
    report = imbalanced()
    found = record(report)["worst_class"]
    assert (found["class"], found["n"], found["robust_accuracy"]) == ("b", 2, 0)
    assert found["robust_accuracy_ci"] == list(wilson(0, 2))
    assert found["lowest_ci"] == list(statistics.worst([9, 0], [12, 2]).interval)
    assert found["candidates"] == ["a", "b"]
    first, second, third = classes.sentences(report)
    assert first.startswith(
        "The worst class is b: 0 % of 2 samples are robust".replace(" %", "\u202f%")
    )
    assert "tends to come out too low" in second
    assert "2 of 2 classes may be the one" in second
    assert "between 2 and 12 samples" in third


def test_one_class_alone_has_no_worst_and_no_mean() -> None:
    report = Report(run(["first"]), [shard([0, 0], [0, 0], [rows("first", [0, 1], {0: 1})])])
    assert report.macro is None
    assert report.worst_class is None
    assert classes.sentences(report) == []
    assert len(report.per_class) == 1


def test_classes_of_a_run_without_attacks_or_samples() -> None:
    clean = Report(run([]), [shard([0, 1], [0, 0], [])])
    assert clean.worst_class is None
    assert clean.macro is not None
    assert clean.macro["clean_accuracy"] == 0.5
    assert record(clean)["macro"]["robust_accuracy"] is None
    nothing = Report(run(n=30), [])
    assert (nothing.per_class, nothing.macro, nothing.worst_class) == ([], None, None)
    record(nothing)


def shares() -> Report:
    """A random model, of two classes: robust in a quarter of draws, and in all."""
    given = shard([0, 0, 1], [0, 0, 1], [rows("first", range(3), {0: 1})])
    given.right, given.trial = np.array([1.0, 0.5, 1.0]), np.array([1.0, 0.5, 1.0])
    attack = given.attacks[0]
    attack.trial, attack.fooled = np.array([1.0, 0.25, 0.0]), np.array([0.75, 0.25, 0.0])
    return Report(run(["first"], checks=4), [given])


def test_classes_of_a_random_model_count_by_shares() -> None:
    report = shares()
    assert report.withstood.tolist() == [0.25, 0.5, 1]
    first, second = report.per_class
    assert (first["clean_accuracy"], first["robust_accuracy"]) == (0.75, 0.375)
    assert second["robust_accuracy"] == 1
    assert record(report)["macro"]["robust_accuracy"] == (0.375 + 1) / 2
    assert record(report)["worst_class"]["class"] == "0"
    assert record(report)["attacks"][0]["fooled_ci"] == list(wilson(1, 3))


def test_no_class_is_more_robust_than_right() -> None:
    report = shares()
    report.columns.left[:] = [1, 1, 1]  # as other draws may tell
    assert report.per_class[0]["robust_accuracy"] == report.per_class[0]["clean_accuracy"] == 0.75


# Survival


def test_survival_in_a_cascade_says_what_is_not_known() -> None:
    found = record(Report(run(n=10), [ten()]))["survival"]
    first, second = found["attacks"]
    assert (first["given"], first["broken"], first["new"], first["left"]) == (8, 3, 3, 0.5)
    assert (second["given"], second["broken"], second["new"], second["left"]) == (5, 1, 1, 0.4)
    assert second["left_ci"] == list(wilson(4, 10))
    # Whether `second` would have broken what `first` did nobody knows; it was given what it broke.
    assert (first["alone"], second["alone"]) == (None, 1)
    assert found["overlap"] == [[3, None], [None, 1]]


def test_survival_of_attacks_that_all_saw_every_sample() -> None:
    labels = [0] * 6
    attacks = [
        rows("first", range(6), {0: 1, 1: 1, 2: 1}),
        rows("second", range(6), {1: 1, 2: 1, 3: 1}),
        rows("third", range(6), {2: 1}),
    ]
    report = Report(run(["first", "second", "third"], every=True), [shard(labels, labels, attacks)])
    found = report.survival
    assert [row["new"] for row in found] == [3, 1, 0]
    assert [row["alone"] for row in found] == [1, 1, 0]
    assert [row["left"] for row in found] == [0.5, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert survival.overlap(report) == [[3, 2, 1], [2, 3, 1], [1, 1, 1]]


def test_survival_over_several_shards_and_an_attack_without_samples() -> None:
    labels = [0, 0]
    full = shard(labels, labels, [rows("first", [0, 1], {0: 1, 1: 1}), rows("second", [], {})])
    report = Report(run(n=4), [full, full])
    assert [row["given"] for row in report.survival] == [4, 0]
    assert report.survival[1]["alone"] == 0
    assert record(Report(run(n=4), []))["survival"]["attacks"][0]["left"] is None
    assert record(Report(run([]), [shard(labels, labels, [])]))["survival"] == {
        "attacks": [],
        "overlap": [],
    }


# Distances


def measuring(broken_at: list[float], found: list[float] | None = None, **spec: object) -> Report:
    """A run of one attack that looks for the smallest distance of each sample; the last sample is
    misclassified.
    """
    n = len(broken_at)
    inside = {i: 1 for i, d in enumerate(broken_at[:-1]) if d <= 0.1}
    attack: AttackRows = rows(
        "near",
        range(n - 1),
        inside,
        distance=np.array([1e9 if math.isinf(d) else d for d in found or broken_at[:-1]]),
        fooled=np.array([float(math.isfinite(d)) for d in found or broken_at[:-1]]),
    )
    given = shard([0] * n, [0] * (n - 1) + [1], [attack], broken_at=[*broken_at[:-1], 0.0])
    asked = run(["near"], n=n, **spec)
    asked["spec"]["attacks"][0] |= {"measures": True, "minimal": True}
    return Report(asked, [given])


def test_the_curve_falls_wherever_a_distance_was_found() -> None:
    report = measuring([0.02, 0.03, 0.03, 0.07, 0.3, math.inf, 0.0])
    found = report.distances
    assert (found["n"], found["found"], found["median"]) == (6, 5, 0.05)
    assert found["median_ci"] == statistics.quantile_interval(
        [0.02, 0.03, 0.03, 0.07, 0.3, math.inf]
    )
    assert [(eps, round(7 * left)) for eps, left, _ in found["curve"]] == [
        (0, 6),
        (0.02, 5),
        (0.03, 3),
        (0.07, 2),
        (0.3, 1),
    ]
    assert found["curve"][1][2] == wilson(5, 7)
    # The same as the curve of eps tested, wherever that was.
    for eps, accuracy in report.curve:
        step = [left for at, left, _ in found["curve"] if at <= eps * (1 + 1e-9)][-1]
        assert step == accuracy
    told = record(report)
    assert told["attacks"][0]["distance_median"] == 0.05
    assert told["attacks"][0]["distance_median_ci"][1] is None  # ∞


def test_the_median_distance_of_attacks_that_found_few() -> None:
    report = measuring([0.05, math.inf, math.inf, 0.0])
    assert report.distances["median"] == math.inf
    assert record(report)["distances"]["median"] is None


def test_long_curves_are_thinned_and_never_too_low() -> None:
    rng = np.random.default_rng(0)
    radii = np.r_[rng.exponential(0.1, size=5000), 0.0]
    report = measuring(radii.tolist())
    curve = report.distances["curve"]
    assert len(curve) == 200
    assert curve[0][1] == 5000 / 5001
    assert curve[-1][1] == 0
    for eps in (0.01, 0.05, 0.1, 0.3):
        step = [left for at, left, _ in curve if at <= eps][-1]
        truth = (radii > eps).mean()
        assert truth <= step < truth + 0.01


def test_no_distances_without_an_attack_that_measures_them() -> None:
    assert Report(run(n=10), [ten()]).distances is None
    assert record(Report(run(n=10), [ten()]))["attacks"][0]["distance_median"] is None
    assert measuring([0.0]).distances is None  # nothing was right


# Margins


def margins(clean: list[float], worst: list[float]) -> Report:
    """A run of one attack; margins as a reader has them, below 0 where the attacker wins."""
    n = len(clean)
    given = [i for i in range(n) if clean[i] > 0]
    hits = {i: 1 for i in given if worst[i] < 0}
    attack = rows("first", given, hits, margin=-np.array([worst[i] for i in given]))
    one = shard([0] * n, [int(c < 0) for c in clean], [attack])
    one.margin = -np.array(clean)
    return Report(run(["first"], n=n), [one])


def test_margins_before_and_after() -> None:
    report = margins([5, 4, 3, 2, 6, -1], [4.0, 0.2, -1, -2, 0.39, -9])
    found = report.margins
    assert (found["n"], found["clean_median"]) == (6, 3.5)
    assert found["worst_median"] == pytest.approx(-0.4)  # of 4, 0.39, 0.2, −1, −1, −2
    assert found["clean_median_ci"] == statistics.quantile_interval([5, 4, 3, 2, 6, -1])
    assert found["hair"] == pytest.approx(0.4)
    assert (found["robust"], found["by_a_hair"]) == (3, 2)
    assert found["by_a_hair_share_ci"] == wilson(2, 3)
    at_zero = [(a, b) for m, a, b in found["curve"] if m == 0]
    assert at_zero == [(report.clean_accuracy, report.robust_accuracy)]
    shares = np.array(found["curve"])
    assert (np.diff(shares[:, 1:], axis=0) <= 0).all()
    record(report)


def test_a_candidate_outside_the_ball_or_refused_shows_no_margin() -> None:
    for column, value in (("distance", 0.11), ("refused", 2)):
        attack = rows("first", [0], {}, margin=np.array([3.0]))
        setattr(attack, column, np.array([value]))
        one = shard([0], [0], [attack])
        report = Report(run(["first"], n=1), [one])
        assert report.columns.worst.tolist() == [-1]
    inside = Report(run(["first"]), [shard([0], [0], [rows("first", [0], {0: 1})])])
    assert inside.columns.worst.tolist() == [0.5]


def test_the_worst_of_several_candidates_counts() -> None:
    attacks = [
        rows("first", [0, 1], {}, margin=np.array([-0.2, -0.9])),
        rows("second", [0, 1], {}, margin=np.array([-0.5, -0.1])),
    ]
    report = Report(run(), [shard([0, 0], [0, 0], attacks)])
    assert report.columns.worst.tolist() == [-0.2, -0.1]


def test_no_margins_where_they_would_say_nothing() -> None:
    labels_only = margins([1, 2], [1, 1])
    labels_only.columns.margin[:] = np.nan
    assert labels_only.margins is None
    assert Report(run([]), [shard([0], [0], [])]).margins is None
    assert Report(run(), []).margins is None
    assert measuring([0.02, 0.0]).margins is None  # stops at the boundary
