"""Fixtures of the tests of training."""

import dataclasses

import pytest
import torch
from training_runs import (
    LINF,
    blobs,
)

from robust.data import DataSpec
from robust.training import TrainSpec, parse_adv


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
