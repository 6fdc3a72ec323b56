"""What a training run leaves, and that it computes what it says."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from training_runs import (
    LINF,
    NOISY,
    blobs,
    finish,
    record,
    rows_of,
    same,
    scalars,
    weights,
)

import robust.training.engine as engine
from robust.core.rng import generator, seeded
from robust.data import DataSpec, open_data
from robust.models import build, load_model
from robust.training import TrainSpec, eps_at, lr_at, parse_adv, train

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
    reached = []
    plain = type(spec.defense()).step

    def step(self, model, seen, task):
        result = plain(self, model, seen, task)
        reached.append(float((result.x_adv - task.x).abs().max()))
        assert reached[-1] <= task.threat.eps + 1e-6
        return result

    monkeypatch.setattr(type(spec.defense()), "step", step)
    finish(spec, tmp_path / "run")
    assert [row["eps"] for row in rows_of(tmp_path / "run")] == pytest.approx([0.05, 0.1, 0.1, 0.1])
    expected = [min(0.1, 0.1 * (i + 1) / 12) for i in range(24)]  # 6 batches an epoch
    assert reached == pytest.approx(expected, rel=1e-4)


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
