"""What comes into a batch: a second source, random changes of images, mixed samples, recipes."""

import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import cross_entropy, pad
from training_runs import NOISY, blobs, finish, record, rows_of, same, stop_after

from robust.cli import main
from robust.core.defense import Frame
from robust.core.errors import RobustError
from robust.data import DataSpec, open_data
from robust.training import RECIPES, TrainSpec, parse_adv, train, with_recipe
from robust.training.augment import Augment, Mixed, parse_augment
from robust.training.data import Samples
from robust.training.feed import Feed

CPU = torch.device("cpu")


def samples(path):
    source = open_data(DataSpec(path))
    return Samples(source, torch.arange(len(source)), CPU)


def numbered(path, n, start=0):
    """Feature vectors that say which sample they are."""
    x = np.zeros((n, 6), dtype=np.float32)
    x[:, 0] = (start + np.arange(n)) / 1000
    np.savez(path, x=x, y=np.arange(n) % 3)
    return samples(str(path))


# -- a second source


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.7])
def test_each_batch_has_its_share_of_the_second_source(tmp_path, fraction):
    own = numbered(tmp_path / "own.npz", 80)
    extra = numbered(tmp_path / "extra.npz", 30, start=500)
    spec = TrainSpec(batch_size=20, extra_fraction=fraction)
    feed = Feed(spec, own, extra)
    batches = [x[:, 0].mul(1000).round().int().tolist() for x, _ in feed.epoch(1)]
    assert len(batches) == feed.steps
    assert sum(map(len, batches)) == feed.count
    for batch in batches:
        assert 16 <= len(batch) <= 20
        extras = sum(number >= 500 for number in batch)
        assert extras == pytest.approx(len(batch) * fraction, abs=0.51)
    flat = [number for batch in batches for number in batch]
    assert sorted(number for number in flat if number < 500) == list(range(80))
    # Passes over the second source: no sample comes again before all others have come.
    counts = np.bincount([number - 500 for number in flat if number >= 500], minlength=30)
    assert counts.max() - counts.min() <= 1
    # Neither source stands before the other in a batch.
    assert any(batch[0] >= 500 for batch in batches)
    assert any(batch[0] < 500 for batch in batches)


def test_an_epoch_goes_on_from_any_batch(tmp_path):
    own = numbered(tmp_path / "own.npz", 80)
    extra = numbered(tmp_path / "extra.npz", 30, start=500)
    feed = Feed(TrainSpec(batch_size=20), own, extra)
    whole, rest = list(feed.epoch(2)), list(feed.epoch(2, start=3))
    assert len(rest) == len(whole) - 3
    for (x, y), (x_rest, y_rest) in zip(whole[3:], rest, strict=True):
        assert torch.equal(x, x_rest)
        assert torch.equal(y, y_rest)
    assert not torch.equal(whole[0][0], next(feed.epoch(3))[0])


def test_the_second_source_is_trained_on_and_its_content_is_the_runs(toy, tmp_path):
    extra = DataSpec(blobs(tmp_path / "extra.npz", n=45, seed=4)).to_dict()
    spec = toy(extra=extra, extra_fraction=0.3)
    finish(spec, tmp_path / "whole")
    finish(toy(), tmp_path / "plain")
    assert not same(tmp_path / "whole/model.pt", tmp_path / "plain/model.pt")
    assert "extra" in record(tmp_path / "whole")["spec"]["fingerprints"]
    stop_after(train(spec, folder=tmp_path / "run"), 2)
    finish(spec, tmp_path / "run", resume=True)
    assert same(tmp_path / "whole/model.pt", tmp_path / "run/model.pt")


def test_a_second_source_that_does_not_fit_is_refused(toy, tmp_path):
    five = DataSpec(blobs(tmp_path / "five.npz", n=60, classes=5)).to_dict()
    with pytest.raises(RobustError, match="extra labels go from 0 to 4"):
        finish(toy(extra=five), tmp_path / "run")
    with pytest.raises(RobustError, match="extra samples of shape"):
        finish(toy(extra=DataSpec("digits").to_dict()), tmp_path / "run")
    with pytest.raises(RobustError, match="--extra-fraction is a number between 0 and 1"):
        finish(toy(extra=five, extra_fraction=1.0), tmp_path / "run")


# -- random changes


