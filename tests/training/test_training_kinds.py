"""Every way to train, in a short run on digits: it learns, and what it learns is robust."""

import dataclasses

import pytest
import torch

from robust.training import EpochDone, TrainSpec, parse_adv, train
from robust.training.adv import trainers

# Of the validation samples of seed 0, natural training comes to 0.55, every kind here to 0.78.
ROBUST = 0.7
KINDS = {
    "pgd,steps=3": {},
    "fgsm": {},
    "n-fgsm": {"epochs": 6},
    "free": {"epochs": 3},
    "trades,steps=3": {},
    "mart,steps=3": {},
    "pgd,steps=2": {"awp": 0.005},
    "fgsm,loss=margin": {"also": [{"norm": "l2", "eps": 0.4, "low": 0.0, "high": 1.0}]},
}


def rows(tmp_path, **changes):
    spec = TrainSpec(
        epochs=5, val_attack=parse_adv("pgd,steps=10"), val_limit=200, val_fraction=0.15, lr=0.1
    )
    spec = dataclasses.replace(spec, **changes)
    return [e.row for e in train(spec, folder=tmp_path / "run") if isinstance(e, EpochDone)]


@pytest.mark.parametrize("adv", KINDS)
def test_every_kind_learns_and_is_robust_after_a_few_epochs(adv, tmp_path):
    torch.set_num_threads(1)
    found = rows(tmp_path, adv=parse_adv(adv), **KINDS[adv])
    assert found[-1]["train_loss"] < 0.8 * found[0]["train_loss"]
    assert found[-1]["val_accuracy"] > 0.85
    assert found[-1]["val_robust_accuracy"] > ROBUST


def test_natural_training_is_not_robust_by_the_same_measure(tmp_path):
    found = rows(tmp_path, adv=parse_adv("none"))
    assert found[-1]["val_accuracy"] > 0.85
    assert found[-1]["val_robust_accuracy"] < ROBUST - 0.1


def test_the_table_has_every_kind_of_training():
    assert set(trainers()) <= {adv.partition(",")[0] for adv in KINDS}
