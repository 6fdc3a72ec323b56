"""Trainings and defended models as subjects: what a trial does, and what it leaves."""

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from tuning_runs import blobs, search, told

from robust.cli import main
from robust.core.adaptive import Adaptive
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.data import DataSpec, open_data
from robust.models import load_model
from robust.registry import parse_attack
from robust.training import TrainDone, TrainSpec, describe_attack, parse_adv, train
from robust.tuning import Around, Axis, Recipe, TuneDone
from robust.tuning.subject import parse_record

LR = Axis(name="lr", low=0.005, high=0.5, log=True)
STEPS = Axis(name="adv.steps", low=1, high=3, whole=True)


@pytest.fixture
def recipe(tmp_path):
    source = blobs(tmp_path / "toy.npz")

    def make(**changes):
        spec = {
            "data": DataSpec(source).to_dict(),
            "arch": "mlp",
            "adv": parse_adv("pgd,steps=2"),
            "val_attack": parse_adv("pgd,steps=2"),
            "val_fraction": 0.4,
            "epochs": 3,
            "batch_size": 16,
            "lr": 0.05,
        }
        return Recipe(TrainSpec(**{**spec, **changes}))

    return make


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(a, b):
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_trial_is_the_training_of_its_values(recipe, tmp_path):
    subject = recipe()
    done = search(subject, tmp_path / "run", [LR, STEPS], trials=3, out=tmp_path / "m.pt")[-1]
    for row in done.rows:
        assert row.state == "complete"
        spec = subject.changed(row.values)
        assert (spec.lr, spec.adv["params"]["steps"]) == tuple(row.values.values())
        *_, end = train(spec, folder=tmp_path / f"alone{row.number}")
        assert isinstance(end, TrainDone)
        assert row.clean == end.row["val_accuracy"]
        assert row.robust == end.row["val_robust_accuracy"]
        assert row.notes["epoch"] == end.row["epoch"]
        trial = tmp_path / f"run/trials/{row.number:05d}"
        assert same(trial / "best.pt", tmp_path / f"alone{row.number}/best.pt")
        assert not (trial / "state.pt").exists()
    assert same(tmp_path / "m.pt", tmp_path / f"alone{done.row.number}/best.pt")


def test_the_options_of_a_trial_mean_its_values(tmp_path, monkeypatch):
    """What the page gives to type is read back as the same training."""
    from robust.commands import train as command

    found = []
    monkeypatch.setattr(command, "train", lambda spec, **_: found.append(spec) or iter(()))
    monkeypatch.chdir(tmp_path)
    values = {
        "lr": 0.0123456789,
        "adv.steps": 5,
        "nesterov": True,
        "guard": False,
        "bit-depth.bits": 5,
    }
    given = ["--adv", "pgd,loss=margin", "--defense", "bit-depth", "--device", "cpu"]
    CliRunner().invoke(main, ["train", *given])
    subject = Recipe(found.pop())
    text = subject.options(values)
    assert text == (
        "--lr 0.0123456789 --nesterov --no-guard --adv pgd,steps=5,loss=margin "
        "--defense bit-depth,bits=5"
    )
    CliRunner().invoke(main, ["train", "--device", "cpu", *text.split()])
    (again,) = found
    assert Recipe(again).spec == subject.changed(values)


KILLER = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import json, optuna, sklearn.metrics, torch.utils.tensorboard, torch.utils.flop_counter
from robust.training import TrainSpec
from robust.tuning import Axis, Recipe
from tuning_runs import search
subject = Recipe(TrainSpec.from_dict(json.loads(sys.argv[2])))
axes = [Axis.from_dict(one) for one in json.loads(sys.argv[3])]
moments = random.Random(1)
def child():
    pid = os.fork()
    if pid:
        return pid
    search(subject, Path(sys.argv[4]), axes, trials=6, seed=2, resume=True)
    os._exit(0)
kills = 0
while True:
    pid = child()
    if kills < 5:
        time.sleep(moments.uniform(0.05, 0.9))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        break
    kills += 1
print(kills, os.WEXITSTATUS(status))
"""


def test_killed_at_random_moments_and_resumed_it_ends_the_same(recipe, tmp_path):
    subject = recipe(epochs=4)
    whole = search(subject, tmp_path / "whole", [LR, STEPS], trials=6, seed=2)[-1]
    words = [
        *(sys.executable, "-c", KILLER, os.path.dirname(__file__)),
        *(json.dumps(subject.spec.to_dict()), json.dumps([LR.to_dict(), STEPS.to_dict()])),
        str(tmp_path / "run"),
    ]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ended.stdout, ended.stderr
    kills, status = map(int, ended.stdout.split())
    assert (kills > 2, status) == (True, 0), ended.stderr
    again = search(subject, tmp_path / "run", [LR, STEPS], trials=6, seed=2, resume=True)
    assert [type(event) for event in again][1:] == [TuneDone]
    assert told(again[-1].rows) == told(whole.rows)
    assert same(tmp_path / "whole/best.pt", tmp_path / "run/best.pt")


def test_a_training_that_diverges_is_a_failed_trial(recipe, tmp_path):
    axes = [Axis(name="lr", choices=(0.05, 1e12))]
    done = search(recipe(), tmp_path / "run", axes, trials=2)[-1]
    assert [row.state for row in done.rows] == ["complete", "failed"]
    assert "no longer a finite number" in done.rows[1].error
    assert done.row.baseline


def test_data_that_changed_are_not_gone_on_with(recipe, tmp_path):
    search(recipe(), tmp_path / "run", [LR], trials=1)
    changed = recipe(data=DataSpec(blobs(tmp_path / "toy.npz", seed=1)).to_dict())
    with pytest.raises(RobustError, match="fingerprints differ from"):
        search(changed, tmp_path / "run", [LR], trials=1, resume=True)


# Defenses around a model

SHADE = """
import torch
class Shade:
    draws = 1
    def __init__(self, keep=0.1):
        self.keep = keep
    def __call__(self, x):
        return x * self.keep
