"""Networks that are trained with defenses around them."""

import dataclasses
import math

import pytest
import torch
from click.testing import CliRunner
from training_runs import finish, record, rows_of, same, stop_after, weights

from robust.cli import main
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.data import DataSpec, open_data
from robust.models import load_model
from robust.training import TrainSpec, parse_adv, train

BITS = {"name": "bit-depth", "params": {"bits": 2}}
SATURATION = {"name": "saturation", "params": {"scale": 8.0}}

LEARNING = """
import dataclasses
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from robust.core.defense import Defense, InputDefense

@dataclass(frozen=True, kw_only=True)
class Gain(InputDefense):
    gradient: ClassVar[str] = "own"
    def parts(self, model, frame):
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    def transform(self, x, frame, parts=None):
        return x + parts(x)

@dataclass(frozen=True, kw_only=True)
class Before(Gain):
    freezes: ClassVar[bool] = True
    def against(self, attack):
        return self

@dataclass(frozen=True, kw_only=True)
class Own(Defense):
    def step(self, model, seen, task):
        return super().step(model, seen, task)
"""


@pytest.fixture
def own(tmp_path):
    """name → the record of a defense in a file."""
    (tmp_path / "own.py").write_text(LEARNING)
    return lambda name: {"name": f"{tmp_path / 'own.py'}:{name}", "params": {}}


def parts(path):
    return torch.load(path, weights_only=True)["parts"]


def test_the_checkpoint_has_the_defenses_inside(toy, tmp_path):
    spec = toy(defenses=[BITS, SATURATION])
    row = finish(spec, tmp_path / "run", out=tmp_path / "m.pt")[-1].row
    loaded = load_model(tmp_path / "m.pt")
    assert list(loaded.info.defenses) == [BITS, SATURATION]
    assert isinstance(loaded.module, Defended)
    source = open_data(dataclasses.replace(DataSpec.from_dict(spec.data), split="held-out"))
    batch = source.batch(source.ids)
    logits = loaded.module(batch.x)
    assert (logits.argmax(1) == batch.y).float().mean() == pytest.approx(row["val_accuracy"])
    torch.testing.assert_close(logits, 8 * loaded.module.exposed(batch.x))


def test_inner_attacks_see_what_is_exposed_and_the_loss_what_is_deployed(
    toy, tmp_path, monkeypatch
):
    spec = toy(defenses=[SATURATION], epochs=1)
    trainer = type(spec.defense())
    plain, ratios = trainer.step, []

    def step(self, model, seen, task):
        ratios.append((model(task.x) / seen(task.x)).detach().mean().item())
        return plain(self, model, seen, task)

    monkeypatch.setattr(trainer, "step", step)
    finish(spec, tmp_path / "run")
    assert ratios == pytest.approx([8.0] * len(ratios))


def test_validation_sees_through_the_defenses(toy, tmp_path):
    """FGSM without a gradient would stay at the samples."""
    masked = toy(defenses=[{"name": "bit-depth", "params": {"bits": 1}}], epochs=6)
    masked = dataclasses.replace(
        masked, adv=parse_adv("none"), threat={**masked.threat, "eps": 0.4}
    )
    row = finish(masked, tmp_path / "run")[-1].row
    assert row["val_fgsm_accuracy"] < row["val_accuracy"] - 0.1


