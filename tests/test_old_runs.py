"""Runs that earlier versions wrote: their reports come to the same figures as they did then.

old_runs/<commit>-<name>.tar.xz is a run folder as that commit left it, without pages and models:
6 digits or 5, a few attacks. Its report.json, where there is one, is what that version measured.
A version that changes what is stored adds runs of the version before.
"""

import json
import math
import tarfile
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from robust import api, store
from robust.cli import main
from robust.core.errors import RobustError
from robust.reports import card, junit, markdown, samples
from robust.reports.schema import schema
from robust.store import RunFolder, read_record

ARCHIVES = sorted((Path(__file__).parent / "old_runs").glob("*.tar.xz"))
NAMES = [file.name.removesuffix(".tar.xz") for file in ARCHIVES]
ATTACKS = [name for name in NAMES if not name.endswith(("train", "tune", "certify"))]


def unpack(name, folder):
    with tarfile.open(ARCHIVES[NAMES.index(name)]) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.partition("-")[2]


def report(path):
    done = CliRunner().invoke(main, ["report", str(path)])
    assert done.exit_code == 0, done.output
    assert (path / "report.html").read_text().startswith("<!DOCTYPE html>")
    return done.stdout


def differences(old, new, place=""):
    """What a later report says otherwise; what it says besides is no difference."""
    if place == ".curve":  # of which a later version may have more points
        old, new = ({point["eps"]: point for point in points} for points in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{place}.{key} is gone" for key in old.keys() - new.keys()]
        return gone + [
            said for key in old.keys() & new.keys()
            for said in differences(old[key], new[key], f"{place}.{key}")
        ]  # fmt: skip
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            said for i, pair in enumerate(zip(old, new, strict=True))
            for said in differences(*pair, f"{place}.{i}")
        ]  # fmt: skip
    if isinstance(old, float) and isinstance(new, float) and math.isclose(old, new, rel_tol=1e-9):
        return []
    return [] if old == new else [f"{place}: {old} → {new}"]


def test_there_are_runs_of_every_kind_and_of_every_layout():
    assert {name.partition("-")[2] for name in NAMES} == {
        *("attack", "fitted", "oracle", "defended", "random", "train", "tune", "certify"),
    }
    assert len({name.partition("-")[0] for name in NAMES}) == 4


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("train")])
def test_figures_of_old_runs_come_out_the_same(name, tmp_path):
    path = unpack(name, tmp_path)
    file = path / "report.json"
    old = json.loads(file.read_text())
    file.unlink()
    report(path)
    assert differences(old, json.loads(file.read_text())) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("train")])
def test_pages_of_old_trainings_tell_every_epoch(name, tmp_path):
    path = unpack(name, tmp_path)
    report(path)
    rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    page = (path / "report.html").read_text()
    assert len(rows) == 3
    for row in rows:
        assert f"{100 * row['val_robust_accuracy']:.1f}" in page


@pytest.mark.parametrize("name", ATTACKS)
def test_reports_of_old_runs_are_of_the_published_schema(name, tmp_path):
    path = unpack(name, tmp_path)
    report(path)
    validator = jsonschema.Draft202012Validator(schema())
    faults = list(validator.iter_errors(json.loads((path / "report.json").read_text())))
    assert [fault.message for fault in faults] == []


@pytest.mark.parametrize("name", ATTACKS)
def test_old_runs_are_exported_and_compared_as_well(name, tmp_path):
    folder = RunFolder.open(unpack(name, tmp_path))
    found = api.report_of(folder.record, folder)
    assert found.damaged == []
    for export in (markdown, card, junit):
        assert export.of(found).endswith("\n")
    table = list(samples.lines(found, folder.shards(pixels=False)))
    assert len(table) == 1 + found.n
    again = CliRunner().invoke(main, ["diff", str(folder.path), str(folder.path)])
    assert again.stdout.startswith("## Robustness: no significant change (±0.0 points)")


def test_runs_of_different_versions_compare(tmp_path):
    first, last = (unpack(f"{v}-attack", tmp_path / v) for v in ("7c3efcd", "4be5e4d"))
    done = CliRunner().invoke(main, ["diff", str(first), str(last)])
    assert done.exit_code == 0
    assert "on 6 samples" in done.stdout


# Runs that did not come to their end, or did not stay whole


