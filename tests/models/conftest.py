"""What several tests of models need."""

import sys

import pytest


@pytest.fixture
def no_converter(monkeypatch):
    """onnx2torch is not installed."""
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
