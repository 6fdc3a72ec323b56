"""ONNX files: the answers are ONNX Runtime's, shapes are matched, bad files end in one line."""

import hashlib
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.losses import margin
from robust.core.victim import Victim
from robust.models import load_model, read_weights

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


@pytest.fixture(autouse=True)
def no_converter(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)


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


# Shapes.


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


# Refusals.


def test_inputs_and_outputs_that_cannot_be_used(tmp_path):
    path, x, y = tmp_path / "m.onnx", value("x", ["N", 3]), value("y", ["N", 3])
    add = [helper.make_node("Add", ["x", "z"], ["y"])]
    save(path, add, [x, value("z", ["N", 3])], [y])
    refuse(path, r"must take one input, not 2 \(x, z\)")
    cast = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    save(path, cast, [value("x", ["N", 3], TensorProto.UINT8)], [y])
    refuse(path, r"takes tensor\(uint8\); only floats")
    cast = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)]
    save(path, cast, [x], [value("y", ["N", 3], TensorProto.STRING)])
    refuse(path, r"neither scores nor labels \(y: tensor\(string\)\)")


def test_newer_than_the_runtime(tmp_path):
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE], opset=99)
    refuse(path, r"has opset 99, and this ONNX Runtime \(.*\) reads up to \d+: upgrade")
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE], ir=50)
    refuse(path, r"has IR version 50, and this ONNX Runtime \(.*\) reads up to \d+: upgrade")


def test_custom_operators(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Foo", ["x"], ["y"], domain="somebodys")],
        [value("x", ["N", 3])],
        [value("y", ["N", 3])],
        domains=["somebodys"],
    )
    refuse(path, r"cannot be loaded: .*somebodys:Foo")


def test_damaged_files(tmp_path):
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE])
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        refuse(path, "is empty" if size == 0 else "is damaged or incomplete|cannot be loaded|shape")
    broken = 0
    for place in RNG.integers(len(whole), size=60):
        changed = bytearray(whole)
        changed[place] ^= 0x15
        path.write_bytes(changed)
        try:
            load_model(path)
        except RobustError as error:
            broken += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert broken > 0
    entry = b"\x0a\x08location"
    for content in (b"location", entry + b"\x08\x80", entry + b"\xff" * 11):
        path.write_bytes(content)
        refuse(path, "is damaged or incomplete")


@pytest.mark.parametrize("name", [b"logits", b"Size", b"Relu"])
def test_a_name_that_is_no_text(tmp_path, capfd, name):
    path = linear(tmp_path / "m.onnx", ["Size", *SHAPE])
    path.write_bytes(path.read_bytes().replace(name, b"\xff" * len(name)))
    refuse(path, "is damaged or incomplete")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [10**12, 2**62, -5, 3])
def test_a_tensor_that_is_not_as_large_as_declared(tmp_path, columns):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, raw_data=b"1234")
    tensor.dims.extend([3, columns])
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["N", 3])],
        [value("y", ["N", None])],
        [tensor],
    )
    refuse(path, "cannot be loaded")


def test_an_answer_that_does_not_fit_memory(tmp_path):
    size = onnx.numpy_helper.from_array(np.array([3, 2**50], dtype=np.int64), "size")
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("ConstantOfShape", ["size"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [value("x", ["N", 3])],
        [value("y", ["N", None])],
        [size],
    )
    refuse(path, "memory")


def test_other_options_for_other_formats(tmp_path):
    path = linear(tmp_path / "m.onnx", ["N", *SHAPE])
    refuse(path, "an ONNX file, which has its network inside: drop --arch", arch="mlp")
    with pytest.raises(RobustError, match="is an ONNX file; weights are read from state dicts"):
        read_weights(path)


# Weights in other files.


def external(path, location, where="initializer"):
    """A model whose weights lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT)
    tensor.dims.extend(WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"])]
    weights = [tensor]
    if where == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        weights = []
    elif where == "branch":
        out = [value("logits", ["N", CLASSES])]
        branch = helper.make_graph(nodes, "branch", [], out, weights)
        yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("", 9, [], [True]))
        chosen = helper.make_node("If", ["yes"], ["logits"], then_branch=branch, else_branch=branch)
        nodes, weights = [yes, chosen], []
    more = {}
    if where == "sparse":
        indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 1])
        weights, more = [], {"sparse": [helper.make_sparse_tensor(tensor, indices, [2])]}
    elif where == "function":
        constant = helper.make_node("Constant", [], ["w"], value=tensor)
        opset = [helper.make_opsetid("", 15)]
        function = helper.make_function("f", "F", [], ["w"], [constant], opset)
        weights, more = [], {"functions": [function]}
    inputs, outputs = [value("x", ["N", SIZE])], [value("logits", ["N", CLASSES])]
    return save(path, nodes, inputs, outputs, weights, **more)


def test_weights_beside_the_file(tmp_path):
    path = external(tmp_path / "m.onnx", "weights.bin")
    refuse(path, r"keeps weights in 'weights\.bin', and there is no such file")
    (tmp_path / "weights.bin").write_bytes(WEIGHT.astype(np.float32).tobytes())
    loaded, x = load_model(path), samples(3, (SIZE,))
    own = x.double() @ torch.from_numpy(WEIGHT)
    torch.testing.assert_close(loaded.module(x).double(), own, atol=1e-5, rtol=0)
    (tmp_path / "weights.bin").write_bytes((WEIGHT + 1).astype(np.float32).tobytes())
    assert load_model(path).info.sha256 != loaded.info.sha256  # another model


@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "sparse", "function"])
def test_weights_outside_the_folder(tmp_path, where, monkeypatch):
    import onnxruntime

    def loaded(*args, **options):
        raise AssertionError("it must be refused before anything follows the name")

    monkeypatch.setattr(onnxruntime, "InferenceSession", loaded)
    inner = tmp_path / "inner"
    inner.mkdir()
    secret = tmp_path / "weights.bin"
    secret.write_bytes(WEIGHT.astype(np.float32).tobytes())
    (inner / "link.bin").symlink_to(secret)
    for name in ("../weights.bin", str(secret), "link.bin", "../inner/../weights.bin"):
        path = external(inner / "m.onnx", name, where)
        refuse(path, "outside its own folder; such files are not read")
    path = external(inner / "m.onnx", "*/_ORT_MEM_ADDR_/*", where)  # an address, for some versions
    refuse(path, "there is no such file")


# Gradients.


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
