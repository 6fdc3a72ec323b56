"""Runs that are interrupted or killed end as undisturbed ones do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_runs import (
    NOISY,
    finish,
    record,
    rows_of,
    same,
    scalars,
    scripted,
    stop_after,
)

import robust.training.engine as engine
import robust.training.keeper as keeper
from robust.data import DataSpec
from robust.models import load_model
from robust.training import train


def test_an_interrupted_run_resumes_to_the_same_weights(toy, tmp_path):
    (tmp_path / "nets.py").write_text(NOISY)  # BatchNorm and dropout
    spec = toy(
        arch=f"{tmp_path / 'nets.py'}:net", optimizer="adam", lr=0.01, patience=3, eps_warmup=2.0
    )
    finish(spec, tmp_path / "whole", out=tmp_path / "whole.pt")
    run = tmp_path / "parts"
    stop_after(train(spec, folder=run), 1)
    assert record(run)["status"] == "interrupted"
    assert len(rows_of(run)) == 1
    stop_after(train(spec, folder=run, resume=True), 3)
    torch.manual_seed(99)  # what the caller's generator holds is no matter
    events = finish(spec, run, out=tmp_path / "parts.pt", resume=True)
    assert [row["epoch"] for row in events[0].rows] == [1, 2, 3]
    assert record(run)["status"] == "done"
    for name in ("model.pt", "best.pt"):
        assert same(tmp_path / "whole" / name, run / name)
    assert same(tmp_path / "whole.pt", tmp_path / "parts.pt")
    assert rows_of(tmp_path / "whole") == rows_of(run)
    board = scalars(run)
    assert [step for step, _ in board["loss/train"]] == [1, 2, 3, 4]
    without = {k: v for k, v in board.items() if k != "seconds"}
    whole = scalars(tmp_path / "whole")
    assert without == {k: v for k, v in whole.items() if k != "seconds"}


def test_ctrl_c_in_mid_epoch_keeps_the_last_epoch(toy, tmp_path, monkeypatch):
    finish(toy(), tmp_path / "whole")
    defense, calls = type(toy().defense()), []
    plain = defense.step

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(defense, "step", step)
    with pytest.raises(KeyboardInterrupt):
        finish(toy(), tmp_path / "run")
    assert record(tmp_path / "run")["status"] == "interrupted"
    assert load_model(tmp_path / "run/model.pt").info.extra["epoch"] == 1
    finish(toy(), tmp_path / "run", resume=True)
    assert same(tmp_path / "whole/model.pt", tmp_path / "run/model.pt")


def test_checkpoints_of_a_long_run_are_refreshed_and_change_nothing(toy, tmp_path, monkeypatch):
    figures = [0.9, 0.1, 0.1, 0.1]  # the best weights are not the ones to go on with
    scripted(monkeypatch, figures)
    finish(toy(), tmp_path / "whole")
    scripted(monkeypatch, figures)
    monkeypatch.setattr(keeper, "REFRESH", 0.0)
    for event in train(toy(), folder=tmp_path / "run"):
        if isinstance(event, engine.EpochDone):
            epoch = load_model(tmp_path / "run/model.pt").info.extra["epoch"]
            assert epoch == event.row["epoch"]
    for name in ("model.pt", "best.pt"):
        assert same(tmp_path / "whole" / name, tmp_path / "run" / name)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "run")


@pytest.mark.parametrize("damage", ["torn", "missing", "ahead", "leftovers"])
def test_the_history_follows_the_state(toy, tmp_path, damage):
    """Whatever a kill between two writes may leave behind."""
    finish(toy(), tmp_path / "whole")
    run = tmp_path / "run"
    stop_after(train(toy(), folder=run), 2)
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    if damage == "torn":
        (run / "history.jsonl").write_text(lines[0] + lines[1][:40])
    elif damage == "missing":
        (run / "history.jsonl").write_text(lines[0])
    elif damage == "ahead":
        later = json.dumps({**json.loads(lines[1]), "epoch": 3})
        (run / "history.jsonl").write_text("".join(lines) + later + "\n")
    else:
        (run / ".123.state.pt").write_bytes(b"half")
        (run / "model.pt").unlink()
    finish(toy(), run, resume=True)
    assert rows_of(run) == rows_of(tmp_path / "whole")
    assert same(tmp_path / "whole/model.pt", run / "model.pt")
    assert [step for step, _ in scalars(run)["eps"]] == [1, 2, 3, 4]
    assert not list(run.glob(".*"))


def test_a_state_that_was_not_written_to_its_end_does_not_count(toy, tmp_path, monkeypatch):
    finish(toy(), tmp_path / "whole")
    plain, calls = torch.save, []

    def save(content, file, **options):
        calls.append("optimizer" in content)
        if sum(calls) == 3 and calls[-1]:
            Path(file).write_bytes(b"half a st")
            raise KeyboardInterrupt
        plain(content, file, **options)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        finish(toy(), tmp_path / "run")
    events = finish(toy(), tmp_path / "run", resume=True)
    assert len(events[0].rows) == 2
    assert same(tmp_path / "whole/model.pt", tmp_path / "run/model.pt")
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "run")


KILLER = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from robust.training import TrainSpec, train
import json, sklearn.metrics, torch.utils.tensorboard, torch.utils.flop_counter
spec, folder, seed = TrainSpec.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
moments = random.Random(int(seed))
def child():
    pid = os.fork()
    if pid:
        return pid
    for event in train(spec, folder=folder / "run", out=folder / "m.pt", resume=True):
        pass
    os._exit(0)
kills = 0
while True:
    pid = child()
    if kills < 8:
        time.sleep(moments.uniform(0.02, 0.6))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        break
    kills += 1
print(kills, os.WEXITSTATUS(status))
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_and_resumed_it_ends_the_same(toy, tmp_path, seed):
    spec = toy(epochs=12, patience=9)
    finish(spec, tmp_path / "whole", out=tmp_path / "whole.pt")
    words = [sys.executable, "-c", KILLER, json.dumps(spec.to_dict()), str(tmp_path), str(seed)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300)
    kills, status = map(int, ended.stdout.split())
    assert (kills > 2, status) == (True, 0), ended.stderr
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    for name in ("model.pt", "best.pt"):
        assert same(tmp_path / "whole" / name, tmp_path / "run" / name)
    assert same(tmp_path / "whole.pt", tmp_path / "m.pt")
    assert [step for step, _ in scalars(tmp_path / "run")["eps"]] == [
        row["epoch"] for row in rows_of(tmp_path / "run")
    ]


def test_a_finished_run_answers_again(toy, tmp_path):
    first = finish(toy(), tmp_path / "run")[-1]
    before = rows_of(tmp_path / "run", timed=True)
    events = finish(toy(), tmp_path / "run", out=tmp_path / "m.pt", resume=True)
    assert [type(e) for e in events] == [engine.TrainStarted, engine.TrainDone]
    assert events[-1].row == first.row
    assert events[-1].seconds == first.seconds
    assert rows_of(tmp_path / "run", timed=True) == before
    assert same(tmp_path / "m.pt", tmp_path / "run/best.pt")


def test_moved_files_have_the_same_content(toy, tmp_path):
    finish(toy(epochs=1), tmp_path / "first", out=tmp_path / "m.pt")
    spec = toy(init=str(tmp_path / "m.pt"))
    stop_after(train(spec, folder=tmp_path / "run"), 1)
    os.rename(spec.data["source"], tmp_path / "moved.npz")
    os.rename(tmp_path / "m.pt", tmp_path / "moved.pt")
    moved = toy(
        data=DataSpec(str(tmp_path / "moved.npz")).to_dict(), init=str(tmp_path / "moved.pt")
    )
    assert isinstance(finish(moved, tmp_path / "run", resume=True)[-1], engine.TrainDone)
