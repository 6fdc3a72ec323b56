"""Training on sets of labels: binary cross-entropy, Jaccard and Hamming, and what is refused."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from training_runs import (
    LINF,
    finish,
    record,
    rows_of,
    same,
    scalars,
    stop_after,
)

from robust.cli import main
from robust.core.errors import RobustError
from robust.core.goal import Goal, LabelSet, leaving, predicted_right
from robust.core.losses import LOSSES, bce
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.core.victim import Victim
from robust.data import DataSpec, open_data
from robust.models import load_model
from robust.opening import load_surrogate
from robust.registry import parse_attack
from robust.training import TrainSpec, parse_adv, train
from robust.training.criterion import SetCriterion
from robust.training.data import Samples, open_all
from robust.training.guard import Guard
from robust.training.keeper import Keeper
from robust.training.label_sets import jaccard, set_columns
from robust.tuning import Recipe

LABELS = 4


def sets(path, n=160, seed=0, labels=LABELS):
    """Feature vectors (6,) in [0, 1]; a sample has label k where its k-th value is high."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, labels))
    x = rng.uniform(0, 1, (n, 6))
    x[:, :labels] = np.where(y == 1, 0.8, 0.2) + rng.normal(0, 0.05, (n, labels))
    np.savez(path, x=np.clip(x, 0, 1).astype(np.float32), y=y)
    return str(path)


@pytest.fixture
def toy(tmp_path):
    """make(**changes) → a TrainSpec on sets of labels."""
    source = sets(tmp_path / "sets.npz")

    def make(**changes):
        return TrainSpec(
            **{
                "data": DataSpec(source, multi_label=True).to_dict(),
                "arch": "mlp",
                "adv": parse_adv("pgd,steps=2"),
                "val_attack": parse_adv("pgd,steps=2"),
                "threat": LINF,
                "epochs": 3,
                "batch_size": 16,
                "lr": 0.05,
                "eps_scale": 1.0,
                **changes,
            }
        )

    return make


# Goals and losses


def test_binary_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]])
    y = torch.tensor([[1, 0], [0, 1]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    by_hand = -(y.numpy() * np.log(p) + (1 - y.numpy()) * np.log(1 - p)).mean(1)
    np.testing.assert_allclose(bce(logits, y), by_hand, rtol=1e-5)
    np.testing.assert_allclose(LOSSES["ce"](logits, leaving(y)), by_hand, rtol=1e-5)


def test_the_goal_of_a_set():
    goal = leaving(torch.tensor([[1, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]]))
    assert isinstance(goal, LabelSet)
    assert goal.persist
    nan = float("nan")
    logits = torch.tensor(
        [[2.0, -1.0, 3.0], [2.0, 0.5, 3.0], [0.0, -1.0, -1.0], [1.0, 0.0, 1.0], [nan, 5.0, 1.0]]
    )
    assert goal.margin(logits)[:4].tolist() == [-1.0, 0.5, 0.0, 0.0]
    assert goal.reached(logits).tolist() == [False, True, False, True, False]
    assert predicted_right(logits[:4], goal.labels[:4]).tolist() == [True, False, True, False]
    rows = torch.tensor([3, 1])
    assert torch.equal(goal[rows].labels, goal.labels[rows])
    assert LOSSES["margin"](logits[:2], goal[:2]).tolist() == [-1.0, 0.5]


def test_classes_have_the_goal_that_they_had():
    goal = leaving(torch.tensor([2, 0]), persist=True)
    assert type(goal) is Goal
    assert goal.persist
    assert not leaving(torch.tensor([2, 0])).persist
    assert predicted_right(
        torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 0])
    ).tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("text", ["fgsm", "pgd,steps=5", "bim,steps=5", "momentum-pgd,steps=5"])
def test_attacks_raise_the_loss_of_sets_inside_the_ball(text, norm):
    torch.manual_seed(0)
    model = nn.Linear(6, LABELS).requires_grad_(False)
    x, y = torch.rand(8, 6) * 0.4 + 0.3, torch.randint(0, 2, (8, LABELS))
    threat, attack = Threat(norm, 0.1), parse_attack(text)
    with torch.no_grad():
        found = attack.search(Victim(model, 8), x, leaving(y), threat, generator(0, "attack"))
        assert (threat.distance(x, found) <= 0.1 + 1e-6).all()
        assert (bce(model(found), y) > bce(model(x), y) + 1e-3).all()


