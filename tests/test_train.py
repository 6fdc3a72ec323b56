"""The training engine: what it computes, what it keeps, what it refuses, and that it resumes."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import robust.training.engine as engine
from robust.core.errors import RobustError
from robust.core.rng import generator, seeded
from robust.data import DataSpec, open_data
from robust.models import build, load_model, save_checkpoint
from robust.training import TrainSpec, describe_attack, eps_at, lr_at, parse_adv, train
from robust.training import measure as measuring

LINF = {"norm": "linf", "eps": 0.1, "low": 0.0, "high": 1.0}
NOISY = """
from torch import nn
def net(shape, num_classes):
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3),
                         nn.Linear(16, num_classes))
def one_logit():
    return nn.Linear(6, 1)
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(path, n=90, classes=3, seed=0, skew=False):
    """Feature vectors (6,) in [0, 1] around a corner of each class's own."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    if skew:
        y = np.where(np.arange(n) % 5 == 0, y, 0)
    centres = np.random.default_rng(7).uniform(0.2, 0.8, (classes, 6))
    x = np.clip(centres[y] + rng.normal(0, 0.12, (n, 6)), 0, 1).astype(np.float32)
    np.savez(path, x=x, y=y)
    return str(path)


@pytest.fixture
def toy(tmp_path):
    """make(**changes) → a TrainSpec of a run of a fraction of a second."""
    source = blobs(tmp_path / "toy.npz")

    def make(**changes):
        spec = TrainSpec(
            data=DataSpec(source).to_dict(),
            arch="mlp",
            adv=parse_adv("pgd,steps=2"),
            val_attack=parse_adv("pgd,steps=2"),
            threat=LINF,
            epochs=4,
            batch_size=16,
            lr=0.05,
            weight_decay=5e-4,
            eps_scale=1.0,
        )
        return dataclasses.replace(spec, **changes)

    return make


def finish(spec, folder, **options):
    return list(train(spec, folder=folder, **options))


def rows_of(folder, timed=False):
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for row in rows:
        if not timed:
            del row["seconds"]
    return rows


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(a, b):
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def scalars(folder):
    """Tag → [(step, value)] over all event files, whatever a reader would hide."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


# -- what is there after a run


def test_a_run_leaves_what_it_promises(toy, tmp_path):
    run, out = tmp_path / "run", tmp_path / "m.pt"
    spec = toy()
    events = finish(spec, run, out=out, argv=["robust", "train"])
    started, done = events[0], events[-1]
    assert isinstance(started, engine.TrainStarted)
    assert (started.samples, started.validation, started.rows) == (81, 9, ())
    assert isinstance(done, engine.TrainDone)
    epochs = [e.row for e in events if isinstance(e, engine.EpochDone)]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert rows_of(run, timed=True) == epochs
    for row in epochs:
        assert np.array(row["confusion"]).sum() == np.array(row["robust_confusion"]).sum() == 9
        assert np.trace(row["confusion"]) / 9 == pytest.approx(row["val_accuracy"])
        assert np.trace(row["robust_confusion"]) / 9 == pytest.approx(row["val_robust_accuracy"])
        assert row["classification_report"]["accuracy"] == pytest.approx(row["val_accuracy"])
        assert row["val_robust_loss"] > row["val_loss"]

    kept = record(run)
    assert (kept["kind"], kept["status"], kept["schema_version"]) == ("train", "done", 1)
    assert kept["argv"] == ["robust", "train"]
    assert kept["model"]["parameters"] == 6 * 128 + 128 + 128 * 128 + 128 + 128 * 3 + 3
    assert kept["model"]["flops"] == 2 * (6 * 128 + 128 * 128 + 128 * 3)
    again = TrainSpec.from_dict(json.loads(json.dumps(kept["spec"])))
    assert again.hash == kept["spec_hash"] == started.spec.hash
    assert "parameters    " in (run / "architecture.txt").read_text()

    best = [e.row for e in events if isinstance(e, engine.EpochDone) and e.best][-1]
    assert done.row == best
    assert same(out, run / "best.pt")
    assert same(out, run / "model.pt") == (best["epoch"] == 4)
    board = scalars(run)
    assert board["loss/train"] == [(r["epoch"], pytest.approx(r["train_loss"])) for r in epochs]
    assert [v for _, v in board["accuracy/validation_robust"]] == pytest.approx(
        [r["val_robust_accuracy"] for r in epochs]
    )


