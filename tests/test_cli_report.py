"""`robust report` on the command line: leaderboards, what is no run, other formats."""

import json
import shutil
from xml.etree import ElementTree as ET

import pytest
import torch
from click.testing import CliRunner

from robust.cli import main

USUAL = ["--limit", "40", "--no-curve", "--quiet", "--diagnose", "off", "--search", "exact"]


@pytest.fixture(scope="module")
def made(digits_net, checkpoint, tmp_path_factory):
    """Runs on two models: `a-fgsm` and `a-pgd`, `b-fgsm`, in L2 `a-l2`, and `a-proof`."""
    from robust.models import build, save_checkpoint

    folder = tmp_path_factory.mktemp("boards")
    other = build("small-cnn", (1, 8, 8), 10)
    other.load_state_dict(digits_net.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    told = {"source": "digits", "split": "test"}
    threat = {"norm": "linf", "eps": 0.1, "low": 0.0, "high": 1.0}
    facts = {"arch": "small-cnn", "shape": (1, 8, 8), "num_classes": 10, "classes": None}
    save_checkpoint(folder / "b.pt", other, data=told, threat=threat, **facts)
    for name, model, more in (
        ("a-fgsm", checkpoint, ["--attack", "fgsm"]),
        ("a-pgd", checkpoint, ["--attack", "pgd,steps=5"]),
        ("b-fgsm", folder / "b.pt", ["--attack", "fgsm"]),
        ("a-l2", checkpoint, ["--attack", "pgd,steps=3", "--norm", "l2", "--eps", "0.1"]),
    ):
        run("attack", "--model", model, *USUAL, *more, "--out", folder / "runs" / name)
    proof = ["--sigma", "0.1", "--n0", "10", "--n", "100", "--limit", "30", "--quiet"]
    run("certify", "--model", checkpoint, *proof, "--out", folder / "runs/a-proof")
    return folder / "runs"


@pytest.fixture
def runs(made, tmp_path):
    """The same in a folder of the test's own."""
    return shutil.copytree(made, tmp_path / "runs")


def invoke(*args):
    return CliRunner().invoke(main, list(map(str, args)))


def run(*args):
    done = invoke(*args)
    assert done.exit_code == 0, done.output
    return done


def board(path):
    groups = json.loads(path.read_text())["groups"]
    return {one["run"]: one for group in groups for one in group["runs"]}


def test_several_runs_make_a_leaderboard(runs):
    (runs / "a-pgd/report.html").unlink()
    done = run("report", *sorted(runs.iterdir()))
    assert done.stdout.splitlines()[-1] == f"{runs / 'leaderboard.html'}  4 runs in 2 comparisons"
    assert (runs / "a-pgd/report.html").exists()
    found = board(runs / "leaderboard.json")
    assert set(found) == {"a-fgsm", "a-pgd", "b-fgsm", "a-l2"}
    assert found["a-pgd"]["href"] == "a-pgd/report.html"
    for name, one in found.items():
        told = json.loads((runs / name / "report.json").read_text())
        assert one["robust_accuracy"] == told["robust_accuracy"]
        assert one["clean_accuracy"] == told["clean_accuracy"]
    assert found["a-fgsm"]["rank"] is None  # pgd leaves less of the same model
    assert '<a href="a-pgd/report.html">' in (runs / "leaderboard.html").read_text()
    # Once more, with the leaderboard's own files among the paths: it comes to the same.
    page = (runs / "leaderboard.html").read_text()
    done = run("report", *sorted(runs.iterdir()))
    assert done.stderr == ""
    assert (runs / "leaderboard.html").read_text() == page


def test_certificates_are_shown_beside_attacks_on_the_same_model(runs):
    run("report", runs / "a-l2", runs / "a-proof", runs / "b-fgsm")
    found = board(runs / "leaderboard.json")
    proofs = json.loads((runs / "a-proof/report.json").read_text())
    rows = [r for r in proofs["rows"] if r["prediction"] == r["label"] and r["radius"] >= 0.1]
    assert found["a-l2"]["certified_accuracy"] == pytest.approx(len(rows) / 30)
    assert found["b-fgsm"]["certified_accuracy"] is None
    assert 'id="bracket"' in (runs / "a-l2/report.html").read_text()
    run("report", runs / "a-l2")
    assert 'id="bracket"' not in (runs / "a-l2/report.html").read_text()
    run("report", runs / "a-l2", runs / "a-proof")  # no leaderboard, of one attack run
    assert 'id="bracket"' in (runs / "a-l2/report.html").read_text()


def test_the_baseline_need_not_be_among_the_runs(runs):
    page = runs.parent / "there" / "board.html"
    before = (runs / "b-fgsm/report.html").stat().st_mtime_ns
    run("report", runs / "a-pgd", "--baseline", runs / "b-fgsm", "--out", page)
    found = board(page.with_suffix(".json"))
    assert found["b-fgsm"]["baseline"]
    assert found["a-pgd"]["against_baseline"]["n"] == 40
    assert found["a-pgd"]["href"] == "../runs/a-pgd/report.html"
    assert (runs / "b-fgsm/report.html").stat().st_mtime_ns == before
    run("report", runs / "a-pgd", runs / "b-fgsm", "--baseline", runs / "b-fgsm", "--out", page)
    assert len(board(page.with_suffix(".json"))) == 2


def test_reports_can_be_left_alone(runs):
    before = (runs / "a-pgd/report.html").stat().st_mtime_ns
    (runs / "b-fgsm/report.html").unlink()
    run("report", runs / "a-pgd", runs / "b-fgsm", runs / "a-proof", "--no-rewrite")
    assert (runs / "a-pgd/report.html").stat().st_mtime_ns == before
    assert not (runs / "b-fgsm/report.html").exists()
    assert board(runs / "leaderboard.json")["b-fgsm"]["href"] is None


def test_an_unfinished_run_is_shown_as_such(runs):
    record = json.loads((runs / "a-pgd/run.json").read_text())
    (runs / "a-pgd/run.json").write_text(json.dumps({**record, "status": "running"}))
    for shard in (runs / "a-pgd/shards").iterdir():
        shard.unlink()
    run("report", runs / "a-pgd", runs / "b-fgsm")
    found = board(runs / "leaderboard.json")["a-pgd"]
    assert (found["rank"], found["status"], found["n"]) == (None, "running", 0)
    assert found["robust_accuracy"] is None
    assert "running" in (runs / "leaderboard.html").read_text()


def test_of_several_folders_those_that_are_no_runs_are_skipped(runs):
    (runs / "empty").mkdir()
    (runs / "future").mkdir()
    (runs / "future/run.json").write_text('{"schema_version": 99, "kind": "attack", "spec": {}}')
    (runs / "torn").mkdir()
    (runs / "torn/run.json").write_text('{"schema_version": 1, "kind": "attack", "spec": {}}')
    done = run("report", *sorted(runs.iterdir()))
    told = done.stderr.splitlines()
    assert len(told) == 3
    assert told[0] == f"skipped: {runs / 'empty'} is no run folder: no readable run.json in it"
    assert "newer version of robust" in told[1]
    assert told[2].startswith(f"skipped: {runs / 'torn'} cannot be read")
    assert len(board(runs / "leaderboard.json")) == 4
    assert len(json.loads((runs / "leaderboard.json").read_text())["skipped"]) == 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["runs/a-pgd", "nowhere"], "nowhere does not exist"),
        (["empty"], "empty is no run folder"),
        (["runs"], "runs holds several runs: name them, as in robust report runs/*"),
        (["empty", "empty"], "none of these folders holds a run"),
        (["runs/a-pgd", "--out", "x.html"], "--out is for a leaderboard"),
        (["runs/a-pgd", "--no-rewrite"], "--no-rewrite is for a leaderboard"),
        (["runs/a-pgd", "--baseline", "runs/a-pgd"], "--baseline is for a leaderboard"),
        (["runs/a-pgd", "runs/a-l2", "--baseline", "runs/a-proof"], "--baseline takes an attack"),
        (["runs/a-pgd", "runs/a-l2", "--baseline", "nowhere"], "nowhere does not exist"),
        (["runs/a-pgd", "runs/a-l2", "--out", "x.json"], "--out x.json names a page"),
        (["runs/a-proof", "--format", "csv"], "--format csv is for attack runs"),
        (["runs/a-pgd", "runs/a-l2", "--format", "csv"], "--format csv takes one run"),
        (["runs/a-pgd", "--format", "card", "--no-rewrite"], "--format card takes one run"),
        (["empty", "--format", "csv"], "empty is no run folder"),
    ],
)
def test_bad_input_is_one_line(runs, monkeypatch, args, says):
    monkeypatch.chdir(runs.parent)
    (runs.parent / "empty").mkdir()
    done = invoke("report", *args)
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("skipped: ")]
    assert line.startswith(f"robust: {says}")
    assert not (runs / "leaderboard.html").exists()


