"""Fine-tuning, the best epoch, early stopping, the alarm of catastrophic overfitting."""

import numpy as np
import pytest
import torch
from training_runs import (
    LINF,
    NOISY,
    blobs,
    finish,
    record,
    rows_of,
    same,
    scripted,
    stop_after,
    weights,
)

import robust.training.engine as engine
from robust.core.rng import seeded
from robust.data import DataSpec, open_data
from robust.models import build, load_model
from robust.training import TrainSpec, parse_adv, train

# -- fine-tuning


def test_fine_tuning_starts_from_the_file_and_keeps_what_is_frozen(toy, tmp_path):
    finish(toy(epochs=2), tmp_path / "first", out=tmp_path / "m.pt")
    other = DataSpec(blobs(tmp_path / "other.npz", n=120, seed=3)).to_dict()
    spec = toy(data=other, init=str(tmp_path / "m.pt"), freeze=["1.*", "3.weight"])
    started = finish(spec, tmp_path / "second")[0]
    before, after = weights(tmp_path / "m.pt"), weights(tmp_path / "second/model.pt")
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {"1.weight", "1.bias", "3.weight"}
    assert started.fresh == ()
    # The weights were learnt behind the first normalisation; it stays.
    infos = [load_model(tmp_path / name).info for name in ("m.pt", "second/model.pt")]
    assert infos[0].mean == infos[1].mean


def test_frozen_batchnorm_keeps_its_statistics(toy, tmp_path):
    (tmp_path / "nets.py").write_text(NOISY)
    arch = f"{tmp_path / 'nets.py'}:net"
    with seeded(0):
        net = build(arch, (6,), 3)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for name, freeze in (("frozen", ["1.*"]), ("free", ["0.*"])):
        spec = toy(arch=arch, init=str(tmp_path / "net.pt"), freeze=freeze, epochs=1)
        finish(spec, tmp_path / name)
        after = weights(tmp_path / name / "model.pt")
        untouched = torch.equal(after["1.running_mean"], net.state_dict()["1.running_mean"])
        assert untouched == (name == "frozen")


def test_another_number_of_classes_gets_a_new_last_layer(toy, tmp_path):
    finish(toy(epochs=1), tmp_path / "first", out=tmp_path / "m.pt")
    data = DataSpec(blobs(tmp_path / "five.npz", n=100, classes=5)).to_dict()
    spec = toy(data=data, init=str(tmp_path / "m.pt"), freeze=["1.*", "3.*"], epochs=1)
    started = finish(spec, tmp_path / "second")[0]
    assert started.fresh == ("5.weight", "5.bias")
    after = weights(tmp_path / "second/model.pt")
    assert after["5.weight"].shape == (5, 128)
    assert torch.equal(after["3.weight"], weights(tmp_path / "m.pt")["3.weight"])


# -- the best epoch, early stopping, the alarm


def test_patience_stops_the_run_and_the_best_weights_are_kept(toy, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.3, 0.5, 0.5, 0.4, 0.4, 0.9], loss=[1, 1, 0.5, 1, 1, 1])
    done = finish(toy(epochs=6, patience=2), tmp_path / "run", out=tmp_path / "m.pt")[-1]
    assert (done.epochs, done.row["epoch"], done.stopped_early) == (5, 3, True)
    assert record(tmp_path / "run")["best_epoch"] == 3
    assert load_model(tmp_path / "m.pt").info.extra["epoch"] == 3
    # The weights are those that the run had after its third epoch.
    scripted(monkeypatch, [0.3, 0.5, 0.5], loss=[1, 1, 0.5])
    generator_ = train(toy(epochs=6, patience=2), folder=tmp_path / "short")
    stop_after(generator_, 3)
    assert same(tmp_path / "m.pt", tmp_path / "short/model.pt")


