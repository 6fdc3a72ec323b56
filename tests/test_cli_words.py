"""What commands say: what to type next, what an option would not do, what a run came to."""

import re
import shlex

import pytest
from click.testing import CliRunner

from robust.cli import main
from robust.console import AttackProgress, plain
from robust.core.victim import Ledger
from robust.evaluation import AttackDone, AttackStarted, Started

OWN = "class Coarse:\n    def __init__(self, levels=4):\n        self.levels = levels\n" + (
    "    def __call__(self, x):\n        return (x * self.levels).round() / self.levels\n"
)
QUICK = ["--epochs", "1", "--val-limit", "40", "--val-attack", "pgd,steps=2", "--batch-size", "256"]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def typed(output):
    """The words of the last command that is suggested."""
    found = re.findall(r"(?:next|What that gives): robust (.+)", output)
    return shlex.split(found[-1])


@pytest.mark.parametrize(
    "words",
    [
        ["defend", "--with", "own.py:Coarse,levels=3"],
        ["train", "--defense", "own.py:Coarse,levels=3", *QUICK],
        ["tune", "--with", "own.py:Coarse,levels=0.1", "--search", "own.py:Coarse.levels=2.0:6.0",
         "--trials", "2", "--val-limit", "20", "--val-attack", "pgd,steps=2"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_the_next_command_works_as_it_is_told(invoke, checkpoint, words):
    model = [] if words[0] == "train" else ["--model", checkpoint]
    made = invoke(*words, *model, "--out", "own.pt")
    assert made.exit_code == 0, made.output
    following = typed(made.output)
    assert following[:3] == ["attack", "--model", "own.pt"]
    done = invoke(*following, "--limit", 4, "--attack", "fgsm", "--quiet")
    assert done.exit_code == 0, done.output


def test_a_denoiser_learns_from_pgd_unless_told_otherwise(invoke, checkpoint):
    words = ["train", "--defense", "denoiser,width=2", "--init", checkpoint, *QUICK]
    done = invoke(*words, "--out", "d.pt")
    assert done.exit_code == 0, done.output
    assert "against pgd,steps=7" in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train --union average", "--union without --also"),
        ("train --extra-fraction 0.3", "--extra-fraction without --extra"),
        ("train --adv=", "--adv is empty"),
        ("train --augment=", "--augment is empty"),
        ("train --adv awp", "type --adv pgd --awp 0.005"),
        ("train --adv jpeg", "type --defense jpeg"),
        ("train --defense awp", "`robust train --adv pgd --awp 0.005` asks for it"),
        ("train --defense kwta --defense kwta", "nothing is left for the second"),
        ("train --adv fmn", "robust: fmn looks for"),
        ("train --adv free --awp 0.01", "and free does not"),
        ("defend --model m.pt --with awp --out x.pt", "robust train --adv pgd --awp 0.005"),
        ("defend --model m.pt --with trades --out x.pt", "robust train --adv trades"),
    ],
)
def test_what_would_change_nothing_is_one_line_that_helps(invoke, tmp_path, words, line):
    done = invoke(*words.split())
    assert done.exit_code == 2, done.output
    assert line in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_noise_that_is_not_the_models_is_told(invoke, checkpoint):
    words = ["certify", "--model", checkpoint, "--with", "smoothing,sigma=0.25", "--limit", 1]
    words += ["--n", 20, "--n0", 10, "--sigma"]
    assert "note: --sigma 0.5 is not the noise" in invoke(*words, 0.5).stderr
    assert "is not the noise" not in invoke(*words, 0.25).stderr


def test_a_training_that_learned_nothing_says_so(invoke, tmp_path):
    done = invoke("train", "--adv", "none", "--lr", "1e-9", "--out", "m.pt", *QUICK)
    assert "note: Nothing was learned: " in done.stdout
    assert "Nothing was learned" in (tmp_path / "runs/train-m-1/report.html").read_text()
    assert "\u202f" not in done.stdout


def test_no_summary_is_cut(invoke):
    told = invoke("--help").output
    assert "..." not in told[told.index("Commands:") :]


def test_long_shards_are_not_silent():
    """Every event within a shard is worth a line once nothing was said for a while."""
    progress = AttackProgress("title")
    progress.on(Started(total=20, done=0, shards=1, attacks=("pgd",)))
    began = AttackStarted(shard=0, attack="pgd", given=1, ledger=Ledger(1))
    progress.on(began)
    assert progress.worth_a_line(began, since=11.0)
    assert not progress.worth_a_line(began, since=2.0)
    assert "0/20 samples" in progress.line()
    assert "pgd begins on 1 sample " in progress.line()
    ended = AttackDone(shard=0, attack="pgd", given=9, broken=4, seconds=12.0)
    progress.on(ended)
    assert progress.worth_a_line(ended, since=11.0)
    assert "pgd broke 4 of 9 samples in 12 s" in progress.line()


def test_notes_have_shares_like_all_other_lines():
    assert plain("95.0\u202f% of 4\u202fs") == "95.0% of 4\u202fs"
