"""A small digits model, trained once per session, and a way to run the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores run already
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def digits_net():
    """A naturally trained CNN on digits: about 97 % accurate, not robust."""
    from robust.core.rng import seeded
    from robust.data import DataSpec, open_data
    from robust.models import build

    source = open_data(DataSpec("digits", split="train"))
    batch = source.batch(source.ids)
    with seeded(0):
        net = build("small-cnn", (1, 8, 8), 10)
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(8):
            for rows in torch.randperm(len(batch.y)).split(64):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(net(batch.x[rows]), batch.y[rows]).backward()
                optimiser.step()
    return net.eval()


@pytest.fixture(scope="session")
def checkpoint(digits_net, tmp_path_factory) -> Path:
    """That model as `robust train` stores it."""
    from robust.models import save_checkpoint

    path = tmp_path_factory.mktemp("model") / "m.pt"
    save_checkpoint(
        path,
        digits_net,
        arch="small-cnn",
        shape=(1, 8, 8),
        num_classes=10,
        classes=[str(i) for i in range(10)],
        data={"source": "digits", "split": "test"},
        threat={"norm": "linf", "eps": 0.1, "low": 0.0, "high": 1.0},
        extra={"validation": {"source": "digits", "split": "held-out", "fraction": 0.2}},
    )
    return path


@pytest.fixture(scope="session")
def robust_cli():
    """Run `robust ARGS…` in a process of its own, outside a terminal."""

    def run(*args, cwd, **env):
        return subprocess.run(
            [sys.executable, "-m", "robust", *map(str, args)],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "80", **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run
