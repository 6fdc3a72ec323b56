"""`robust certify` from the command line: a run folder, resume, the report again, bad input."""

import json

import pytest
from click.testing import CliRunner

from robust.cli import main

BASE = ["--sigma", "0.2", "--limit", "6", "--n", "300", "--n0", "50"]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run `robust ARGS…` in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, [*map(str, args)], prog_name="robust")


def rows(folder):
    lines = (folder / "rows.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def test_a_run_is_made_resumed_and_told_again(command, checkpoint, tmp_path):
    done = command("certify", "--model", checkpoint, *BASE)
    assert done.exit_code == 0, done.stderr
    assert "average certified radius" in done.stdout
    assert "6/6 samples" in done.stderr
    folder = tmp_path / "runs" / "certify-m-1"
    assert f"report: {folder.relative_to(tmp_path)}/report.html" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert (report["kind"], report["samples"], report["status"]) == ("certify", 6, "done")
    whole = rows(folder)
    assert len(whole) == 6

    # As if it had been killed while the fourth row was written.
    file, record = folder / "rows.jsonl", folder / "run.json"
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[:3]) + kept[3][:40])
    record.write_text(record.read_text().replace('"status": "done"', '"status": "running"'))
    (folder / "report.json").unlink()
    again = command(
        "certify", "--model", checkpoint, *BASE, "--resume", "--json", "--batch-size", "37",
    )  # fmt: skip
    assert again.exit_code == 0, again.stderr
    assert rows(folder) == whole
    assert json.loads(again.stdout)["average_certified_radius"] == pytest.approx(
        report["average_certified_radius"]
    )

    (folder / "report.html").unlink()
    told = command("report", folder)
    assert told.exit_code == 0, told.stderr
    assert "average certified radius" in told.stdout
    assert (folder / "report.html").exists()

    taken = command("certify", "--model", checkpoint, *BASE, "--out", folder)
    assert taken.exit_code == 2
    attack = command("attack", "--model", checkpoint, "--out", folder, "--resume", "--limit", "1")
    assert "is a run of robust certify, not attack" in attack.stderr


def test_smoothing_is_certified_as_the_file_says(command, checkpoint, tmp_path):
    made = command(
        "defend", "--model", checkpoint, "--with", "smoothing,sigma=0.2", "--out", "s.pt",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    for path, options in (("s.pt", BASE[2:]), (checkpoint, BASE)):
        out = tmp_path / ("a" if path == "s.pt" else "b")
        done = command("certify", "--model", path, *options, "--quiet", "--out", out)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_a_function_that_gives_labels_will_do(command, tmp_path):
    (tmp_path / "f.py").write_text("def f(x):\n    return (x.mean(axis=(1, 2, 3)) > 0.3) * 1\n")
    options = ["certify", "--model", "f.py:f", "--access", "labels", *BASE, "--json"]
    done = command(*options)
    assert done.exit_code == 0, done.stderr
    votes = [row["estimation"] for row in json.loads(done.stdout)["rows"]]
    assert all(set(vote) <= {"0", "1"} and sum(vote.values()) == 300 for vote in votes)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--model", "m.pt"], "say how much noise: --sigma 0.25, in the units of the data"),
        (["--model", "m.pt", "--sigma", "-1"], "--sigma is a finite number above 0, not -1"),
        (["--model", "m.pt", "--sigma", "1", "--n0", "0"], "--n0 must be at least 1, not 0"),
        (["--model", "m.pt", "--sigma", "1", "--alpha", "2"], "--alpha is a probability above 0"),
        (["--model", "m.pt", "--sigma", "1", "--access", "labels"], "--access is for functions"),
        (["--model", "https://h/v2/models/m", "--sigma", "1"], "is a service, and certify asks"),
        (["--model", "grpc://h/m", "--sigma", "1"], "is a service, and certify asks"),
        (["--model", "none.pt", "--sigma", "1"], "none.pt"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(options, line, command, checkpoint, tmp_path):
    (tmp_path / "m.pt").write_bytes(checkpoint.read_bytes())
    done = command("certify", *options)
    assert done.exit_code == 2
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
