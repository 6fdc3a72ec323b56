"""Servers to ask, and samples to ask about."""

import pytest
import torch
from servers import HAS_MLSERVER, Misbehaving, kill, start_mlserver


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("ROBUST_TOKEN", raising=False)


@pytest.fixture
def server():
    with Misbehaving() as running:
        yield running


@pytest.fixture
def x():
    """40 samples, all different."""
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def mlserver(tmp_path_factory):
    """(URL, folder) of an MLServer with the models net, labels, echo and bytes."""
    if not HAS_MLSERVER:
        pytest.skip("mlserver is not installed")
    folder = tmp_path_factory.mktemp("mlserver")
    process, url = start_mlserver(folder)
    yield url, folder
    kill(process)
