"""Averages of the weights take the place of the weights in all that is measured and kept."""

import dataclasses

import pytest
import torch
from torch import nn
from training_runs import NOISY, finish, rows_of, same, stop_after, weights

from robust.core.errors import RobustError
from robust.core.rng import seeded
from robust.data import DataSpec, open_data
from robust.models import build, load_model
from robust.training import learner as learning
from robust.training import parse_adv, train


def followed(monkeypatch, at):
    """The weights of the net after each of the calls of Learner's method `at`."""
    seen = []
    plain = getattr(learning.Learner, at)

    def call(self, *args, **kwargs):
        result = plain(self, *args, **kwargs)
        seen.append({k: v.clone() for k, v in self.network.net.state_dict().items()})
        return result

    monkeypatch.setattr(learning.Learner, at, call)
    return seen


def test_ema_by_hand(toy, tmp_path, monkeypatch):
    seen = followed(monkeypatch, "step")
    finish(toy(ema=0.9, epochs=4), tmp_path / "run")
    mean = seen[0]
    for number, now in enumerate(seen[1:], start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        mean = {k: decay * mean[k] + (1 - decay) * v for k, v in now.items()}
    assert len(seen) == 24
    for name, value in weights(tmp_path / "run/model.pt").items():
        torch.testing.assert_close(value, mean[name])
        assert not torch.equal(value, seen[-1][name])


def test_what_is_measured_is_the_average(toy, tmp_path):
    spec = toy(ema=0.99, adv=parse_adv("none"), lr=0.3)
    row = finish(spec, tmp_path / "run")[-2].row
    source = open_data(dataclasses.replace(DataSpec.from_dict(spec.data), split="held-out"))
    batch = source.batch(source.ids)
    logits = load_model(tmp_path / "run/model.pt").module(batch.x)
    loss = nn.functional.cross_entropy(logits, batch.y)
    assert row["val_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_an_average_does_not_change_what_is_trained(toy, tmp_path, monkeypatch):
    seen = followed(monkeypatch, "step")
    finish(toy(), tmp_path / "plain")
    plain = list(seen)
    seen.clear()
    finish(toy(ema=0.9), tmp_path / "ema")
    assert all(torch.equal(a[k], b[k]) for a, b in zip(plain, seen, strict=True) for k in a)


def test_swa_is_the_mean_of_the_ends_of_the_last_epochs(toy, tmp_path, monkeypatch):
    seen = followed(monkeypatch, "step")
    finish(toy(swa=2), tmp_path / "run")
    ends = [seen[17], seen[23]]  # 6 batches an epoch
    for name, value in weights(tmp_path / "run/model.pt").items():
        torch.testing.assert_close(value, (ends[0][name] + ends[1][name]) / 2)


def test_swa_measures_the_statistics_of_batchnorm_anew(toy, tmp_path):
    (tmp_path / "nets.py").write_text(NOISY.replace("nn.Dropout(0.3)", "nn.Identity()"))
    arch = f"{tmp_path / 'nets.py'}:net"
    spec = toy(arch=arch, swa=3, adv=parse_adv("none"), normalise="none")
    finish(spec, tmp_path / "run")
    values = weights(tmp_path / "run/model.pt")
    source = open_data(dataclasses.replace(DataSpec.from_dict(spec.data), split="held-in"))
    x = source.batch(source.ids).x
    into = x @ values["0.weight"].T + values["0.bias"]
    # Of 6 batches of 13 or 14 samples, whose variances are those within them.
    torch.testing.assert_close(values["1.running_mean"], into.mean(0), rtol=0.01, atol=0.01)
    torch.testing.assert_close(values["1.running_var"], into.var(0), rtol=0.25, atol=0.01)


def test_swa_leaves_frozen_statistics_alone(toy, tmp_path):
    (tmp_path / "nets.py").write_text(NOISY)
    arch = f"{tmp_path / 'nets.py'}:net"
    with seeded(0):
        net = build(arch, (6,), 3)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    spec = toy(arch=arch, init=str(tmp_path / "net.pt"), freeze=["1.*"], epochs=2, swa=2)
    finish(spec, tmp_path / "run")
    after = weights(tmp_path / "run/model.pt")
    for name in ("1.running_mean", "1.running_var"):
        assert torch.equal(after[name], net.state_dict()[name])


@pytest.mark.parametrize("changes", [{"ema": 0.8}, {"swa": 3}])
def test_averages_are_resumed(toy, tmp_path, changes):
    (tmp_path / "nets.py").write_text(NOISY)
    spec = toy(arch=f"{tmp_path / 'nets.py'}:net", **changes)
    finish(spec, tmp_path / "whole")
    for epochs in (1, 3):
        stop_after(train(spec, folder=tmp_path / "run", resume=True), epochs)
    finish(spec, tmp_path / "run", resume=True)
    for name in ("model.pt", "best.pt"):
        assert same(tmp_path / "whole" / name, tmp_path / "run" / name)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ema": 1.0}, "--ema is a number from 0 up to 1"),
        ({"swa": -1}, "--swa must be at least 0"),
        ({"swa": 5}, "--swa 5 is more than the 4 epochs"),
        ({"ema": 0.9, "swa": 2}, "give one"),
    ],
)
def test_averages_that_cannot_be_meant_are_refused(toy, tmp_path, changes, match):
    with pytest.raises(RobustError, match=match):
        finish(toy(**changes), tmp_path / "run")
