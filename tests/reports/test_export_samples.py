"""The table of samples: every figure in its column, whatever the run."""

import csv
import io

import numpy as np
import pytest
from report_kinds import RUNS, hostile
from synthetic import run, ten

from robust.reports.samples import COLUMNS, lines
from robust.reports.summary import Report


def table(record, shards):
    text = "".join(lines(Report(record, shards), iter(shards)))
    assert text.endswith("\n")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_sample_has_what_was_measured_of_it() -> None:
    shard = ten()
    shard.attacks[1].margin[0] = 0.25
    found = table(run(n=10, classes=["cat", "dog"]), [shard])
    assert list(found[0]) == [*COLUMNS, "attack first", "attack second"]
    assert [row["id"] for row in found] == [str(i) for i in range(10)]
    wrong, broken, later, robust = found[0], found[2], found[5], found[6]
    assert (wrong["label"], wrong["label_name"]) == ("0", "cat")
    assert (wrong["prediction"], wrong["prediction_name"]) == ("1", "dog")
    assert (wrong["right"], wrong["robust"], wrong["radius"]) == ("0", "0", "0")
    assert (wrong["attack first"], wrong["broken_by"], wrong["queries"]) == ("", "", "0")
    assert (broken["broken_by"], broken["adv_prediction_name"]) == ("first", "dog")
    assert (broken["radius"], broken["distance"], broken["adv_confidence"]) == (
        "0.05",
        "0.1",
        "0.8",
    )
    assert (broken["right"], broken["robust"], broken["survives_8bit"]) == ("1", "0", "1")
    assert (broken["attack first"], broken["attack second"]) == ("1", "")
    assert (broken["queries"], broken["forwards"], broken["backwards"]) == ("10", "20", "9")
    assert (later["broken_by"], later["attack first"], later["attack second"]) == (
        "second",
        "0",
        "1",
    )
    assert later["adv_margin"] == "0.25"
    assert int(later["queries"]) == (10 + 3) + (100 + 0)  # at the first and at the second attack
    assert (robust["robust"], robust["radius"], robust["broken_by"]) == ("1", "", "")
    assert found[9]["radius"] == "0.2"
    assert robust["target"] == ""


@pytest.mark.parametrize("kind", RUNS)
def test_every_kind_of_run_has_a_table_that_adds_up_to_its_report(kind) -> None:
    record, shards = RUNS[kind]()
    report = Report(record, shards)
    found = table(record, shards)
    assert len(found) == report.n
    assert sum(float(row["right"]) for row in found) == pytest.approx(
        report.n * report.clean_accuracy if report.n else 0
    )
    if report.tallies and report.n:
        robust = sum(float(row["robust"]) for row in found)
        assert robust == pytest.approx(report.n * report.robust_accuracy, abs=1e-6)
    for attack in report.attacks:
        column = [row[f"attack {attack['label']}"] for row in found]
        assert column.count("1") == attack["successes"]
        assert len(column) - column.count("") == attack["given"]
    assert all("nan" not in value and "inf" not in value for row in found for value in row.values())


def test_scores_that_a_model_does_not_give_are_empty() -> None:
    (row, *_) = table(*RUNS["labels"]())
    assert (row["confidence"], row["adv_confidence"], row["adv_margin"]) == ("", "", "")


def test_names_are_no_formulas_and_stay_in_their_cell() -> None:
    found = table(*hostile())
    assert {row["label_name"] for row in found} == {"'=1+1", hostile()[0]["spec"]["model"]["path"]}


def test_targets_are_told() -> None:
    assert [row["target"] for row in table(*RUNS["targeted"]())] == ["1", "0", "1", "1"]


def test_shards_are_read_one_at_a_time() -> None:
    record, shards = RUNS["two shards"]()
    report, read = Report(record, shards), []

    def one_by_one():
        for shard in shards:
            read.append(shard.index)
            yield shard

    written = lines(report, one_by_one())
    for _ in range(11):  # the head and ten samples
        next(written)
    assert read == [0]


def test_shards_of_another_run_are_refused() -> None:
    other = ten()
    other.ids = np.arange(10) + 5
    with pytest.raises(ValueError, match="shard 0 is not one"):
        list(lines(Report(run(n=10), [ten()]), [other]))
