"""ONNX files: shapes are matched."""

import numpy as np
import pytest
import torch
from onnx_files import (
    CLASSES,
    SHAPE,
    SIZE,
    WEIGHT,
    expected,
    linear,
    refuse,
    samples,
    save,
    value,
    weight,
)

from robust.models import load_model

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_converter")


def test_a_flat_input(tmp_path):
    for name, dims in (("a", ["N", SIZE]), ("b", [1, SIZE, 1]), ("c", ["N", "size"])):
        flatten = len(dims) == 3
        path = linear(tmp_path / f"{name}.onnx", dims, flatten=flatten)
        loaded = load_model(path, shape=SHAPE)
        torch.testing.assert_close(
            loaded.module(samples(3)).double(), expected(samples(3)), atol=1e-5, rtol=0
        )
        assert loaded.info.shape == SHAPE
        assert loaded.info.extra["layout"].startswith("reshaped to (24,")


@pytest.mark.parametrize("size", [4, "h"])
def test_channels_last(tmp_path, size):
    path = linear(tmp_path / "m.onnx", ["N", size, 3, 2])
    loaded, x = load_model(path, shape=SHAPE), samples(3)
    own = expected(x.permute(0, 2, 3, 1))
    torch.testing.assert_close(loaded.module(x).double(), own, atol=1e-5, rtol=0)
    assert loaded.info.shape == SHAPE
    assert loaded.info.extra["layout"] == "channels last"


def test_channels_last_is_seen_without_a_shape(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)],
        [value("x", ["N", 6, 5, 3])],
        [value("y", ["N", 3])],
    )
    loaded, x = load_model(path), samples(2, (3, 6, 5))
    assert loaded.info.shape == (3, 6, 5)
    torch.testing.assert_close(loaded.module(x), x.mean((2, 3)), atol=1e-6, rtol=0)


def test_without_a_dimension_for_the_batch(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "row"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["z"]),
        helper.make_node("Reshape", ["z", "col"], ["y"]),
    ]
    sizes = [
        onnx.numpy_helper.from_array(np.array(v, dtype=np.int64), n)
        for n, v in (("row", [1, -1]), ("col", [-1, 1]))
    ]
    x = samples(3)
    for dims in ([SIZE, 1], list(SHAPE)):
        path = save(
            tmp_path / "m.onnx",
            nodes,
            [value("x", dims)],
            [value("y", [CLASSES, 1])],
            [weight(), *sizes],
        )
        loaded = load_model(path, shape=SHAPE)
        own = x.double().flatten(1) @ torch.from_numpy(WEIGHT)
        torch.testing.assert_close(loaded.module(x).double(), own, atol=1e-5, rtol=0)
        assert loaded.info.extra["layout"].startswith("no batch")

    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], keepdims=1)]
    path = save(tmp_path / "m.onnx", nodes, [value("x", [7])], [value("y", [1])])
    loaded = load_model(path)
    assert loaded.info.shape == (7,)
    assert torch.equal(loaded.module(torch.ones(3, 7)), torch.ones(3))


@pytest.mark.parametrize("where", ["input", "output"])
def test_a_batch_size_baked_into_the_graph(tmp_path, where):
    sizes = {"input": ([1, SIZE], [-1, CLASSES]), "output": ([-1, SIZE], [1, -1])}[where]
    nodes = [
        helper.make_node("Reshape", ["x", "a"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["z"]),
        helper.make_node("Reshape", ["z", "b"], ["logits"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array(v, dtype=np.int64), n)
        for n, v in zip("ab", sizes, strict=True)
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [value("x", ["N", *SHAPE])],
        [value("logits", ["N", None])],
        [weight(), *constants],
    )
    own = samples(3).double().flatten(1) @ torch.from_numpy(WEIGHT)
    found = load_model(path, shape=SHAPE).module(samples(3))
    torch.testing.assert_close(found.double(), own, atol=1e-5, rtol=0)


def test_a_shape_that_does_not_fit(tmp_path):
    path = linear(tmp_path / "m.onnx", ["N", 2, "h", 3])
    refuse(path, r"takes samples of shape \(2, \?, 3\), not \(1, 8, 8\)$", shape=(1, 8, 8))
    path = linear(tmp_path / "m.onnx", [1, *SHAPE])
    refuse(path, r"takes samples of shape \(2, 4, 3\), not \(25,\)$", shape=(25,))
    assert load_model(path, shape=(SIZE,)).info.shape == (SIZE,)  # the same values, flat
    refuse(path, r"takes samples of shape \(2, 4, 3\), not \(3, 8\)$", shape=(3, 8))


def test_an_unknown_shape_is_left_open(tmp_path):
    loaded = load_model(linear(tmp_path / "m.onnx", ["N", 2, "h", "w"]))
    assert loaded.info.shape is None
    assert loaded.info.num_classes is None
    torch.testing.assert_close(
        loaded.module(samples(3)).double(), expected(samples(3)), atol=1e-5, rtol=0
    )


def test_any_number_of_dimensions(tmp_path):
    path = linear(tmp_path / "m.onnx", None)
    loaded = load_model(path, shape=SHAPE)
    torch.testing.assert_close(
        loaded.module(samples(3)).double(), expected(samples(3)), atol=1e-5, rtol=0
    )
    assert load_model(path).info.shape is None


def test_a_graph_that_does_not_take_its_own_shape(tmp_path):
    path = linear(tmp_path / "m.onnx", ["N", 2, "h", "w"])
    refuse(path, r"fails on an input of shape \(1, 2, 5, 5\): .*mismatch", shape=(2, 5, 5))