def test_the_checkpoint_needs_nothing_else_and_says_the_same(toy, tmp_path):
    run, out = tmp_path / "run", tmp_path / "m.pt"
    spec = toy()
    row = finish(spec, run, out=out)[-1].row
    loaded = load_model(out)
    held_out = dataclasses.replace(DataSpec.from_dict(spec.data), split="held-out")
    assert loaded.info.data == held_out.to_dict()
    assert (loaded.info.threat, loaded.info.arch, loaded.info.shape) == (LINF, "mlp", (6,))
    source = open_data(held_out)
    batch = source.batch(source.ids)
    logits = loaded.module(batch.x)
    assert (logits.argmax(1) == batch.y).float().mean() == pytest.approx(row["val_accuracy"])
    assert float(cross_entropy(logits, batch.y)) == pytest.approx(row["val_loss"], rel=1e-5)
    # The normalisation is that of the training samples, none of them held out.
    train_source = open_data(dataclasses.replace(held_out, split="held-in"))
    x = train_source.batch(train_source.ids).x
    assert loaded.info.mean == pytest.approx(x.mean(0).tolist(), abs=1e-5)
    assert loaded.info.std == pytest.approx(x.std(0, correction=0).tolist(), abs=1e-5)


def test_the_seed_decides_the_weights(toy, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finish(toy(seed=seed, epochs=2), tmp_path / name)
    assert same(tmp_path / "a/model.pt", tmp_path / "b/model.pt")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert not same(tmp_path / "a/model.pt", tmp_path / "c/model.pt")


def test_the_callers_random_numbers_are_left_alone(toy, tmp_path):
    state = torch.get_rng_state()
    for _ in train(toy(epochs=1), folder=tmp_path / "run"):
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "expected"),
    [("digits", ("digits", "test")), ("digits:train", ("digits", "test"))],
)
def test_digits_are_attacked_on_their_test_split(toy, tmp_path, data, expected):
    spec = toy(data=DataSpec(data).to_dict(), adv=parse_adv("none"), epochs=1, batch_size=128)
    events = finish(spec, tmp_path / "run")
    assert events[0].samples + events[0].validation == len(open_data(DataSpec("digits", "train")))
    stored = load_model(tmp_path / "run/best.pt").info.data
    assert (stored["source"], stored["split"]) == expected


def test_separate_validation_and_test_data(toy, tmp_path):
    validation = DataSpec(blobs(tmp_path / "v.npz", n=30, seed=1)).to_dict()
    events = finish(toy(validation=validation, epochs=1), tmp_path / "a")
    assert (events[0].samples, events[0].validation) == (90, 30)
    assert load_model(tmp_path / "a/best.pt").info.data == validation
    test = DataSpec(blobs(tmp_path / "t.npz", n=30, seed=2)).to_dict()
    finish(toy(validation=validation, test=test, epochs=1), tmp_path / "b")
    assert load_model(tmp_path / "b/best.pt").info.data == test


def test_validation_can_be_limited(toy, tmp_path):
    events = finish(toy(val_limit=5, epochs=1), tmp_path / "run")
    assert events[0].validation == 5
    assert np.array(events[-1].row["confusion"]).sum() == 5


def test_a_stream_trains_like_a_tensor_in_memory(toy, tmp_path, monkeypatch):
    finish(toy(epochs=2), tmp_path / "held")
    init = engine.Samples.__init__
    monkeypatch.setattr(engine.Samples, "__init__", lambda self, *args: init(self, *args, memory=0))
    finish(toy(epochs=2), tmp_path / "streamed")
    assert same(tmp_path / "held/model.pt", tmp_path / "streamed/model.pt")


# -- what is computed


