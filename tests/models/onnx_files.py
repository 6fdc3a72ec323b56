"""ONNX files that the tests make, and what they should answer."""

import numpy as np
import pytest
import torch

from robust.core.errors import RobustError
from robust.models import load_model

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

SHAPE, CLASSES = (2, 4, 3), 5
SIZE = 24
DTYPES = {
    "float32": (TensorProto.FLOAT, np.float32),
    "float64": (TensorProto.DOUBLE, np.float64),
    "float16": (TensorProto.FLOAT16, np.float16),
}
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(SIZE, CLASSES))


def value(name, dims, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def save(path, nodes, inputs, outputs, weights=(), opset=15, ir=8, domains=(), **more):
    sparse = more.pop("sparse", None)
    graph = helper.make_graph(
        nodes, "graph", inputs, outputs, list(weights), sparse_initializer=sparse
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, **more)
    model.ir_version = ir
    path.write_bytes(model.SerializeToString())
    return path


def weight(kind="float32", matrix=WEIGHT, name="w"):
    return onnx.numpy_helper.from_array(matrix.astype(DTYPES[kind][1]), name)


def linear(path, dims, *, kind="float32", out=("N", CLASSES), flatten=True, **options):
    """relu(x)·W of the flattened input."""
    tensor, _ = DTYPES[kind]
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    nodes += [helper.make_node("Flatten", ["r"], ["f"])] if flatten else []
    nodes += [helper.make_node("MatMul", ["f" if flatten else "r", "w"], ["logits"])]
    outputs = [value("logits", list(out), tensor)]
    return save(path, nodes, [value("x", dims, tensor)], outputs, [weight(kind)], **options)


def samples(n, shape=SHAPE, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def expected(x):
    """What `linear` computes, in float64."""
    return x.double().relu().flatten(1) @ torch.from_numpy(WEIGHT)


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def refuse(path, match, **options):
    with pytest.raises(RobustError, match=match) as caught:
        load_model(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "onnxruntime_src" not in message
    return message
