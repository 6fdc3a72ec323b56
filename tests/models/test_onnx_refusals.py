"""ONNX files that are bad, or keep weights elsewhere, end in one line."""

import numpy as np
import pytest
import torch
from onnx_files import CLASSES, RNG, SHAPE, SIZE, WEIGHT, linear, refuse, samples, save, value

from robust.core.errors import RobustError
from robust.models import load_model, read_weights

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_converter")


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