def changed(text, x, low=0.0, high=1.0):
    augment = Augment(parse_augment([text]), Frame(tuple(x.shape[1:]), 3, low, high))
    augment.check()
    torch.manual_seed(0)
    return augment(x, torch.zeros(len(x), dtype=torch.long), cross_entropy)[0]


def test_crop_shifts_images_and_fills_with_the_lowest_value():
    x = torch.rand(40, 3, 8, 10)
    moved, wide = changed("crop:2", x), pad(x, (2, 2, 2, 2))
    shifts = {
        next(
            (i, j)
            for i in range(5)
            for j in range(5)
            if torch.equal(wide[n, :, i : i + 8, j : j + 10], moved[n])
        )
        for n in range(40)
    }
    assert len(shifts) > 15
    signed = changed("crop:2", 2 * x - 1, low=-1.0)
    assert torch.allclose(signed, 2 * moved - 1)


def test_flip_mirrors_some():
    x = torch.rand(60, 1, 6, 6)
    turned = changed("flip", x)
    mirrored = sum(torch.equal(turned[n], x[n].flip(2)) for n in range(60))
    kept = sum(torch.equal(turned[n], x[n]) for n in range(60))
    assert mirrored + kept == 60
    assert 15 < mirrored < 45


def test_cutout_takes_out_a_square():
    x = torch.rand(30, 2, 12, 12) * 0.3
    differs = (changed("cutout:4", x) == 0.5).all(1)
    counts = differs.flatten(1).sum(1)
    assert (counts <= 16).all()
    assert counts.float().mean() > 12  # squares may lie across an edge
    rows, columns = differs.any(2).sum(1), differs.any(1).sum(1)
    assert torch.equal(rows * columns, counts)


def test_cutout_erases_with_the_middle_of_the_range():
    x = torch.rand(10, 1, 12, 12) * 3
    for low, high in ((0.0, 255.0), (-3.0, 1.0)):
        erased = changed("cutout:4", low + x * (high - low) / 10, low, high)
        assert ((erased - (low + high) / 2).abs() < 1e-4).flatten(1).sum(1).float().mean() > 12


