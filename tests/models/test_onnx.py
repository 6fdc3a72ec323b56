"""ONNX files: the answers are ONNX Runtime's, and the right output is read."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import (
    CLASSES,
    DTYPES,
    SHAPE,
    SIZE,
    WEIGHT,
    expected,
    linear,
    refuse,
    samples,
    save,
    session,
    value,
    weight,
)
from torch import nn

from robust.core.errors import RobustError
from robust.models import load_model

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_converter")


# Answers.


@pytest.mark.parametrize("kind", DTYPES)
def test_answers_are_those_of_onnx_runtime(tmp_path, kind):
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE], kind=kind)
    loaded, x = load_model(path, shape=SHAPE), samples(7)
    with torch.no_grad():
        found = loaded.module(x)
    (own,) = session(path).run(None, {"x": x.numpy().astype(DTYPES[kind][1])})
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(own).float())
    torch.testing.assert_close(
        found.double(), expected(x), atol=0.05 if kind == "float16" else 1e-5, rtol=0
    )
    info = loaded.info
    assert (info.kind, info.access, info.shape, info.num_classes) == ("onnx", "scores", SHAPE, 5)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.extra == {"gradient": "onnx2torch is not installed: pip install 'robust[onnx]'"}


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batches_take_any_number(tmp_path, batch):
    path = linear(tmp_path / "m.onnx", [batch, *SHAPE], out=(batch, CLASSES))
    module = load_model(path).module
    for n in (1, 4, 7):
        torch.testing.assert_close(
            module(samples(n)).double(), expected(samples(n)), atol=1e-5, rtol=0
        )


def test_normalisation_goes_inside(tmp_path):
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE])
    loaded, x = load_model(path, shape=SHAPE, mean=[0.1, 0.2], std=[0.5, 2.0]), samples(3)
    own = (x - torch.tensor([0.1, 0.2]).view(-1, 1, 1)) / torch.tensor([0.5, 2.0]).view(-1, 1, 1)
    torch.testing.assert_close(loaded.module(x).double(), expected(own), atol=1e-5, rtol=0)
    assert loaded.info.mean == (0.1, 0.2)


def test_the_file_is_known_by_its_content(tmp_path):
    path = linear(tmp_path / "model.bin", ["N", *SHAPE])
    assert load_model(path).info.kind == "onnx"


def test_threads_are_those_of_torch(tmp_path, monkeypatch):
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    module = load_model(path).module
    options = next(m for m in module.modules() if hasattr(m, "_session"))._session
    assert options.get_session_options().intra_op_num_threads == 3


# Outputs.


def several(path, names, kinds):
    """Outputs 1·x·W, 2·x·W, … under these names; "int64": the class."""
    nodes, outputs = [helper.make_node("MatMul", ["x", "w"], ["z"])], []
    for number, (name, kind) in enumerate(zip(names, kinds, strict=True), 1):
        if kind == "int64":
            nodes.append(helper.make_node("ArgMax", ["z"], [name], axis=1, keepdims=0))
            outputs.append(value(name, ["N"], TensorProto.INT64))
        elif kind == "column":
            nodes.append(helper.make_node("ReduceSum", ["z", "one"], [name], keepdims=0))
            outputs.append(value(name, ["N"]))
        else:
            nodes.append(helper.make_node("Mul", ["z", f"by{number}"], [name]))
            outputs.append(value(name, ["N", CLASSES]))
    weights = [weight(), onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "one")]
    weights += [
        onnx.numpy_helper.from_array(np.float32(n), f"by{n}") for n in range(1, len(names) + 1)
    ]
    return save(path, nodes, [value("x", ["N", SIZE])], outputs, weights)


@pytest.mark.parametrize(
    ("names", "kinds", "factor"),
    [
        (("features", "logits"), ("float", "float"), 2),
        (("a", "b"), ("float", "float"), 1),
        (("loss", "b"), ("column", "float"), 2),
        (("label", "scores"), ("int64", "float"), 2),
    ],
)
def test_the_output_that_is_read(tmp_path, names, kinds, factor):
    loaded, x = load_model(several(tmp_path / "m.onnx", names, kinds)), samples(4, (SIZE,))
    own = factor * (x.double() @ torch.from_numpy(WEIGHT))
    torch.testing.assert_close(loaded.module(x).double(), own, atol=1e-4, rtol=0)
    assert (loaded.info.access, loaded.info.num_classes) == ("scores", CLASSES)


def test_labels_in_a_column(tmp_path):
    for dims, keep in ((["N", 1], 1), (["N", 3], 0)):
        node = helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=keep)
        path = save(
            tmp_path / "m.onnx",
            [node],
            [value("x", ["N", 4] if keep else ["N", 4, 3])],
            [value("y", dims, TensorProto.INT64)],
        )
        if keep:
            x = samples(5, (4,))
            own = nn.functional.one_hot(x.argmax(1), 4).float()
            assert torch.equal(load_model(path, num_classes=4).module(x), own)
        else:
            refuse(path, r"gives labels of shape \([12], 3\)", num_classes=4)


def test_labels_become_one_hot(tmp_path):
    path, x = several(tmp_path / "m.onnx", ["label"], ["int64"]), samples(6, (SIZE,))
    loaded = load_model(path, num_classes=7)
    own = (x.double() @ torch.from_numpy(WEIGHT)).argmax(1)
    assert torch.equal(loaded.module(x), nn.functional.one_hot(own, 7).float())
    assert (loaded.info.access, loaded.info.num_classes) == ("labels", 7)
    refuse(path, "say how many classes there are")
    refuse(path, "labels, not with probabilities", num_classes=7, probabilities=True)
    with pytest.raises(RobustError, match=r"gives the label [1-4], but there are 1 classes"):
        load_model(path, num_classes=1).module(samples(50, (SIZE,)))


def test_dimensions_of_1_behind_the_classes(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        [value("x", ["N", 3, 4, 4])],
        [value("y", ["N", 3, 1, 1])],
    )
    loaded, x = load_model(path, num_classes=9), samples(2, (3, 4, 4))
    torch.testing.assert_close(loaded.module(x), x.mean((2, 3)))
    assert loaded.info.num_classes == 3  # what there is
    column = [helper.make_node("ReduceSum", ["x"], ["y"], axes=[1])]
    save(path, column, [value("x", ["N", 4])], [value("y", ["N", 1])], opset=11)
    assert load_model(path).module(samples(3, (4,))).shape == (3, 1)


def test_probabilities_become_logits(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    path = save(
        tmp_path / "m.onnx", nodes, [value("x", ["N", SIZE])], [value("p", ["N", 5])], [weight()]
    )
    x = samples(4, (SIZE,)) / 10
    found = load_model(path, probabilities=True).module(x)
    own = (x.double() @ torch.from_numpy(WEIGHT)).log_softmax(1)
    torch.testing.assert_close(found.double(), own, atol=1e-5, rtol=0)


# A file as published, beside the repository.

BENCH = Path(__file__).resolve().parents[3] / "shared" / "bench"


@pytest.mark.skipif(
    not (BENCH / "reference.json").is_file(), reason=f"no models to measure on at {BENCH}"
)
def test_a_published_file_has_its_clean_accuracy():
    name = "cifar_base_kw.onnx"
    spec = json.loads((BENCH / "reference.json").read_text())["models"][name]
    loaded = load_model(
        BENCH / "models" / name, mean=spec["mean"], std=spec["std"], shape=spec["shape"]
    )
    with np.load(BENCH / "data" / spec["data"]) as data:
        x, y = torch.from_numpy(data["x"]).float() / 255, torch.from_numpy(data["y"])
    assert (loaded.module(x).argmax(1) == y).sum() == round(spec["clean"] * spec["n"])
    assert (loaded.info.access, loaded.info.num_classes) == ("scores", 10)
