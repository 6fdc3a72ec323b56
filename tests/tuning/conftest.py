"""Fixtures of the tests of tuning."""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Every line of a study waits for the disk, which no test here is about."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
