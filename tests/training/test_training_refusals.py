"""What cannot be trained with is refused in one line."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import (
    LINF,
    NOISY,
    blobs,
    finish,
    record,
    rows_of,
    stop_after,
    weights,
)

import robust.training.engine as engine
from robust.core.errors import RobustError
from robust.data import DataSpec
from robust.models import build, save_checkpoint
from robust.training import TrainSpec, describe_attack, parse_adv, train

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