def by_hand(spec, folder, loss):
    """One epoch of SGD with momentum, as the papers have it, on what `spec` trains on: weights."""
    source = open_data(dataclasses.replace(DataSpec.from_dict(spec.data), split="held-in"))
    batch = source.batch(source.ids)
    with seeded(spec.seed, "init"):
        net = build(spec.arch, source.shape, 3)
    order = torch.randperm(len(batch.y), generator=generator(spec.seed, "order", 1))
    chunks = order.tensor_split(math.ceil(len(order) / spec.batch_size))
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    for step, rows in enumerate(chunks):
        gradients = torch.autograd.grad(
            loss(net(batch.x[rows]), batch.y[rows]), [*net.parameters()]
        )
        rate = lr_at(spec, step / len(chunks) / spec.epochs)
        with torch.no_grad():
            for p, v, g in zip(net.parameters(), velocity, gradients, strict=True):
                v.mul_(spec.momentum).add_(g + spec.weight_decay * p)
                p.sub_(rate * v)
    return net.state_dict()


@pytest.mark.parametrize("balanced", [False, True])
def test_natural_training_and_class_weights_by_hand(toy, tmp_path, balanced):
    data = DataSpec(blobs(tmp_path / "skew.npz", n=90, skew=True)).to_dict()
    spec = toy(
        data=data,
        adv=parse_adv("none"),
        epochs=1,
        normalise="none",
        class_weights="balanced" if balanced else "none",
    )
    finish(spec, tmp_path / "run")
    labels = open_data(dataclasses.replace(DataSpec.from_dict(data), split="held-in")).labels()
    counts = np.bincount(labels)
    assert counts.max() > 5 * counts.min()
    weight = torch.tensor([len(labels) / (3 * c) for c in counts]).float()

    def loss(logits, y):
        each = -logits.log_softmax(1)[torch.arange(len(y)), y]
        return (each * weight[y] if balanced else each).mean()

    expected = by_hand(spec, tmp_path / "run", loss)
    for name, value in weights(tmp_path / "run/model.pt").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_the_first_row_tells_what_was_trained_on(toy, tmp_path):
    """With a learning rate of nearly 0 an epoch is a measurement of the training data."""
    spec = toy(epochs=1, lr=1e-12, adv=parse_adv("none"), weight_decay=0.0)
    row = finish(spec, tmp_path / "natural")[-1].row
    model = load_model(tmp_path / "natural/model.pt").module
    source = open_data(dataclasses.replace(DataSpec.from_dict(spec.data), split="held-in"))
    batch = source.batch(source.ids)
    logits = model(batch.x)
    assert row["train_loss"] == pytest.approx(float(cross_entropy(logits, batch.y)), rel=1e-4)
    assert row["train_accuracy"] == pytest.approx(
        float((logits.argmax(1) == batch.y).float().mean())
    )
    half = finish(dataclasses.replace(spec, adv=parse_adv("pgd"), mix=0.5), tmp_path / "half")
    full = finish(dataclasses.replace(spec, adv=parse_adv("pgd")), tmp_path / "full")
    assert row["train_loss"] < half[-1].row["train_loss"] < full[-1].row["train_loss"]


def test_one_cycle_rates():
    spec = TrainSpec(lr=0.2, schedule="one-cycle")
    got = [lr_at(spec, p) for p in (0.0, 0.15, 0.3, 0.65, 1.0)]
    assert got == pytest.approx([0.008, 0.104, 0.2, 0.1, 0.0])


def test_one_cycle_comes_down_as_torchs_does():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, total_steps=1001, pct_start=0.3, final_div_factor=1e9
    )
    spec = TrainSpec(lr=0.2)
    for step in range(1000):
        if step >= 300:  # their way up is a cosine, too
            assert lr_at(spec, step / 1000) == pytest.approx(theirs.get_last_lr()[0], rel=0.02)
        optimizer.step()
        theirs.step()


def test_piecewise_and_constant_rates():
    spec = TrainSpec(lr=0.1, schedule="piecewise")
    got = [lr_at(spec, p) for p in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)]
    assert got == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert {lr_at(TrainSpec(lr=0.1, schedule="constant"), p) for p in (0.0, 0.5, 1.0)} == {0.1}


