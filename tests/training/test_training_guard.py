"""Catastrophic overfitting is seen within an epoch, rolled back, and trained on otherwise."""

import numpy as np
import pytest
import torch
from training_runs import LINF, finish, rows_of, same, scripted, stop_after

import robust.training.guard as guarding
from robust.data import DataSpec, open_data
from robust.models import load_model
from robust.training import Alarm, EpochDone, TrainSpec, parse_adv, train
from robust.training.guard import collapsed, stronger

FGSM = parse_adv("fgsm")


def looks(monkeypatch, spec, told, every=2):
    """Let looks be due every so many steps, and tell what `told` says of (epoch, step)."""
    asked = []

    def look(self, epoch, step):
        asked.append((epoch, step))
        problem = told.get((epoch, step))
        return problem.pop(0) if problem else None

    monkeypatch.setattr(guarding.Guard, "when", lambda self, steps, n: range(every, steps, every))
    monkeypatch.setattr(guarding.Guard, "look", look)
    return asked


@pytest.mark.parametrize(
    ("fgsm", "robust", "best", "expected"),
    [
        (0.9, 0.05, 0.7, True),
        (0.9, 0.5, 0.7, False),  # has not halved
        (0.3, 0.05, 0.7, False),  # FGSM breaks it as well
        (0.6, 0.02, 0.12, False),  # fell from chance
    ],
)
def test_what_counts_as_a_collapse(fgsm, robust, best, expected):
    assert collapsed(fgsm, robust, best) == expected


@pytest.mark.parametrize(
    ("adv", "expected"),
    [
        ("fgsm", "pgd,steps=3"),
        ("n-fgsm", "pgd,steps=3"),
        ("free", "pgd,steps=3"),
        ("pgd,steps=1,step_size=0.1", "pgd,steps=2"),
        ("pgd,steps=5", "pgd,steps=10"),
        ("trades,steps=2", "trades,steps=4"),
        ("pgd,steps=7", None),
        ("none", None),
    ],
)
def test_what_takes_over(adv, expected):
    found = stronger(parse_adv(adv))
    assert found == (None if expected is None else parse_adv(expected))


def test_a_collapse_is_rolled_back_to_the_last_good_look(toy, tmp_path, monkeypatch):
    spec = toy(adv=FGSM, epochs=3)
    asked = looks(monkeypatch, spec, {(2, 4): ["accuracy 90% under FGSM but 1% under PGD"]})
    events = finish(spec, tmp_path / "run", out=tmp_path / "m.pt")
    alarms = [e for e in events if isinstance(e, Alarm)]
    assert len(alarms) == 1
    assert alarms[0].epoch == 2
    for words in ("seen after step 4 of 6", "went back to step 2", "pgd,steps=3 in place of fgsm"):
        assert words in alarms[0].text
    assert "\n" not in alarms[0].text
    # Epoch 2 goes back from step 4 to 2, and is looked at there again; the switch stays.
    assert asked == [(1, 2), (1, 4), (2, 2), (2, 4), (2, 4), (3, 2), (3, 4)]
    rows = rows_of(tmp_path / "run")
    assert [row["adv"] for row in rows] == ["fgsm,random_start=true", "pgd,steps=3", "pgd,steps=3"]
    assert [row["alarm"] for row in rows] == [None, alarms[0].text, None]
    assert load_model(tmp_path / "run/model.pt").info.extra["rollbacks"] == [alarms[0].text]


def test_what_a_rollback_leaves_is_as_if_the_attack_had_changed_there(toy, tmp_path, monkeypatch):
    """The state at step 2 of epoch 2, and the attack from there on, are all that counts."""
    from robust.training import learner as learning

    spec = toy(adv=FGSM, epochs=2, optimizer="adam", lr=0.01, ema=0.9)
    looks(monkeypatch, spec, {(2, 4): ["bad"]})
    finish(spec, tmp_path / "rolled")

    plain, steps = learning.Learner.step, []

    def step(self, *args, **kwargs):
        if len(steps) == 8:  # six of the first epoch, two of the second
            self.switch(parse_adv("pgd,steps=3"))
        steps.append(1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(learning.Learner, "step", step)
    looks(monkeypatch, spec, {})
    finish(spec, tmp_path / "switched")
    assert same(tmp_path / "rolled/model.pt", tmp_path / "switched/model.pt")
    one, other = rows_of(tmp_path / "rolled"), rows_of(tmp_path / "switched")
    assert {k: v for k, v in one[1].items() if k != "alarm"} == {
        k: v for k, v in other[1].items() if k != "alarm"
    }


def test_the_switch_is_resumed(toy, tmp_path, monkeypatch):
    spec = toy(adv=FGSM)
    looks(monkeypatch, spec, {(2, 2): ["bad"]})
    finish(spec, tmp_path / "whole")
    looks(monkeypatch, spec, {(2, 2): ["bad"]})
    stop_after(train(spec, folder=tmp_path / "run"), 2)
    looks(monkeypatch, spec, {})
    finish(spec, tmp_path / "run", resume=True)
    assert same(tmp_path / "whole/model.pt", tmp_path / "run/model.pt")
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "run")
    kept = [load_model(tmp_path / n / "model.pt").info.extra for n in ("whole", "run")]
    assert kept[0]["rollbacks"] == kept[1]["rollbacks"] != []