"""


@pytest.fixture
def around(checkpoint):
    """make(defense, **changes) → it around a CNN of digits, judged by 60 of them."""

    def make(*texts, **changes):
        options = {
            "source": open_data(DataSpec("digits", "test")),
            "data": {"source": "digits", "split": "test"},
            "threat": Threat("linf", 0.1),
            "attack": parse_attack("pgd,steps=3"),
            "described": describe_attack(parse_attack("pgd,steps=3")),
            "limit": 60,
            "seed": 0,
            "device": torch.device("cpu"),
        }
        return Around(
            lambda named: load_model(checkpoint, defenses=named),
            [parse_record(text) for text in texts],
            **{**options, **changes},
        )

    return make


def test_the_best_defense_is_found_and_written(around, checkpoint, tmp_path):
    axis = Axis(name="bit-depth.bits", low=1, high=3, whole=True)
    done = search(
        around("bit-depth,bits=8"), tmp_path / "run", [axis], trials=9, out=tmp_path / "m.pt"
    )[-1]
    assert done.exhausted
    assert sorted(row.values["bit-depth.bits"] for row in done.rows) == [1, 2, 3, 8]
    bits = done.row.values["bit-depth.bits"]
    assert done.options == f"--with bit-depth,bits={bits}"
    made = load_model(tmp_path / "m.pt")
    assert made.info.defenses[0]["params"]["bits"] == bits
    # The same figures by the attack on the model as it was written.
    source = open_data(DataSpec("digits", "test"))
    fresh = around(f"bit-depth,bits={bits}")
    ids = fresh.samples.ids
    assert len(ids) == 60
    batch = source.batch(ids)
    with torch.no_grad():
        clean = (made.module(batch.x).argmax(1) == batch.y).double().mean()
    assert done.row.clean == pytest.approx(float(clean))
    assert done.row.robust <= done.row.clean
    assert list(fresh.run({}, tmp_path))[-1].robust == done.row.robust


def test_the_attacker_is_adaptive(around, tmp_path):
    """Saturated logits stop plain gradients; what counts is the attack that sees through them."""
    subject = around("saturation")
    adaptive = list(subject.run({}, tmp_path))[-1]
    assert isinstance(subject.attack, Adaptive)
    subject.attack = subject.attack.attack
    naive = list(subject.run({}, tmp_path))[-1]
    assert naive.clean == adaptive.clean
    assert naive.robust > adaptive.robust + 0.3


def test_a_file_of_ones_own(around, tmp_path):
    (tmp_path / "shade.py").write_text(SHADE)
    axis = Axis(name=f"{tmp_path}/shade.py:Shade.keep", low=0.0, high=1.0)
    subject = around(f"{tmp_path}/shade.py:Shade,keep=0.0")
    assert subject.canonical("Shade.keep") == axis.name
    done = search(subject, tmp_path / "run", [axis], trials=6, objective="clean")[-1]
    assert done.rows[0].clean < 0.3  # all samples look the same
    assert done.row.values[axis.name] > 0.3
    assert done.row.clean > 0.8


def test_a_random_defense_is_measured_by_repeated_draws(around, tmp_path):
    (tmp_path / "coin.py").write_text(
        "import torch\n"
        "class Coin:\n"
        "    draws = 5\n"
        "    def wrap(self, model):\n"
        "        return Flip(model)\n"
        "    expose = wrap\n"
        "class Flip(torch.nn.Module):\n"
        "    def __init__(self, model):\n"
        "        super().__init__()\n"
        "        self.model = model\n"
        "    def forward(self, x):\n"
        "        keep = (torch.rand(len(x), 1) < 0.5).to(x)\n"
        "        return self.model(x) * (2 * keep - 1)\n"
    )
    looks = list(around(f"{tmp_path}/coin.py:Coin", limit=40).run({}, tmp_path))
    # Half of the draws answer with the opposite: single draws would give multiples of 1/40.
    assert looks[-1].clean == pytest.approx(0.5, abs=0.1)
    assert (looks[-1].clean * 400) == pytest.approx(round(looks[-1].clean * 400))
    assert looks[-1].robust < looks[-1].clean
    again = list(around(f"{tmp_path}/coin.py:Coin", limit=40).run({}, tmp_path))
    assert [(one.clean, one.robust) for one in again] == [(o.clean, o.robust) for o in looks]


def test_an_attack_without_gradients_is_refused(around):
    attack = parse_attack("square")
    with pytest.raises(RobustError, match="needs one with gradients"):
        around("bit-depth", attack=attack, described=describe_attack(attack))


def test_names_of_parameters_around_a_model(around):
    subject = around("bit-depth")
    assert subject.canonical("defense.bit-depth.bits") == "bit-depth.bits"
    with pytest.raises(RobustError, match="the parameters of its defenses are searched"):
        subject.canonical("lr")
