"""ONNX files: gradients of a converted network, where it is the same."""

import re
import sys
import types

import numpy as np
import pytest
import torch
from onnx_files import (
    CLASSES,
    SHAPE,
    WEIGHT,
    expected,
    linear,
    samples,
    save,
    session,
    value,
    weight,
)
from torch import nn

from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.losses import margin
from robust.core.victim import Victim
from robust.models import load_model

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_converter")


def test_no_gradient_without_a_converter(tmp_path):
    module = load_model(linear(tmp_path / "m.onnx", ["N", *SHAPE]), shape=SHAPE).module
    goal = Goal(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(RobustError, match="the model gives no gradient with respect to its input"):
        Victim(module, 3).gradient(samples(3), margin, goal)


class Twin(nn.Module):
    """What a converter would make of `linear`, or something near it."""

    def __init__(self, off=0.0, outputs=1):
        super().__init__()
        self.dropout = nn.Dropout(0.5)  # as converted, in training mode
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT).float() * (1 + off))
        self.outputs = outputs

    def forward(self, x):
        z = self.dropout(x).relu().flatten(1) @ self.weight
        return z if self.outputs == 1 else [z.flatten(), z]


@pytest.fixture
def converter(monkeypatch):
    """Puts a stand-in for onnx2torch in place: converter(net), or an exception to raise."""

    def install(made):
        def convert(path):
            if isinstance(made, Exception):
                raise made
            return made

        monkeypatch.setitem(
            sys.modules, "onnx2torch", types.SimpleNamespace(convert=convert, __spec__=None)
        )

    return install


@pytest.mark.parametrize("batch", ["N", 2])
def test_gradients_of_a_converted_network(tmp_path, converter, batch):
    converter(Twin())
    path = linear(tmp_path / "m.onnx", [batch, *SHAPE], out=(batch, CLASSES))
    loaded, x = load_model(path, shape=SHAPE, mean=[0.5], std=[0.5]), samples(3)
    assert (loaded.info.access, loaded.info.extra) == ("gradient", {})
    goal = Goal(torch.tensor([0, 1, 2]))
    logits, _, found = Victim(loaded.module, 3).gradient(x, margin, goal)
    leaf = x.double().requires_grad_()
    own = expected((leaf - 0.5) / 0.5)
    (gradient,) = torch.autograd.grad(goal.margin(own).sum(), leaf)
    torch.testing.assert_close(found.double(), gradient, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.double(), own.detach(), atol=1e-4, rtol=0)
    assert not any(p.requires_grad for p in loaded.module.parameters())


def test_the_file_answers_wherever_no_gradient_is_wanted(tmp_path, converter):
    converter(Twin(off=5e-5))
    path, x = linear(tmp_path / "m.onnx", ["N", *SHAPE]), samples(3)
    module = load_model(path, shape=SHAPE).module
    (own,) = session(path).run(None, {"x": x.numpy()})
    assert torch.equal(module(x), torch.from_numpy(own))
    leaf = x.clone().requires_grad_()
    with torch.no_grad():
        assert torch.equal(module(leaf), torch.from_numpy(own))
    assert not torch.equal(module(leaf).detach(), torch.from_numpy(own))


def test_the_converted_output_is_the_one_that_is_read(tmp_path, converter):
    converter(Twin(outputs=2))
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["logits"]),
        helper.make_node("Reshape", ["logits", "all"], ["other"]),
    ]
    flat = onnx.numpy_helper.from_array(np.array([-1], dtype=np.int64), "all")
    outputs = [value("other", [None]), value("logits", ["N", CLASSES])]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["N", *SHAPE])], outputs, [weight(), flat])
    assert load_model(path, shape=SHAPE).info.access == "gradient"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (Twin(off=0.01), r"the converted network answers differently \(by \S+ of \S+\)"),
        (NotImplementedError("no Relu\nhere"), r"cannot convert it \(NotImplementedError: no Relu"),
        (nn.Flatten(), r"answers with shape \(6, 24\)"),
        (nn.Linear(2, 2), "cannot convert it .RuntimeError"),
    ],
)
def test_a_conversion_that_is_not_the_same(tmp_path, converter, made, why):
    converter(made)
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE])
    loaded, x = load_model(path, shape=SHAPE), samples(3)
    assert loaded.info.access == "scores"
    assert "\n" not in loaded.info.extra["gradient"]
    assert re.search(why, loaded.info.extra["gradient"])
    assert not loaded.module(x.requires_grad_()).requires_grad


def test_a_converter_that_is_broken(tmp_path, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "onnx2torch":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "onnx2torch")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    loaded = load_model(linear(tmp_path / "m.onnx", ["N", *SHAPE]), shape=SHAPE)
    assert loaded.info.extra["gradient"] == (
        "onnx2torch cannot be imported (RuntimeError: operator torchvision::nms does not exist)"
    )