def test_two_rollbacks_at_most_in_an_epoch(toy, tmp_path, monkeypatch):
    spec = toy(adv=parse_adv("pgd,steps=1"), epochs=2)
    looks(monkeypatch, spec, {(1, 2): ["bad"] * 9})
    events = finish(spec, tmp_path / "run")
    assert len([e for e in events if isinstance(e, Alarm)]) == 2
    assert [row["adv"] for row in rows_of(tmp_path / "run")] == ["pgd,steps=4"] * 2


def test_the_measurement_at_the_end_of_an_epoch_is_a_look_as_well(toy, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.6, 0.1, 0.5, 0.5], fgsm=[0.7, 0.9, 0.6, 0.6])
    events = finish(toy(adv=FGSM, epochs=3), tmp_path / "run")
    assert [e.epoch for e in events if isinstance(e, Alarm)] == [2]
    rows = [e.row for e in events if isinstance(e, EpochDone)]
    assert [row["val_robust_accuracy"] for row in rows] == [0.6, 0.5, 0.5]
    assert [row["adv"] for row in rows] == ["fgsm,random_start=true", "pgd,steps=3", "pgd,steps=3"]
    assert "went back to step 0" in rows[1]["alarm"]


@pytest.mark.parametrize("changes", [{"guard": False}, {"adv": parse_adv("none")}])
def test_nothing_is_looked_at_where_nothing_is_to_be_done(toy, tmp_path, monkeypatch, changes):
    spec = toy(epochs=1, **changes)
    assert looks(monkeypatch, spec, {}) == []
    finish(spec, tmp_path / "run")
    assert rows_of(tmp_path / "run")[0]["alarm"] is None


def test_looks_cost_little():
    """Of 4 at most, as many as stay below a fiftieth of natural passes over the data."""
    spec = TrainSpec(val_limit=1000)
    guard = guarding.Guard.__new__(guarding.Guard)
    guard.spec, guard.y = spec, torch.zeros(500)
    for steps, samples in ((422, 54000), (391, 50000), (100, 16000), (20, 1300), (1, 60000)):
        due = guard.when(steps, samples)
        assert len(due) <= 3
        assert len(due) * 128 * 5 <= 0.02 * 2 * samples
        assert all(0 < step < steps for step in due)
    assert len(guard.when(422, 54000)) == 3


@pytest.fixture
def large_digits(tmp_path):
    """Digits of 24×24 pixels, on which FGSM from the samples themselves overfits at eps 0.3."""
    digits = open_data(DataSpec("digits", "train"))
    batch = digits.batch(digits.ids)
    x = batch.x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    np.savez(tmp_path / "large.npz", x=x, y=batch.y)
    return TrainSpec(
        data=DataSpec(str(tmp_path / "large.npz")).to_dict(),
        adv=parse_adv("fgsm,random_start=false"),
        threat={**LINF, "eps": 0.3},
        eps_scale=1.0,
        eps_warmup=3.0,
        optimizer="adam",
        lr=0.005,
        weight_decay=5e-4,
        schedule="constant",
        epochs=12,
    )


def test_a_real_collapse_is_survived(large_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(guarding, "COST", 0.2)  # so that so few data are looked at within an epoch
    events = finish(large_digits, tmp_path / "run")
    alarms = [e for e in events if isinstance(e, Alarm)]
    assert alarms
    assert all("in place of" in alarm.text for alarm in alarms)
    rows = rows_of(tmp_path / "run")
    assert not any(row["collapsed"] for row in rows)
    assert rows[-1]["adv"].startswith("pgd")
    assert rows[-1]["val_robust_accuracy"] > 0.5 * max(r["val_robust_accuracy"] for r in rows)