@pytest.fixture
def old(tmp_path):
    return unpack("4be5e4d-attack", tmp_path)


def spoil(file):
    file.write_bytes(file.read_bytes()[:-100])


def test_a_run_that_goes_on_or_was_killed_has_a_report(old):
    RunFolder.open(old).save(status="running")
    (old / "shards" / "00001.h5").unlink()
    (old / "shards" / ".123.00001.h5").write_bytes(b"half of a shard")
    (old / "queries").mkdir()
    report(old)
    found = json.loads((old / "report.json").read_text())
    assert (found["status"], found["complete"], found["n"]) == ("running", False, 4)
    assert found["damaged"] == []
    assert any(note.startswith("Incomplete: 4 of 6 samples") for note in found["notes"])


def test_a_damaged_shard_is_named_and_the_rest_is_reported(old):
    spoil(old / "shards" / "00000.h5")
    assert "n = 2" in report(old)
    found = json.loads((old / "report.json").read_text())
    (damaged,) = found["damaged"]
    assert damaged["file"] == "shards/00000.h5"
    assert (found["n"], found["n_expected"], found["complete"]) == (2, 6, False)
    assert "Damaged: shards/00000.h5" in (old / "report.html").read_text()
    assert found["attacks"][0]["given"] <= 2


def test_where_nothing_can_be_read_there_is_a_report_that_says_so(old):
    for file in (old / "shards").iterdir():
        spoil(file)
    report(old)
    found = json.loads((old / "report.json").read_text())
    assert (found["n"], len(found["damaged"]), found["robust_accuracy"]) == (0, 2, None)


def test_damaged_fits_and_findings_are_named(tmp_path):
    path = unpack("4be5e4d-fitted", tmp_path)
    spoil(path / "fitted" / "000.safetensors")
    (path / "diagnosis").mkdir()
    (path / "diagnosis" / "answers.json").write_text("{")
    report(path)
    found = json.loads((path / "report.json").read_text())
    assert [one["file"] for one in found["damaged"]] == [
        *("diagnosis/answers.json", "fitted/000.safetensors"),
    ]
    assert (found["n"], found["complete"]) == (5, True)


def test_damaged_epochs_are_named(tmp_path):
    path = unpack("4be5e4d-train", tmp_path)
    file = path / "history.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][:50], lines[2], '{"epoch": 4, "tr']))
    report(path)
    page = (path / "report.html").read_text()
    assert "Damaged: history.jsonl (no epoch can be read from line 2)" in page


def test_a_training_before_its_first_epoch_has_a_page(tmp_path):
    path = unpack("4be5e4d-train", tmp_path)
    (path / "history.jsonl").unlink()
    report(path)


# Versions of the schema


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (99, "written by a newer version of robust (schema 99; this one reads up to 1): update"),
        (0, "written by an older version of robust (schema 0), which this one can no longer read"),
        ("1", "no readable run.json"),
        (None, "no readable run.json"),
        (True, "no readable run.json"),
    ],
)
@pytest.mark.parametrize("name", ["4be5e4d-attack", "4be5e4d-train", "4be5e4d-certify"])
def test_what_cannot_be_read_is_refused_in_a_line(name, version, told, tmp_path):
    path = unpack(name, tmp_path)
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "schema_version": version}))
    done = CliRunner().invoke(main, ["report", str(path)])
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("gone", ["kind", "spec"])
def test_a_record_that_lacks_something_is_none(old, gone):
    record = json.loads((old / "run.json").read_text())
    del record[gone]
    (old / "run.json").write_text(json.dumps(record))
    with pytest.raises(RobustError, match="no readable run.json"):
        read_record(old)


def test_records_are_brought_up_step_by_step(old, monkeypatch):
    monkeypatch.setattr(store, "SCHEMA_VERSION", 3)
    steps = {1: lambda r: {**r, "first": True}, 2: lambda r: {**r, "second": r["first"]}}
    monkeypatch.setattr(store, "MIGRATIONS", steps)
    record = read_record(old)
    assert (record["schema_version"], record["second"]) == (3, True)
    assert json.loads((old / "run.json").read_text())["schema_version"] == 1  # nothing is written
    monkeypatch.setattr(store, "MIGRATIONS", {1: steps[1]})
    with pytest.raises(RobustError, match="older version of robust"):
        read_record(old)
