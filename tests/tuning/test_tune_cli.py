"""`robust tune` as it is typed."""

import json

import pytest
from click.testing import CliRunner

from robust.cli import main

QUICK = ["--epochs", "1", "--val-limit", "40", "--val-attack", "pgd,steps=2", "--batch-size", "256"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(main, [str(word) for word in words])

    return call


def test_a_training_is_tuned_attacked_and_reported(run, tmp_path):
    words = [*QUICK, "--adv", "fgsm", "--search", "lr=0.01:0.5:log", "--search", "mix=0.5,1"]
    done = run("tune", *words, "--trials", 3, "--out", "m.pt")
    assert done.exit_code == 0, done.output
    assert "without tuning: clean" in done.output
    assert "trial 3/3  lr=" in done.output
    folder = tmp_path / "runs/tune-m-1"
    found = json.loads((folder / "report.json").read_text())
    assert [one["state"] for one in found["trials"]] == ["complete"] * 3
    assert found["trials"][0]["values"] == {"lr": 0.1, "mix": 1.0}
    best = next(one for one in found["trials"] if one["number"] == found["best"])
    assert found["baseline"] == 1
    named = f"best is trial {found['best']} of 3" if found["best"] > 1 else "no trial was better"
    assert named in done.output
    assert f"robust {best['robust']:.1%}" in done.output
    page = (folder / "report.html").read_text()
    assert page.count("<circle") == 3 * 3
    assert "training of small-cnn against fgsm" in page
    # From what is stored, anew.
    (folder / "report.html").unlink()
    again = run("report", folder)
    assert again.output.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text() == page
    # More trials of the same.
    more = run("tune", *words, "--trials", 4, "--out", "m.pt", "--resume", "--run", folder)
    assert more.exit_code == 0, more.output
    assert "trial 4/4" in more.output
    assert "trial 3/4" not in more.output
    attacked = run("attack", "--model", "m.pt", "--limit", 10, "--attack", "fgsm", "--quiet")
    assert attacked.exit_code == 0, attacked.output


def test_defenses_around_a_model_are_tuned_on_validation_samples(run, checkpoint, tmp_path):
    words = ["--model", checkpoint, "--with", "bit-depth", "--val-attack", "pgd,steps=2"]
    done = run("tune", *words, "--val-limit", 40, "--trials", 3, "--run", "r", "--out", "d.pt")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r/run.json").read_text())
    data = record["spec"]["subject"]["data"]
    # The checkpoint names the test split, too: that is left for the attack.
    assert (data["source"], data["split"], data["fraction"]) == ("digits", "held-out", 0.2)
    assert record["spec"]["subject"]["samples"] == 40
    assert record["spec"]["search"][0]["name"] == "bit-depth.bits"
    assert "bit-depth around m.pt" in (tmp_path / "r/report.html").read_text()
    made = run("attack", "--model", "d.pt", "--limit", 10, "--attack", "fgsm", "--quiet")
    assert made.exit_code == 0, made.output


def test_an_unfinished_run_of_these_options_is_found(run, tmp_path, monkeypatch):
    from robust.tuning import Recipe

    words = ["tune", *QUICK, "--search", "lr=0.1,0.2,0.3", "--trials", 3, "--out", "m.pt"]
    plain, calls = Recipe.run, []

    def interrupted(self, values, folder):
        calls.append(values)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, values, folder)

    monkeypatch.setattr(Recipe, "run", interrupted)
    stopped = run(*words)
    assert stopped.exit_code == 130
    assert "--resume --run runs/tune-m-1" in stopped.output
    done = run(*words, "--resume")
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tune-m-1"]
    assert len(calls) == 4  # two trials were there, and the third was begun again


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--search lrr=0.1:0.3", "did you mean 'lr'"),
        ("--search lr=0.3:0.1", "the range is empty"),
        ("--search lr=0:0.3:log", "starts above 0"),
        ("--search epochs=0:4", "epochs=0 is not possible: --epochs must be at least 1"),
        ("--search adv.steps=0:4", "steps must be at least 1"),
        ("--search optimizer=sgd,adm", "not 'adm'"),
        ("--search adv=pgd,fgs", "did you mean 'fgsm'"),
        ("--with bit-depth", "name it by --model"),
        ("--trust-pickle", "--trust-pickle is about a finished model"),
        ("--model m.pt", "say with what: --with"),
        ("--model m.pt --with bit-dept", "did you mean 'bit-depth'"),
        ("--model m.pt --with bit-depth --epochs 3", "--epochs is for training"),
        ("--model m.pt --with bit-depth --defense bit-depth", "--defense is for training"),
        ("--model m.pt --with bit-depth --search lr=0.1:0.2", "parameters of its defenses"),
        ("--model m.pt --with bit-depth --search bit-depth.bits=0:3", "bits=0 is not possible"),
        ("--model m.pt --with bit-depth --range 0,255", "is not the checkpoint's"),
        ("--model http://127.0.0.1:9 --with bit-depth", "around model files"),
        ("--out nowhere/m.pt", "cannot be written"),
        ("--trials 0", "x>=1"),
    ],
)
def test_bad_input_is_one_line(run, checkpoint, tmp_path, words, line):
    given = [str(checkpoint) if word == "m.pt" else word for word in words.split()]
    found = run("tune", *given)
    assert found.exit_code == 2, found.output
    assert line in found.output
    assert len(found.output.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_shows_what_is_tuned_first(run):
    told = run("tune", "--help").output
    assert told.index("--search") < told.index("--epochs")
    assert "tune" in run("--help").output