def test_one_step_on_a_linear_model_is_the_worst_point_of_one_label():
    """With the same label twice BCE is monotone in one logit: FGSM ends in the best corner."""
    weight = torch.tensor([1.0, -2.0, 0.5])
    model = nn.Linear(3, 2, bias=False).requires_grad_(False)
    model.weight.copy_(torch.stack([weight, weight]))
    x, y = torch.full((2, 3), 0.5), torch.tensor([[1, 1], [0, 0]])
    with torch.no_grad():
        found = parse_attack("fgsm").search(
            Victim(model, 2), x, leaving(y), Threat("linf", 0.1), generator(0, "attack")
        )
    torch.testing.assert_close(found[0], 0.5 - 0.1 * weight.sign())
    torch.testing.assert_close(found[1], 0.5 + 0.1 * weight.sign())


# The criterion


def test_balanced_weights_and_smoothing_by_hand(toy, tmp_path):
    x = np.random.default_rng(0).uniform(0, 1, (8, 6)).astype(np.float32)
    y = np.array([[1, 1, 0, 1]] * 2 + [[0, 1, 0, 1]] * 5 + [[0, 1, 0, 0]])
    np.savez(tmp_path / "skew.npz", x=x, y=y)
    source = DataSpec(str(tmp_path / "skew.npz"), multi_label=True).to_dict()
    spec = toy(
        data=source,
        validation=source,
        batch_size=4,
        class_weights="balanced",
        label_smoothing=0.2,
    )
    criterion = SetCriterion(spec, open_all(spec))
    assert criterion.weights.tolist() == pytest.approx([3.0, 1.0, 1.0, 1 / 7])
    logits, labels = torch.tensor([[0.5, -1.0, 2.0, 0.0]]), torch.tensor([[1, 0, 0, 1]])
    p = torch.sigmoid(logits)[0]
    wanted, weight = torch.tensor([0.9, 0.1, 0.1, 0.9]), criterion.weights
    by_hand = -(weight * wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    torch.testing.assert_close(criterion(logits, labels)[0], by_hand)


# What is measured


def test_jaccard_and_hamming_by_hand():
    y = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    clean = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]])
    robust = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 1]])
    columns = set_columns(y, {"clean": clean, "robust": robust, "fgsm": clean})
    assert columns["val_jaccard"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert columns["val_robust_jaccard"] == pytest.approx((0 + 0 + 1) / 3)
    assert columns["val_hamming"] == pytest.approx(1 / 9)
    assert columns["val_robust_hamming"] == pytest.approx(4 / 9)
    assert columns["val_fgsm_jaccard"] == columns["val_jaccard"]
    assert columns["classification_report"]["1"]["recall"] == pytest.approx(1 / 2)
    assert columns["robust_classification_report"]["0"]["recall"] == 0


def test_the_last_row_is_what_the_checkpoint_does(toy, tmp_path):
    spec = toy(epochs=1, lr=0.01)
    finish(spec, tmp_path / "run")
    row, model = rows_of(tmp_path / "run")[-1], load_model(tmp_path / "run/model.pt").module.eval()
    source = open_all(spec).validation
    batch = source.batch(source.ids)
    with torch.no_grad():
        logits = model(batch.x)
    wrong = (logits > 0) != (batch.y == 1)
    assert 0 < wrong.double().mean() < (wrong.any(1)).double().mean() < 1
    assert ((logits > 0) & (logits < 0.3)).any()
    assert row["val_hamming"] == pytest.approx(float(wrong.double().mean()))
    assert row["val_accuracy"] == pytest.approx(float((~wrong).all(1).double().mean()))
    assert row["val_jaccard"] == jaccard(batch.y.numpy(), (logits > 0).long().numpy())
    assert row["val_loss"] == pytest.approx(float(bce(logits.double(), batch.y).mean()))


def test_it_learns_and_says_so(toy, tmp_path):
    done = finish(toy(epochs=8, lr=0.1), tmp_path / "run", out=tmp_path / "m.pt")[-1]
    assert done.row["val_jaccard"] > 0.95
    assert done.row["val_robust_jaccard"] > 0.9
    assert done.row["val_robust_hamming"] < 0.1
    first = rows_of(tmp_path / "run")[0]
    assert done.row["val_robust_loss"] < first["val_robust_loss"]
    assert "confusion" not in first
    board = scalars(tmp_path / "run")
    assert [value for _, value in board["jaccard/validation_robust"]] == pytest.approx(
        [row["val_robust_jaccard"] for row in rows_of(tmp_path / "run")]
    )
    info = load_model(tmp_path / "m.pt").info
    assert info.extra["multi_label"] is True
    assert info.extra["val_robust_jaccard"] == done.row["val_robust_jaccard"]
    assert info.num_classes == LABELS


def test_training_against_an_attack_gains_what_the_attack_takes(tmp_path, toy):
    """The first two values tell the label, the last four do so together but within eps."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, (240, 2))
    x = np.clip(0.5 + rng.normal(0, 0.02, (240, 6)), 0, 1)
    x[:, 0] = np.where(rng.random(240) < 0.9, y[:, 0], 1 - y[:, 0]) * 0.6 + 0.2
    x[:, 1] = np.where(rng.random(240) < 0.9, y[:, 1], 1 - y[:, 1]) * 0.6 + 0.2
    x[:, 2:4] += np.where(y[:, :1] == 1, 0.08, -0.08)
    x[:, 4:6] += np.where(y[:, 1:] == 1, 0.08, -0.08)
    np.savez(tmp_path / "weak.npz", x=x.astype(np.float32), y=y)
    data = DataSpec(str(tmp_path / "weak.npz"), multi_label=True).to_dict()
    common = {"data": data, "val_fraction": 0.4, "epochs": 15, "lr": 0.1, "guard": False}
    natural = finish(toy(**common, adv=parse_adv("none")), tmp_path / "n")[-1].row
    trained = finish(toy(**common), tmp_path / "a")[-1].row
    assert trained["val_robust_jaccard"] > natural["val_robust_jaccard"] + 0.1


# Runs


def test_the_best_epoch_is_that_of_the_highest_robust_jaccard_index(toy, tmp_path, monkeypatch):
    figures = iter([(0.2, 0.9), (0.8, 0.1), (0.3, 0.9)])
    import robust.training.engine as engine
    from robust.training import measure as measuring

    plain = measuring.measure

    def measure(*args, **kwargs):
        row = plain(*args, **kwargs)
        row["val_robust_jaccard"], row["val_robust_accuracy"] = next(figures)
        row["val_fgsm_jaccard"] = row["val_robust_jaccard"]
        return row

    monkeypatch.setattr(engine, "measure", measure)
    assert finish(toy(), tmp_path / "run")[-1].row["epoch"] == 2


def test_overfitting_is_told_by_the_jaccard_index(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(Keeper, "highest", {"val_jaccard": 0.9, "val_robust_jaccard": 0.8})
    made = object.__new__(Keeper)
    made.spec, made.figure = toy(), "jaccard"
    made.learner = type("L", (), {"trainer": toy().defense()})()
    row = {"val_fgsm_jaccard": 0.9, "val_robust_jaccard": 0.1}
    assert made.problem(row) == (
        "Jaccard index 90% under FGSM but 10% under PGD, which was 80% before"
    )
    assert made.problem({**row, "val_robust_jaccard": 0.7}) is None


def test_looks_are_at_jaccard_indices(toy):
    class Net(nn.Linear):
        exposed = property(lambda self: self)

    spec, threat = toy(), Threat(**LINF)
    source = open_all(spec).validation
    torch.manual_seed(1)
    model, samples = Net(6, LABELS), Samples(source, torch.tensor(source.ids), torch.device("cpu"))
    guard = Guard(spec, model, samples, threat)
    attack = parse_attack("fgsm")
    with torch.no_grad():
        fgsm, again = guard._figures(attack, 9)
        x, y = guard.x[:9], guard.y[:9]
        found = attack.search(Victim(model, 9), x, leaving(y), threat, generator(0, "look"))
        predicted = (model(found) > 0).long()
    both = (predicted & y).sum(1) / (predicted | y).sum(1).clamp(min=1)
    both[(predicted | y).sum(1) == 0] = 1.0
    assert fgsm == again == pytest.approx(float(both.mean()))
    assert fgsm > float((predicted == y).all(1).double().mean())


def test_an_interrupted_run_resumes_to_the_same_weights(toy, tmp_path):
    spec = toy(class_weights="balanced", ema=0.9, mix=0.5)
    finish(spec, tmp_path / "whole")
    stop_after(train(spec, folder=tmp_path / "run"), 1)
    assert record(tmp_path / "run")["status"] == "interrupted"
    finish(spec, tmp_path / "run", resume=True)
    for name in ("model.pt", "best.pt"):
        assert same(tmp_path / "whole" / name, tmp_path / "run" / name)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"awp": 0.01},
        {"also": [{**LINF, "norm": "l2", "eps": 0.2}]},
        {"defenses": [{"name": "bit-depth", "params": {"bits": 4}}], "adv": parse_adv("fgsm")},
        {"adv": parse_adv("none")},
        {"val_attack": parse_adv("momentum-pgd,steps=2,loss=margin")},
    ],
)
def test_what_else_goes_with_sets(toy, tmp_path, changes):
    done = finish(toy(epochs=1, **changes), tmp_path / "run")[-1]
    assert np.isfinite(done.row["val_robust_loss"])


def test_sets_are_part_of_what_a_run_is(toy):
    plain = DataSpec("a.npz")
    assert "multi_label" not in plain.to_dict()  # hashes of earlier runs stay
    one = DataSpec("a.npz", multi_label=True)
    assert DataSpec.from_dict(one.to_dict()) == one
    assert toy().hash != toy(data={**toy().data, "multi_label": False}).hash


# What is refused


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"adv": parse_adv("trades")}, "--adv trades is for one class per sample"),
        ({"adv": parse_adv("mart")}, "--adv mart is for one class per sample"),
        ({"adv": parse_adv("apgd")}, "--adv: APGD attacks one class per sample"),
        ({"adv": parse_adv("pgd,loss=dlr")}, "--adv: the loss dlr compares classes"),
        ({"val_attack": parse_adv("apgd")}, "--val-attack: APGD attacks one class"),
        ({"augment": ["mixup"]}, "--augment mixup is for one class per sample"),
        (
            {"defenses": [{"name": "saturation", "params": {}}]},
            "--defense saturation is for one class per sample",
        ),
        (
            {"defenses": [{"name": "smoothing", "params": {}}]},
            "--defense smoothing is for one class per sample",
        ),
        ({"validation": DataSpec("b.npz").to_dict()}, "--validation has one class per sample"),
        ({"data": DataSpec("digits", multi_label=True).to_dict()}, "digits has one class"),
    ],
)
def test_what_is_about_classes_is_refused(toy, tmp_path, changes, match):
    with pytest.raises(RobustError, match=match):
        finish(toy(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sets_beside_classes_are_refused(toy, tmp_path):
    spec = toy(data=DataSpec("digits").to_dict(), extra=toy().data)
    with pytest.raises(RobustError, match="--data has one class per sample, but other data"):
        spec.check()


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (np.zeros((40, 3), int), "all 36 training samples have the same set of labels"),
        (np.arange(40) % 3, r"has type int64 and shape \(40,\): --multi-label wants 0 or 1"),
        (np.full((40, 3), 0.5), "value of 0.5 for sample 0: --multi-label wants 0 or 1"),
        (np.eye(3)[np.arange(40) % 3] * 2, "value of 2 for sample 0"),
        ((np.arange(40) % 2)[:, None], "one label is a matter of two classes: drop --multi-label"),
    ],
)
def test_labels_that_are_no_sets_are_one_line(toy, tmp_path, y, match):
    np.savez(tmp_path / "bad.npz", x=np.random.default_rng(0).uniform(0, 1, (40, 6)), y=y)
    spec = toy(data=DataSpec(str(tmp_path / "bad.npz"), multi_label=True).to_dict())
    with pytest.raises(RobustError, match=match) as caught:
        finish(spec, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_other_data_with_other_labels_are_refused(toy, tmp_path):
    other = DataSpec(sets(tmp_path / "three.npz", labels=3), multi_label=True).to_dict()
    with pytest.raises(RobustError, match="validation samples have 3 labels, but the training"):
        finish(toy(validation=other), tmp_path / "run")


def test_a_label_that_is_always_there_is_no_matter(toy, tmp_path):
    y = np.random.default_rng(0).integers(0, 2, (40, 3))
    y[:, 0], y[:, 1] = 1, 0
    np.savez(tmp_path / "some.npz", x=np.random.default_rng(0).uniform(0, 1, (40, 6)), y=y)
    data = DataSpec(str(tmp_path / "some.npz"), multi_label=True).to_dict()
    done = finish(toy(data=data, epochs=1, class_weights="balanced"), tmp_path / "run")[-1]
    assert np.isfinite(done.row["train_loss"])


def test_sets_without_the_flag_are_told_of_it(tmp_path):
    source = sets(tmp_path / "sets.npz")
    with pytest.raises(RobustError, match="not one-hot: .* or train on sets .* --multi-label"):
        open_data(DataSpec(source))


def test_hdf5_holds_sets_too(tmp_path):
    import h5py

    source = sets(tmp_path / "sets.npz")
    with np.load(source) as arrays, h5py.File(tmp_path / "sets.h5", "w") as file:
        file["x"], file["y"] = arrays["x"], arrays["y"]
    one = open_data(DataSpec(source, multi_label=True))
    other = open_data(DataSpec(str(tmp_path / "sets.h5"), split="held-out", multi_label=True))
    assert other.multi_label
    assert other.labels().shape == (16, LABELS)
    assert other.labels().dtype == np.int64
    assert torch.equal(one.batch(other.ids).y, other.batch(other.ids).y)
    assert np.array_equal(other.labels(), other.batch(other.ids).y.numpy())


def test_tuning_is_refused(toy):
    with pytest.raises(RobustError, match="--multi-label is for robust train"):
        Recipe(toy())


# The command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of what `robust train --multi-label` leaves, and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    source = sets(folder / "sets.npz")
    told = CliRunner().invoke(
        main,
        f"train --multi-label --data {source} --eps 0.1 --epochs 2 --batch-size 16 --arch mlp "
        f"--adv pgd,steps=2 --val-attack pgd,steps=2 --device cpu --out {folder}/m.pt "
        f"--run {folder}/run".split(),
    )
    assert told.exit_code == 0, told.output
    return folder, told


def test_the_command_shows_jaccard_and_hamming(trained):
    folder, told = trained
    assert "validation Jaccard: clean" in told.stderr
    assert "validation Jaccard index" in told.stdout
    assert "Hamming loss" in told.stdout
    assert "robust attack" not in told.stdout
    page = (folder / "run/report.html").read_text(encoding="utf-8")
    assert "Validation robust Jaccard index <strong>" in page
    assert "Hamming loss under attack" in page
    assert "<h2>Labels</h2>" in page
    assert "<h2>Confusion</h2>" not in page
    assert json.loads((folder / "run/run.json").read_text())["spec"]["data"]["multi_label"] is True


@pytest.mark.parametrize(
    "command",
    [
        "attack --model {m} --device cpu",
        "certify --model {m} --sigma 0.1 --device cpu",
        "defend --model {m} --with bit-depth --out {m}.defended",
        "tune --model {m} --with bit-depth --eps 0.1 --device cpu",
    ],
)
def test_other_commands_refuse_the_checkpoint(trained, command):
    folder, _ = trained
    told = CliRunner().invoke(main, command.format(m=folder / "m.pt").split())
    assert told.exit_code == 2
    assert "m.pt was trained on sets of labels (--multi-label)" in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1


def test_a_surrogate_of_sets_is_refused(trained):
    options = {"trust_pickle": False, "arch": None, "mean": None, "std": None}
    with pytest.raises(RobustError, match=r"m\.pt was trained on sets of labels"):
        load_surrogate(str(trained[0] / "m.pt"), (6,), options)
