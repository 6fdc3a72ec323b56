"""Attack runs that are killed, at random moments, end as an undisturbed run does."""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from robust.store import RunFolder

COMMAND = ["--limit", "60", "--batch-size", "10", "--attack", "pgd,steps=10", "--attack",
           "apgd-t,steps=25,targets=4", "--seed", "3", "--diagnose", "off", "--quiet"]  # fmt: skip


def start(checkpoint, out, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "robust", "attack", "--model", str(checkpoint), *COMMAND,
         "--out", str(out), "--resume"],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcomes(folder):
    """Everything stored but wall times, bit for bit."""
    found = {}
    for shard in RunFolder.open(folder).shards():
        for name, value in vars(shard).items():
            if isinstance(value, np.ndarray):
                found[shard.index, name] = value.tobytes()
        for rows in shard.attacks:
            for name, value in vars(rows).items():
                if isinstance(value, np.ndarray):
                    found[shard.index, rows.label, name] = value.tobytes()
    return found


def aggregates(folder):
    report = json.loads((folder / "report.json").read_text())
    for part in (report, *report["attacks"]):
        for name in ("seconds", "samples_per_second", "energy", "created", "argv"):
            part.pop(name, None)
    return report


@pytest.fixture(scope="module")
def undisturbed(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(checkpoint, folder / "run", folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return folder / "run"


@pytest.mark.parametrize("seed", range(2))
def test_killed_runs_end_with_the_same_outcomes(seed, checkpoint, undisturbed, tmp_path):
    rng, run = random.Random(seed), tmp_path / "run"
    kills = 0
    for _ in range(4):
        process = start(checkpoint, run, tmp_path)
        # Wait until this session has begun to write, then a little more: kills fall anywhere.
        before = len(list(run.glob("shards/*")))
        patience = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < patience:
            if len(list(run.glob("shards/*"))) > before or rng.random() < 0.001:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.15)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    process.communicate(timeout=120)
    process = start(checkpoint, run, tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert kills >= 2
    assert outcomes(run) == outcomes(undisturbed)
    assert aggregates(run) == aggregates(undisturbed)


def test_an_interrupt_says_how_to_go_on(checkpoint, undisturbed, tmp_path):
    run = tmp_path / "run"
    process = start(checkpoint, run, tmp_path)
    while not list(run.glob("shards/[0-9]*.h5")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume --out {run}" in errors
    assert "Traceback" not in errors
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    process = start(checkpoint, run, tmp_path)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert outcomes(run) == outcomes(undisturbed)
