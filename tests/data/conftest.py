"""Files of every format, and no network, for the tests of robust.data."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHAPE = (3, 6, 5)


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test's own, and an error for whoever opens a connection."""
    import datasets

    def refuse(*args: Any) -> None:
        raise AssertionError("a test of local data went to the network")

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def images() -> np.ndarray:
    """Twelve images, uint8 NCHW."""
    return np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    """Their classes."""
    return np.arange(12) % 3


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that errors name files as the user does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