def test_eps_warms_up_linearly(toy, tmp_path, monkeypatch):
    spec = toy(eps_warmup=2.0)
    assert [eps_at(spec, e) for e in (0.0, 0.5, 1.0, 2.0, 4.0)] == pytest.approx(
        [0.0, 0.025, 0.05, 0.1, 0.1]
    )
    assert eps_at(toy(), 0.0) == 0.1
    assert eps_at(toy(eps_scale=1.5), 0.0) == pytest.approx(0.15)
    seen = []
    plain = type(spec.defense()).step

    def step(self, model, x, y, threat, rng, *, loss):
        result = plain(self, model, x, y, threat, rng, loss=loss)
        seen.append(float((result.x_adv - x).abs().max()))
        assert seen[-1] <= threat.eps + 1e-6
        return result

    monkeypatch.setattr(type(spec.defense()), "step", step)
    finish(spec, tmp_path / "run")
    assert [row["eps"] for row in rows_of(tmp_path / "run")] == pytest.approx([0.05, 0.1, 0.1, 0.1])
    expected = [min(0.1, 0.1 * (i + 1) / 12) for i in range(24)]  # 6 batches an epoch
    assert seen == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("inner", ["pgd,steps=2", "apgd,steps=3"])
def test_mixed_precision_trains_the_weights(toy, tmp_path, precision, inner):
    spec = toy(adv=parse_adv(inner), lr=0.02)
    finish(spec, tmp_path / "fp32")
    finish(dataclasses.replace(spec, precision=precision), tmp_path / "mixed")
    assert not same(tmp_path / "fp32/model.pt", tmp_path / "mixed/model.pt")
    # In every layer the training steps have arrived, and are about the same ones.
    with seeded(0, "init"):
        start = build("mlp", (6,), 3).state_dict()
    plain, mixed = weights(tmp_path / "fp32/model.pt"), weights(tmp_path / "mixed/model.pt")
    for name, value in start.items():
        way, other = plain[name] - value, mixed[name] - value
        assert float((way * other).sum() / (way.norm() * other.norm())) > 0.9


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_learn(toy, tmp_path, optimizer):
    spec = toy(optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 0.005, epochs=5)
    rows = [e.row for e in finish(spec, tmp_path / "run") if isinstance(e, engine.EpochDone)]
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]


def test_new_networks_start_from_he_initialisation(toy, tmp_path):
    finish(toy(epochs=1, lr=1e-12, weight_decay=0.0), tmp_path / "run")
    with seeded(0, "init"):
        expected = build("mlp", (6,), 3).state_dict()
    for name, value in weights(tmp_path / "run/model.pt").items():
        torch.testing.assert_close(value, expected[name])


def test_two_classes_with_one_logit(toy, tmp_path):
    (tmp_path / "nets.py").write_text(NOISY)
    data = DataSpec(blobs(tmp_path / "two.npz", n=60, classes=2)).to_dict()
    spec = toy(data=data, arch=f"{tmp_path / 'nets.py'}:one_logit", epochs=20, lr=0.5)
    row = finish(spec, tmp_path / "run")[-1].row
    assert row["val_accuracy"] > 0.9
    assert load_model(tmp_path / "run/best.pt").info.num_classes == 2


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


def scripted(monkeypatch, robust, loss=None, clean=None, fgsm=None):
    """Let the validation figures be these, epoch after epoch."""
    plain, calls = measuring.measure, []

    def measure(*args, **kwargs):
        row, i = plain(*args, **kwargs), len(calls)
        calls.append(i)
        row["val_robust_accuracy"] = robust[i]
        row["val_fgsm_accuracy"] = fgsm[i] if fgsm else robust[i]
        row["val_robust_loss"] = loss[i] if loss else 1.0
        row["val_accuracy"] = clean[i] if clean else 0.9
        return row

    monkeypatch.setattr(engine, "measure", measure)


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
    events = finish(toy(epochs=7), tmp_path / "run")
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
    )
    events = finish(collapse, tmp_path / "collapse")
    assert [e for e in events if isinstance(e, engine.Alarm)]
    for name in ("fgsm", "pgd,steps=3"):
        healthy = TrainSpec(adv=parse_adv(name), epochs=6)
        events = finish(healthy, tmp_path / name)
        assert not [e for e in events if isinstance(e, engine.Alarm)]
        assert events[-1].row["val_robust_accuracy"] > 0.6


