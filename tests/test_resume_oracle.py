"""A run on an oracle that is killed, or whose model dies, asks nothing twice when it goes on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits
from test_resume import aggregates, outcomes

MODEL = '''
import hashlib, os, time
import numpy as np

LOG = os.environ["ASKED"]
MEANS = np.load("means.npy")


def scores(x):
    """How near to the mean of each class; every row asked about is logged before the answer."""
    time.sleep(0.002)
    if os.path.exists(LOG + ".dead"):
        raise RuntimeError("the model is gone")
    with open(LOG, "a") as file:
        file.writelines(hashlib.md5(row.tobytes()).hexdigest() + "\\n" for row in x)
    return 2 * x.reshape(len(x), -1) @ MEANS - (MEANS**2).sum(0)
'''
OPTIONS = ["--model", "model.py:scores", "--limit", "40", "--batch-size", "8", "--eps", "0.02",
           "--attack", "square,queries=100", "--queries", "120", "--price-per-1000", "2",
           "--quiet"]  # fmt: skip


def start(folder, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "robust", "attack", *OPTIONS, "--out", "run", *more],
        cwd=folder, env={**os.environ, "ASKED": str(folder / "asked")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def prepare(folder):
    """The model in its folder."""
    digits = load_digits()
    means = [digits.data[digits.target == label].mean(0) / 16 for label in range(10)]
    np.save(folder / "means.npy", np.stack(means, 1).astype("float32"))
    (folder / "model.py").write_text(MODEL)
    return folder


def wait(process, folder, rows):
    """Until so many rows were asked about, or the process has come to its end."""
    patience = time.monotonic() + 60
    while len(asked(folder)) < rows and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.002)


def asked(folder):
    log = folder / "asked"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("undisturbed"))
    process = start(folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return folder


def test_nothing_is_asked_twice(undisturbed):
    rows = asked(undisturbed)
    assert len(rows) == len(set(rows)) + 6  # three samples three times, to see whether it is random
    oracle = json.loads((undisturbed / "run" / "report.json").read_text())["oracle"]
    assert oracle["asked"] == len(rows)
    assert oracle["price"] == pytest.approx(2 * len(rows) / 1000)
    assert len(rows) <= 120 * 40


def test_a_model_that_dies_costs_nothing(undisturbed, tmp_path):
    prepare(tmp_path)
    before = 0
    for _ in range(4):
        process = start(tmp_path, "--resume")
        wait(process, tmp_path, before + 300)
        (tmp_path / "asked.dead").touch()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2, errors
        assert "the model is gone" in errors
        assert "what was learned is kept" in errors
        assert "--resume" in errors
        assert "Traceback" not in errors
        before = len(asked(tmp_path))
        (tmp_path / "asked.dead").unlink()
    process = start(tmp_path, "--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert sorted(asked(tmp_path)) == sorted(asked(undisturbed))
    assert outcomes(tmp_path / "run") == outcomes(undisturbed / "run")
    mine, theirs = (aggregates(folder / "run") for folder in (tmp_path, undisturbed))
    for report in (mine, theirs):
        report["oracle"] = {k: v for k, v in report["oracle"].items() if "second" not in k}
    assert mine == theirs


def test_a_killed_run_repeats_no_more_than_what_was_under_way(undisturbed, tmp_path):
    prepare(tmp_path)
    rng, kills = random.Random(1), 0
    for _ in range(5):
        process, before = start(tmp_path, "--resume"), len(asked(tmp_path))
        wait(process, tmp_path, before + 200)
        time.sleep(rng.random() * 0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate(timeout=60)
    assert kills >= 3
    process = start(tmp_path, "--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert outcomes(tmp_path / "run") == outcomes(undisturbed / "run")
    again = Counter(asked(tmp_path)) - Counter(asked(undisturbed))
    assert sum(again.values()) <= 8 * kills  # one call about a batch, between answer and journal


def test_without_a_folder_resume_finds_the_run_of_these_options(tmp_path):
    prepare(tmp_path)
    command = [sys.executable, "-m", "robust", "attack", "--model", "model.py:scores", "--limit",
               "12", "--attack", "square,queries=40", "--quiet", "--eps"]  # fmt: skip

    def run(eps, dies_after=None):
        process = subprocess.Popen(
            [*command, eps, "--resume"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "ASKED": str(tmp_path / "asked")},
        )  # fmt: skip
        if dies_after is not None:
            wait(process, tmp_path, len(asked(tmp_path)) + dies_after)
            (tmp_path / "asked.dead").touch()
        _, errors = process.communicate(timeout=60)
        (tmp_path / "asked.dead").unlink(missing_ok=True)
        return process.returncode, errors

    assert run("0.02", dies_after=60)[0] == 2
    assert run("0.03", dies_after=60)[0] == 2
    folders = sorted((tmp_path / "runs").iterdir())
    assert [json.loads((f / "run.json").read_text())["spec"]["threat"]["eps"] for f in folders] == [
        0.02,
        0.03,
    ]
    code, errors = run("0.02")
    assert code == 0, errors
    assert (folders[0] / "report.html").exists()
    assert not (folders[1] / "report.html").exists()
    code, errors = run("0.04")
    assert code == 0, errors
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_an_interruption_before_anything_is_measured(tmp_path):
    prepare(tmp_path)
    (tmp_path / "slow.py").write_text(
        "import time\ndef scores(x):\n    open('here', 'w')\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "robust", "attack", "--model", "slow.py:scores", "--eps", "0.1"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    patience = time.monotonic() + 60
    while not (tmp_path / "here").exists() and time.monotonic() < patience:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "robust: interrupted before anything was measured\n"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--model", "grpc://host/m"], "http:// and https:// only"),
        (["--model", "m.onnx", "--template", "t.toml"], "--template is for services"),
        (["--model", "model.py:scores", "--arch", "small-cnn"], "--arch is for model files"),
        (["--model", "model.py:scores", "--mean", "0.5"], "let model.py:scores normalise"),
        (["--model", "model.py:scores", "--price-per-1000", "nan"], "finite number"),
        (["--model", "model.py:scores", "--queries", "2"], "leaves nothing to search with"),
        (["--model", "model.py:scores", "--access", "gradient"], "gives scores only"),
        (["--model", "model.py:scores", "--norm", "l0"], "auto has no attack on l0"),
    ],
)
def test_bad_options_are_told_before_anything_is_asked(options, match, tmp_path, robust_cli):
    prepare(tmp_path)
    log = tmp_path / "asked"
    done = robust_cli("attack", "--eps", "1", *options, cwd=tmp_path, ASKED=str(log))
    assert done.returncode == 2
    assert match in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not log.exists()
    assert not (tmp_path / "runs").exists()
