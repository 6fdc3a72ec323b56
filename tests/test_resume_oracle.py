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