def test_mixup_mixes_samples_and_their_losses_by_the_same_share():
    x, y = torch.eye(8), torch.arange(8)
    augment = Augment(parse_augment(["mixup:1"]), Frame((8,), 8))
    torch.manual_seed(0)
    mixed, labels, criterion = augment(x, y, lambda z, y: cross_entropy(z, y, reduction="none"))
    assert torch.equal(labels, y)
    share = mixed[torch.arange(8), y]
    assert (share >= 0.5).all()
    logits = torch.randn(8, 8)
    # The sample is the distribution of its labels, so the loss is the cross-entropy of both.
    expected = -(mixed * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(criterion(logits, y), expected)
    twice = criterion(logits.repeat(2, 1), y.repeat(2))
    torch.testing.assert_close(twice, expected.repeat(2))
    assert isinstance(criterion, Mixed)


def test_changes_are_the_seeds_and_are_resumed(tmp_path):
    spec = TrainSpec(
        augment=["crop", "flip", "cutout", "mixup"], adv=parse_adv("none"), epochs=2, val_limit=20
    )
    finish(spec, tmp_path / "whole")
    finish(dataclasses.replace(spec, augment=[]), tmp_path / "plain")
    assert not same(tmp_path / "whole/model.pt", tmp_path / "plain/model.pt")
    stop_after(train(spec, folder=tmp_path / "run"), 1)
    torch.manual_seed(5)
    finish(spec, tmp_path / "run", resume=True)
    assert same(tmp_path / "whole/model.pt", tmp_path / "run/model.pt")


@pytest.mark.parametrize(
    ("augment", "match"),
    [
        (["shear"], "'shear' is none of crop, flip, cutout, mixup"),
        (["mixup", "mixup:1"], "is given twice"),
        (["crop:x"], "wants a number after the colon"),
        (["crop:0"], "wants a number after the colon"),
        (["flip:2"], "flip has no number"),
        (["crop"], r"for images \(C, H, W\), not for samples of shape \(6,\)"),
    ],
)
def test_changes_that_cannot_be_meant_are_refused(toy, tmp_path, augment, match):
    with pytest.raises(RobustError, match=match) as caught:
        finish(toy(augment=augment), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_mixup_is_for_all_samples(toy, tmp_path):
    finish(toy(augment=["mixup:0.5"], adv=parse_adv("trades,steps=2"), epochs=1), tmp_path / "run")
    assert rows_of(tmp_path / "run")[0]["train_loss"] > 0


# -- the loss and its gradient


def test_smoothed_labels_by_hand(toy, tmp_path):
    """With a learning rate of nearly 0 an epoch measures the loss."""
    spec = toy(epochs=1, lr=1e-12, weight_decay=0.0, adv=parse_adv("none"))
    plain = finish(spec, tmp_path / "plain")[-1].row
    smooth = finish(dataclasses.replace(spec, label_smoothing=0.3), tmp_path / "smooth")[-1].row
    assert smooth["val_loss"] == plain["val_loss"]
    assert smooth["train_loss"] != plain["train_loss"]
    assert abs(smooth["train_loss"] - plain["train_loss"]) < 1


def test_gradients_are_clipped(toy, tmp_path, monkeypatch):
    from robust.training import learner as learning

    norms = []
    plain = learning.clip_grad_norm_

    def clip(parameters, most):
        before = plain(parameters, most)
        after = torch.stack([p.grad.norm() for p in parameters]).norm()
        norms.append((float(before), float(after)))
        return before

    monkeypatch.setattr(learning, "clip_grad_norm_", clip)
    finish(toy(grad_clip=0.05, epochs=1), tmp_path / "run")
    assert len(norms) == 6
    assert all(after == pytest.approx(min(0.05, before), rel=1e-3) for before, after in norms)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"nesterov": True, "optimizer": "adam"}, "--nesterov is a kind of momentum of sgd"),
        ({"label_smoothing": 1.0}, "--label-smoothing is a number from 0 up to 1"),
        ({"grad_clip": -1.0}, "--grad-clip must be at least 0"),
        ({"awp": -1.0}, "--awp must be at least 0"),
        ({"union": "mean"}, "--union is one of max, average"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(toy, tmp_path, changes, match):
    with pytest.raises(RobustError, match=match):
        finish(toy(**changes), tmp_path / "run")


# -- accuracies by class, recipes


def test_rows_have_accuracies_by_class(toy, tmp_path):
    (tmp_path / "nets.py").write_text(NOISY)
    row = finish(toy(epochs=1), tmp_path / "run")[-1].row
    for name, confusion in (("val", "confusion"), ("val_robust", "robust_confusion")):
        table = np.array(row[confusion])
        expected = np.diag(table) / table.sum(1)
        assert row[f"{name}_class_accuracies"] == pytest.approx(expected.tolist())


def test_a_recipe_gives_way_to_what_is_given():
    options = {"recipe": "fast", "lr": 0.1, "adv": None, "epochs": 30, "eps_warmup": 0.0}
    options["eps_scale"] = None
    made = with_recipe(options, {"epochs"}, 0.2)
    recipe = RECIPES["fast"]
    assert (made["lr"], made["epochs"]) == (recipe["lr"], 30)
    step = parse_adv(made["adv"])["params"]["step_size"]
    assert step == pytest.approx(recipe["step"] * recipe["eps_scale"] * 0.2)
    assert with_recipe(options, {"adv"}, 0.2)["adv"] is None
    assert made["eps_warmup"] == pytest.approx(30 * recipe["eps_warmup"])
    assert with_recipe(options, {"eps_warmup"}, 0.2)["eps_warmup"] == 0.0


def test_recipes_are_made_of_options():
    from robust.cli.train import train as command

    names = {parameter.name for parameter in command.params}
    for recipe in RECIPES.values():
        assert recipe.keys() <= names | {"step"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_recorded_by_its_values_and_trains_other_data(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data = blobs(tmp_path / "toy.npz", n=200)
    words = ["train", "--recipe", name, "--data", data, "--eps", "0.05", "--arch", "mlp"]
    words += ["--epochs", "2", "--lr", "0.003", "--quiet", "--run", "run"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    spec = record(tmp_path / "run")["spec"]
    recipe = RECIPES[name]
    expected = recipe["step"] * recipe["eps_scale"] * 0.05
    assert spec["adv"] == parse_adv(f"{recipe['adv']},step_size={expected:.6g}")
    assert spec["epochs"] == 2
    assert spec["lr"] == 0.003
    assert spec["ema"] == recipe["ema"]
    assert spec["eps_warmup"] == pytest.approx(2 * recipe["eps_warmup"])