def test_what_a_defense_learns_is_trained_kept_and_resumed(toy, tmp_path, own):
    gain = own("Gain")
    spec = toy(defenses=[gain], optimizer="adam", lr=0.01)
    finish(spec, tmp_path / "whole", out=tmp_path / "m.pt")
    run = tmp_path / "parts"
    stop_after(train(spec, folder=run), 1)
    first = parts(run / "model.pt")
    stop_after(train(spec, folder=run, resume=True), 3)
    finish(spec, run, resume=True)
    whole, resumed = parts(tmp_path / "whole/model.pt"), parts(run / "model.pt")
    assert whole.keys() == {f"0.{k}" for k in ("0.weight", "0.bias")} | {
        f"0.1.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert same(tmp_path / "whole/model.pt", run / "model.pt")
    assert rows_of(tmp_path / "whole") == rows_of(run)
    assert all(not torch.equal(whole[k], first[k]) for k in whole)
    assert record(run)["model"]["parameters"] == 6 * 6 + 6 + 6 + 6 + 6 * 128 + 128 + (
        128 * 128 + 128 + 128 * 3 + 3
    )
    loaded = load_model(tmp_path / "m.pt", defenses=[gain["name"]])
    best = parts(tmp_path / "whole/best.pt")
    for name, value in loaded.module.parts.state_dict().items():
        assert torch.equal(value, best[name])


def test_a_frozen_network_keeps_its_weights_and_the_parts_learn(toy, tmp_path, own):
    with pytest.raises(RobustError, match="keeps its weights: give it by --init"):
        finish(toy(defenses=[own("Before")]), tmp_path / "no")
    finish(toy(epochs=2), tmp_path / "first", out=tmp_path / "m.pt")
    spec = toy(defenses=[own("Before")], init=str(tmp_path / "m.pt"), seed=3)
    finish(spec, tmp_path / "run")
    assert same(tmp_path / "m.pt", tmp_path / "run/model.pt")
    stop_after(train(spec, folder=tmp_path / "short"), 1)
    before, after = parts(tmp_path / "short/model.pt"), parts(tmp_path / "run/model.pt")
    assert not torch.equal(before["0.0.weight"], after["0.0.weight"])


def test_training_goes_on_with_what_the_same_defenses_have_learned(toy, tmp_path, own):
    gain = own("Gain")
    finish(toy(defenses=[gain], epochs=1), tmp_path / "first", out=tmp_path / "m.pt")
    again = toy(epochs=1, lr=1e-12, weight_decay=0.0, init=str(tmp_path / "m.pt"))
    finish(dataclasses.replace(again, defenses=[gain]), tmp_path / "second")
    for name, value in weights(tmp_path / "second/model.pt").items():
        torch.testing.assert_close(value, weights(tmp_path / "m.pt")[name])
    for name in ("0.0.weight", "0.0.bias"):
        expected = parts(tmp_path / "m.pt")[name]
        torch.testing.assert_close(parts(tmp_path / "second/model.pt")[name], expected)


@pytest.mark.parametrize(
    ("names", "changes", "match"),
    [
        (["Own", "Own"], {"adv": {"name": "none", "params": {}}}, "each train in a way of their"),
        (["Own"], {}, "trains in its own way, without an inner attack"),
        (["Own"], {"mix": 0.5}, "--mix is of adversarial training"),
    ],
)
def test_only_one_trains(toy, tmp_path, own, names, changes, match):
    spec = toy(defenses=[own(name) for name in names], **changes)
    with pytest.raises(RobustError, match=match) as caught:
        finish(spec, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_that_only_trains_leaves_nothing_around(toy, tmp_path, own):
    spec = toy(defenses=[own("Own")], adv=parse_adv("none"))
    finish(spec, tmp_path / "run")
    assert load_model(tmp_path / "run/model.pt").info.defenses == ()
    finish(toy(adv=parse_adv("none")), tmp_path / "plain")
    assert same(tmp_path / "run/model.pt", tmp_path / "plain/model.pt")


def test_an_order_that_makes_no_sense_is_refused(toy, tmp_path):
    with pytest.raises(RobustError, match="in the order in which a sample meets them"):
        finish(toy(defenses=[SATURATION, BITS]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_specs_without_defenses_have_the_hash_that_they_had():
    spec = TrainSpec()
    assert "defenses" not in spec.identity()
    old = {k: v for k, v in spec.to_dict().items() if k != "defenses"}
    assert TrainSpec.from_dict(old).hash == spec.hash
    assert TrainSpec(defenses=[BITS]).hash != spec.hash


def test_a_state_from_before_defenses_is_resumed(toy, tmp_path):
    finish(toy(), tmp_path / "whole")
    run = tmp_path / "run"
    stop_after(train(toy(), folder=run), 2)
    state = torch.load(run / "state.pt", weights_only=True)
    for key in ("weights", "best_weights"):
        values = state.pop(key)
        state[key.replace("weights", "net")] = {
            k.removeprefix("net."): v for k, v in values.items()
        }
    torch.save(state, run / "state.pt")
    finish(toy(), run, resume=True)
    assert same(tmp_path / "whole/model.pt", run / "model.pt")


def test_without_adv_a_defense_is_trained_naturally(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--epochs", "1", "--batch-size", "256", "--quiet", "--val-limit", "20"]
    for given, adv in (
        (["--defense", "bit-depth,bits=2"], "none"),
        (["--defense", "bit-depth,bits=2", "--adv", "fgsm"], "fgsm"),
        ([], "pgd"),
    ):
        folder = tmp_path / adv
        result = CliRunner().invoke(main, [*words, *given, "--run", str(folder)])
        assert result.exit_code == 0, result.output
        spec = record(folder)["spec"]
        assert spec["adv"]["name"] == adv
        assert spec["defenses"] == ([BITS] if given else [])
    assert math.isfinite(rows_of(tmp_path / "none")[0]["train_loss"])