@pytest.mark.parametrize(
    ("robust", "loss", "best"),
    [
        ([0.5, 0.9, 0.8], [0.9, 0.8, 0.7], 2),  # of 30, the standard error at 0.9 is 0.055
        ([0.5, 0.9, 0.86], [0.9, 0.8, 0.7], 3),
        ([0.5, 0.9, 0.86], [0.9, 0.7, 0.8], 2),
        ([0.9, 0.86, 0.97], [0.9, 0.7, 0.8], 3),
        ([0.9, 0.86, 0.92], [0.9, 0.7, 0.8], 3),  # now 0.86 is below 0.92 − 0.05
        ([0.9, 0.88, 0.92], [0.9, 0.7, 0.8], 2),
    ],
)
def test_the_best_epoch(toy, tmp_path, monkeypatch, robust, loss, best):
    validation = DataSpec(blobs(tmp_path / "v.npz", n=30, seed=1)).to_dict()
    scripted(monkeypatch, robust, loss=loss)
    done = finish(toy(epochs=3, validation=validation), tmp_path / "run")[-1]
    assert done.row["epoch"] == best


def test_natural_training_is_judged_by_clean_accuracy(toy, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.1, 0.1], clean=[0.6, 0.9, 0.7])
    done = finish(toy(adv=parse_adv("none"), epochs=3), tmp_path / "run")[-1]
    assert done.row["epoch"] == 2


def test_the_warm_up_does_not_count_as_stagnation(toy, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.4, 0.4, 0.4, 0.4, 0.4])
    done = finish(toy(epochs=6, patience=2, eps_warmup=3.0), tmp_path / "run")[-1]
    assert done.epochs == 5


def test_the_alarm_tells_a_collapse_from_all_else(toy, tmp_path, monkeypatch):
    robust = [0.5, 0.6, 0.1, 0.1, 0.35, 0.2, 0.1]
    fgsm = [0.6, 0.7, 0.9, 0.9, 0.8, 0.3, 0.9]
    loss = [1.0, 0.5, 0.1, 1.0, 1.0, 1.0, 1.0]
    scripted(monkeypatch, robust, fgsm=fgsm, loss=loss)
    events = finish(toy(epochs=7, guard=False), tmp_path / "run")
    alarms = [e for e in events if isinstance(e, engine.Alarm)]
    assert [a.epoch for a in alarms] == [3, 7]  # once for each collapse
    assert "FGSM" in alarms[0].text
    assert "\n" not in alarms[0].text
    assert [bool(r["alarm"]) for r in rows_of(tmp_path / "run")] == [0, 0, 1, 1, 0, 0, 1]
    assert events[-1].row["epoch"] == 2

    scripted(monkeypatch, robust, fgsm=fgsm)  # no attack trained on: nothing to overfit to
    events = finish(toy(epochs=7, adv=parse_adv("none")), tmp_path / "natural")
    assert not [e for e in events if isinstance(e, engine.Alarm)]


def test_a_real_collapse_raises_the_alarm_and_healthy_runs_do_not(tmp_path):
    """FGSM from the sample itself, at a large eps, on digits of 24×24 pixels."""
    digits = open_data(DataSpec("digits", "train"))
    batch = digits.batch(digits.ids)
    x = batch.x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    np.savez(tmp_path / "large.npz", x=x, y=batch.y)
    collapse = TrainSpec(
        data=DataSpec(str(tmp_path / "large.npz")).to_dict(),
        adv=parse_adv("fgsm,random_start=false"),
        threat={**LINF, "eps": 0.3},
        eps_scale=1.0,
        eps_warmup=3.0,
        optimizer="adam",
        lr=0.005,
        weight_decay=5e-4,
        batch_size=64,
        schedule="constant",
        epochs=12,
        guard=False,
    )
    events = finish(collapse, tmp_path / "collapse")
    assert [e for e in events if isinstance(e, engine.Alarm)]
    for name in ("fgsm", "pgd,steps=3"):
        healthy = TrainSpec(adv=parse_adv(name), epochs=6)
        events = finish(healthy, tmp_path / name)
        assert not [e for e in events if isinstance(e, engine.Alarm)]
        assert events[-1].row["val_robust_accuracy"] > 0.6