def test_other_formats(runs):
    told = json.loads((runs / "a-pgd/report.json").read_text())
    page = (runs / "a-pgd/report.html").stat().st_mtime_ns
    table = run("report", runs / "a-pgd", "--format", "csv").stdout.splitlines()
    assert table[0].startswith("id,label,")
    assert len(table) == 1 + 40
    text = run("report", runs / "a-pgd", "--format", "markdown").stdout
    assert f"{100 * told['robust_accuracy']:.0f}" in text
    card = run("report", runs / "a-pgd", "--format", "card").stdout
    assert card.startswith("---\n")
    out = runs.parent / "new" / "junit.xml"
    assert run("report", runs / "a-pgd", "--format", "junit", "--out", out).stdout == ""
    assert ET.parse(out).getroot().tag == "testsuites"
    assert (runs / "a-pgd/report.html").stat().st_mtime_ns == page


def test_hostile_names_of_folders_stay_links_to_reports(runs):
    evil = runs / 'javascript:alert("1")&<b>'
    (runs / "b-fgsm").rename(evil)
    run("report", runs / "a-pgd", evil)
    page = (runs / "leaderboard.html").read_text()
    assert 'href="javascript%3Aalert%28%221%22%29%26%3Cb%3E/report.html"' in page
    assert "<b>/report" not in page
    assert 'href="javascript:' not in page


def test_damage_and_what_is_missing_are_told(runs):
    shards = sorted((runs / "a-pgd/shards").glob("*.h5"))
    done = run("report", runs / "a-pgd")
    assert "n = 40" in done.stdout
    assert " of 40" not in done.stdout
    assert done.stderr == ""
    whole = shards[-1].read_bytes()
    shards[-1].write_bytes(whole[:-100])
    done = run("report", runs / "a-pgd")
    assert f"{shards[-1].name}: it was cut short or changed" in done.stderr
    assert "--resume" in done.stderr
    assert (" of 40" in done.stdout) == (len(shards) > 1)
    shutil.rmtree(runs / "a-pgd/shards")
    done = run("report", runs / "a-pgd")
    assert "nothing was measured" in done.stdout
    assert "nan" not in done.stdout