# -- interrupted, killed, resumed


def stop_after(run, epochs):
    """Close the iterator after so many epochs, as Ctrl-C would."""
    for event in run:
        if isinstance(event, engine.EpochDone) and event.row["epoch"] == epochs:
            run.close()
            return


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
    monkeypatch.setattr(engine, "_REFRESH", 0.0)
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


# -- bad input


def refused(spec, folder, match, **options):
    with pytest.raises(RobustError, match=match) as caught:
        finish(spec, folder, **options)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lr": 0.0}, "--lr must be a number above 0"),
        ({"lr": float("nan")}, "--lr must be a number above 0"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"patience": -1}, "--patience must be at least 0"),
        ({"batch_size": 82}, "--batch-size 82 is more than the 81 training samples"),
        ({"eps_warmup": 5.0}, "--eps-warmup is 5 epochs, but the run has 4"),
        ({"momentum": 1.0}, "--momentum"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"eps_scale": 0.0}, "--eps-scale must be a number above 0"),
        ({"optimizer": "lbfgs"}, "--optimizer is one of sgd, adam, adamw"),
        ({"schedule": "cosine"}, "--schedule is one of"),
        ({"precision": "fp8"}, "--precision is one of"),
        ({"class_weights": "some"}, "--class-weights is one of"),
        ({"normalise": "imagenet"}, "--normalise is auto, none or"),
        ({"normalise": {"mean": [0.5], "std": [0.0]}}, "std > 0"),
        ({"mix": 1.5}, "mix is a share"),
        ({"freeze": ["1.*"]}, "--freeze without --init"),
        ({"adv": {"name": "pdg", "params": {}}}, "did you mean 'pgd'"),
        ({"adv": {"name": "pgd", "params": {"stepz": 3}}}, "did you mean 'steps'"),
        ({"threat": {**LINF, "high": 255.0}}, r"the data lie in \[0, 1\]"),
        ({"threat": {**LINF, "eps": -1}}, "eps must be"),
        ({"arch": "small-cnn"}, "small-cnn takes images"),
        ({"arch": "nothing"}, "no architecture 'nothing'"),
        ({"device": "cuda:99"}, "the device 'cuda:99' is not available"),
        ({"init": "nowhere.pt"}, "nowhere.pt"),
        ({"data": {"source": "nowhere.npz"}}, "no file nowhere.npz"),
        ({"data": {"source": "digits", "split": "held-in"}}, "chosen by the run"),
        ({"fingerprints": {"data": "0"}}, "content of data is not"),
    ],
)
def test_what_cannot_be_meant_is_refused(toy, tmp_path, changes, match):
    refused(toy(**changes), tmp_path / "run", match)


def test_data_that_cannot_be_trained_on_are_refused(toy, tmp_path):
    run = tmp_path / "run"
    one = DataSpec(blobs(tmp_path / "one.npz", classes=1)).to_dict()
    refused(toy(data=one), run, "all 81 training samples are of class 0")
    five = DataSpec(blobs(tmp_path / "five.npz", classes=5)).to_dict()
    refused(toy(validation=five), run, "labels go from 0 to 4, but the training data have 3")
    refused(toy(validation=DataSpec("digits").to_dict()), run, "do not fit training samples")


def test_networks_that_do_not_fit_are_refused(toy, tmp_path):
    run, out = tmp_path / "run", tmp_path / "m.pt"
    finish(toy(epochs=1), tmp_path / "first", out=out)
    refused(toy(init=str(out), freeze=["9.*"]), run, r"--freeze '9\.\*' matches no parameter")
    refused(toy(init=str(out), freeze=["*"]), run, "--freeze leaves no parameter to train")
    other = build("mlp", (7,), 3)
    save_checkpoint(tmp_path / "o.pt", other, arch="mlp", shape=(7,), num_classes=3)
    refused(toy(init=str(tmp_path / "o.pt")), run, r"its 1\.weight has shape \(128, 7\)")
    torch.save(nn.Linear(6, 3).state_dict(), tmp_path / "linear.pt")
    refused(toy(init=str(tmp_path / "linear.pt")), run, "does not fit mlp")
    (tmp_path / "nets.py").write_text(NOISY)
    refused(toy(arch=f"{tmp_path / 'nets.py'}:one_logit"), run, "the network has 2 classes")


def test_folders_and_files_that_are_in_use_are_refused(toy, tmp_path):
    run, spec = tmp_path / "run", toy(epochs=1)
    refused(spec, run, "cannot be written", out=tmp_path / "no" / "m.pt")
    refused(spec, run, "cannot be written", out=tmp_path)
    finish(spec, run)
    stop_after(train(toy(), folder=tmp_path / "part"), 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("…")
    for folder, options, match in (
        (run, {}, "holds a finished run"),
        (tmp_path / "part", {}, "holds an unfinished run"),
        (tmp_path / "mine", {}, "is no run folder"),
        (run, {"resume": True, "spec": toy(epochs=1, lr=0.01)}, "lr differ"),
        (run, {"resume": True, "spec": toy(epochs=1, seed=1)}, "seed, fingerprints differ"),
    ):
        before = sorted(folder.rglob("*"))
        with pytest.raises(RobustError, match=match):
            finish(options.pop("spec", spec), folder, **options)
        assert sorted(folder.rglob("*")) == before
    (run / "state.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(RobustError, match="is damaged"):
        finish(spec, run, resume=True)


def test_changed_data_cannot_be_resumed(toy, tmp_path):
    spec = toy()
    stop_after(train(spec, folder=tmp_path / "run"), 1)
    blobs(Path(spec.data["source"]), seed=5)
    with pytest.raises(RobustError, match="fingerprints differ"):
        finish(spec, tmp_path / "run", resume=True)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_epoch(
    toy, tmp_path, monkeypatch
):
    defense, calls = type(toy().defense()), []
    plain = defense.step

    def step(self, *args, **kwargs):
        calls.append(1)
        result = plain(self, *args, **kwargs)
        return dataclasses.replace(result, loss=result.loss * (math.nan if len(calls) == 8 else 1))

    monkeypatch.setattr(defense, "step", step)
    monkeypatch.setattr(engine, "_CHUNK", 2)
    with pytest.raises(
        RobustError, match="no longer a finite number in epoch 2: .* --lr"
    ) as caught:
        finish(toy(), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert len(calls) == 8  # it does not go on to the end of the epoch
    assert record(tmp_path / "run")["status"] == "failed"
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [1]
    values = weights(tmp_path / "run/model.pt").values()
    assert all(bool(v.isfinite().all()) for v in values)


def test_a_learning_rate_that_explodes_is_reported(toy, tmp_path):
    with pytest.raises(RobustError, match="no longer a finite number in epoch"):
        finish(toy(lr=1e12, schedule="constant"), tmp_path / "run")


def test_adv_names():
    assert parse_adv("none") == {"name": "none", "params": {}}
    pgd = parse_adv("pgd")
    assert (pgd["name"], pgd["params"]["steps"], pgd["params"]["random_start"]) == ("pgd", 7, True)
    assert parse_adv("pgd,steps=3,loss=dlr")["params"]["steps"] == 3
    assert parse_adv("fgsm")["params"]["random_start"] is True
    assert parse_adv("fgsm,random-start=false")["params"]["random_start"] is False
    assert parse_adv("apgd,restarts=2")["params"]["restarts"] == 2
    for text in ("none", "pgd,step-size=0.01", "apgd,restarts=2,rho=0.5"):
        spec = TrainSpec(adv=parse_adv(text))
        attack = spec.defense().params["attack"]
        if text != "none":
            assert describe_attack(attack) == spec.adv
    with pytest.raises(RobustError, match="--adv none has no parameters"):
        parse_adv("none,steps=3")


def test_records_of_other_versions_are_refused():
    assert TrainSpec.from_dict(TrainSpec(lr=0.3).to_dict()) == TrainSpec(lr=0.3)
    with pytest.raises(RobustError, match="unknown fields .*: sharpness"):
        TrainSpec.from_dict({**TrainSpec().to_dict(), "sharpness": 1})
