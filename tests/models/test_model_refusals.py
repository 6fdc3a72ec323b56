"""Bad input: one clear line each, and nothing of it is executed."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from model_nets import SHAPE, small, write_factories
from safetensors.torch import save_file
from torch import nn

from robust.core.errors import RobustError
from robust.models import build, load_model, read_weights, save_checkpoint


def refuse(path, match, **options):
    with pytest.raises(RobustError, match=match) as caught:
        load_model(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Malicious:
    """Pickled, it creates a file when it is loaded."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return Path.touch, (Path(self.trace),)


@pytest.fixture
def trace(tmp_path):
    """The file that a malicious one would create; a control shows that it could."""
    file = tmp_path / "executed"
    pickle.loads(pickle.dumps(Malicious(file)))
    assert file.exists()
    file.unlink()
    yield file
    assert not file.exists()


# Pickles.


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [False, True])
def test_malicious_pickle(tmp_path, trace, zipped, nested):
    path, bad = tmp_path / "m.pt", Malicious(trace)
    content = {"state_dict": {**small().state_dict(), "x": bad}} if nested else bad
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refuse(path, "--trust-pickle", arch="mlp", shape=SHAPE, num_classes=10)
    assert "runs code" in message
    with pytest.raises(RobustError, match="--trust-pickle"):
        read_weights(path)


def test_malicious_bare_pickle(tmp_path, trace):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Malicious(trace)))
    refuse(tmp_path / "m.pkl", "--trust-pickle")


def test_malicious_pickle_in_a_torchscript_zip(tmp_path, trace):
    path = tmp_path / "m.ts"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py.debug_pkl"):
            archive.writestr(f"m/{name}", pickle.dumps(Malicious(trace), protocol=2))
        archive.writestr("m/code/__torch__.py", "")
        archive.writestr("m/version", "3\n")
    refuse(path, "TorchScript")


def test_trusting_runs_it(tmp_path):
    torch.save(Malicious(tmp_path / "executed"), tmp_path / "m.pt")
    refuse(tmp_path / "m.pt", "holds NoneType, not a state dict", trust_pickle=True)
    assert (tmp_path / "executed").exists()


def test_pickled_module_is_refused(tmp_path):
    torch.save(small(), tmp_path / "m.pt")
    message = refuse(tmp_path / "m.pt", "--trust-pickle")
    assert "torch.nn.modules.container.Sequential" in message


def test_numpy_scalars_are_named(tmp_path):
    torch.save({"state_dict": small().state_dict(), "acc": np.float64(0.5)}, tmp_path / "m.pt")
    refuse(tmp_path / "m.pt", r"holds numpy\.\S*scalar, not only tensors")


# TorchScript.


class Writes(nn.Module):
    def __init__(self, file):
        super().__init__()
        self.file: str = file

    def forward(self, x: torch.Tensor):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.file, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.file = state[0]
        self.training = state[1]
        torch.save(1, state[0])


def test_torchscript_that_writes_a_file_while_loading(tmp_path, trace):
    path = tmp_path / "m.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes(str(trace))), path)
        torch.jit.load(path)
    assert trace.exists()  # torch itself
    trace.unlink()
    refuse(path, "'save', which could reach files")


@pytest.mark.parametrize(
    "code",
    [
        b'x.from_file("f")',
        b'torch . save(x, "f")',
        b'getattr(torch, "sa" "ve")(x, "f")',
        b'getattr(x, "s\\x61ve")("f")',
        b"ops.evil.run(x)",
    ],
)
def test_torchscript_code_that_reaches_files(tmp_path, code):
    path = tmp_path / "m.ts"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/code/__torch__.py", code)
    refuse(path, "could reach files")


# torch.export.


@pytest.fixture
def archive(tmp_path):
    """Rewrites members of an exported program: archive(edit) → path."""
    source = tmp_path / "source.pt2"
    program = torch.export.export(small(), (torch.rand(2, *SHAPE),))
    torch.export.save(program, source)

    def rewrite(edit):
        with zipfile.ZipFile(source) as old:
            members = {n.partition("/")[2]: old.read(n) for n in old.namelist()}
        edit(members)
        path = tmp_path / "m.pt2"
        with zipfile.ZipFile(path, "w") as new:
            for name, data in members.items():
                new.writestr(f"m/{name}", data)
        return path

    return rewrite


def edit_json(members, name, change):
    document = json.loads(members[name])
    change(document)
    members[name] = json.dumps(document)


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def test_the_archive_as_rewritten_is_fine(archive):
    assert load_model(archive(lambda members: None)).info.num_classes == 10


def test_exported_sample_inputs_are_not_read(archive, trace):
    bad = saved(Malicious(trace))
    load_model(archive(lambda m: m.update({"data/sample_inputs/model.pt": bad})))


def test_exported_guards_and_expressions_are_not_evaluated(archive, trace):
    code = f"__import__('pathlib').Path({str(trace)!r}).touch()"

    def change(document):
        document["guards_code"] = [f"{code} is None"]
        graph = document["graph_module"]["graph"]
        for value in graph["tensor_values"].values():
            value["sizes"][:1] = [{"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}]

    load_model(archive(lambda m: edit_json(m, MODEL, change)))


def test_exported_pickled_weights_are_refused(archive, trace):
    def change(members):
        members["data/weights/weight_0"] = saved(Malicious(trace))
        edit_json(members, WEIGHTS, lambda d: d["config"]["0.weight"].update(use_pickle=True))

    refuse(archive(change), "stored as a pickle")


def test_exported_legacy_weights_are_read_without_code(archive, trace):
    refuse(
        archive(lambda m: m.update({"data/weights/model.pt": saved(Malicious(trace))})), "pickled"
    )


def test_exported_custom_objects_are_refused(archive, trace):
    def change(members):
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
        members["data/constants/opaque_obj_0"] = pickle.dumps(Malicious(trace))
        edit_json(
            members,
            "data/constants/model_constants_config.json",
            lambda d: d["config"].update(x={**entry, "tensor_meta": None}),
        )

    refuse(archive(change), "stored as a pickle")


def test_exported_compiled_code_is_refused(archive):
    refuse(archive(lambda m: m.update({"data/aotinductor/model/m.so": b""})), "compiled code")


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.higher_order.cond",
        "torch.hub.load",
        "torch.ops.aten.__class__.mro",
        "math.__loader__",
    ],
)
def test_exported_operators_outside_the_list_are_refused(archive, target):
    def change(document):
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    refuse(archive(lambda m: edit_json(m, MODEL, change)), f"uses {target}")


def test_exported_out_of_bounds_weights_are_refused(archive):
    def change(document):
        document["config"]["0.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 10}

    refuse(archive(lambda m: edit_json(m, WEIGHTS, change)), "damaged torch.export archive")


def test_exported_of_another_schema(archive):
    change = lambda d: d["schema_version"].update(major=9)  # noqa: E731
    refuse(archive(lambda m: edit_json(m, MODEL, change)), "schema version is 9")


def test_exported_in_training_mode(tmp_path):
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(small().train(), (torch.rand(2, *SHAPE),)), path)
    refuse(path, r"training mode; call \.eval\(\)")
    program = torch.export.export(nn.Sequential(nn.Dropout(0.5)), (torch.rand(2, *SHAPE),))
    torch.export.save(program, path)
    refuse(path, "training mode")


def test_archives_have_their_network_inside(tmp_path, archive):
    path = archive(lambda members: None)
    refuse(path, "drop --arch", arch="mlp")
    refuse(path, r"takes samples of shape \(1, 8, 8\), not \(3, 8, 8\)", shape=(3, 8, 8))


# Files that are no models.


def png():
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


def plain_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (png(), "is not a model file"),
        (npz(), "NumPy archive: data, not a model"),
        (plain_zip(), "zip archive, but not a model"),
        (b"just text, longer than a header\n", "is not a model file"),
        (b"\x08\x07\x12\x07pytorch\x1a\x03", "damaged or incomplete, or no ONNX file"),
        (b"\x80\x02garbage that is no pickle", "damaged or incomplete"),
        (b"PK\x03\x04garbage", "damaged or incomplete"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "damaged or incomplete"),
        (saved([1, 2]), "holds list, not a state dict"),
        (saved(torch.zeros(2)), "holds one tensor"),
        (saved({"epoch": 3}), r"no tensors among its entries \(epoch\)"),
        (saved({}), r"no tensors among its entries \(none\)"),
    ],
)
def test_not_a_model(tmp_path, content, match):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    refuse(path, match)


def test_no_such_file_directory_onnx(tmp_path):
    refuse(tmp_path / "absent.pt", "cannot be read: No such file")
    refuse(tmp_path, "is a directory")
    (tmp_path / "m.onnx").write_bytes(b"anything at all, really")
    refuse(tmp_path / "m.onnx", "damaged or incomplete, or no ONNX file")


@pytest.mark.parametrize("kind", ["checkpoint", "legacy", "safetensors", "torchscript", "export"])
def test_truncated(tmp_path, kind):
    path, net = tmp_path / "m.pt2", small()
    if kind == "checkpoint":
        save_checkpoint(path, net, arch="mlp", shape=SHAPE, num_classes=10)
    elif kind == "legacy":
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        save_file(net.state_dict(), path)
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(net), path)
    else:
        torch.export.save(torch.export.export(net, (torch.rand(2, *SHAPE),)), path)
    whole = path.read_bytes()
    for part in (0.2, 0.5, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        refuse(path, "damaged or incomplete", **({"arch": "mlp"} if kind == "safetensors" else {}))


# State dicts and checkpoints.


def test_state_dict_without_arch(tmp_path):
    torch.save(small().state_dict(), tmp_path / "m.pt")
    message = refuse(tmp_path / "m.pt", "pass --arch NAME")
    assert "small-cnn" in message
    assert "--arch file.py:factory" in message


def test_state_dict_that_does_not_fit(tmp_path):
    state = build("mlp", (4,), 2).state_dict()
    path, options = tmp_path / "m.pt", {"arch": "mlp", "shape": (4,), "num_classes": 2}
    torch.save({k: v for k, v in state.items() if k == "1.bias"} | {"a.b": torch.zeros(1)}, path)
    message = refuse(
        path, r"5 missing: 1\.weight, 3\.weight, 3\.bias, …; 1 unexpected: a\.b", **options
    )
    assert "another shape" not in message
    torch.save(state, path)
    refuse(
        path,
        r"1 of another shape: 1\.weight is \(128, 4\) and should be \(128, 5\)$",
        **{**options, "shape": (5,)},
    )
    refuse(path, "the shape of one sample is needed to build mlp", arch="mlp")
    refuse(path, "no architecture 'nlp'; there are small-cnn, mlp", arch="nlp")
    refuse(path, "mean must|std", **options, mean=[0.0], std=[-1.0])


def test_checkpoint_versions_and_damage(tmp_path):
    path = tmp_path / "m.pt"
    save_checkpoint(path, build("mlp", (4,), 2), arch="mlp", shape=(4,), num_classes=2)
    content = torch.load(path, weights_only=True)
    for change, match in (
        ({"version": 3}, "newer robust .checkpoint version 3; this one reads up to 2"),
        ({"version": "1"}, "damaged checkpoint: its version"),
        ({"shape": [4, "x"]}, "damaged checkpoint: its 'shape'"),
        ({"state_dict": None}, "damaged checkpoint: its 'state_dict'"),
        ({"arch": "resnet9"}, "pass --arch resnet9"),
    ):
        torch.save(content | change, path)
        refuse(path, match)
    torch.save(content, path)
    refuse(path, r"takes samples of shape \(4,\), not \(5,\)", shape=(5,))


def test_a_checkpoint_cannot_run_the_file_it_names(tmp_path, trace):
    file, path = tmp_path / "evil.py", tmp_path / "m.pt"
    file.write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()")
    net = build("mlp", (4,), 2)
    save_checkpoint(path, net, arch="mlp", shape=(4,), num_classes=2)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"arch": f"{file}:net"}, path)
    refuse(path, r"\(this runs that file\)")


def test_a_checkpoint_holds_json_only(tmp_path):
    with pytest.raises(RobustError, match="must be JSON"):
        save_checkpoint(
            tmp_path / "m.pt", small(), arch="mlp", shape=(1,), num_classes=1, extra={"x": {1}}
        )
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_take_the_shape(tmp_path):
    torch.save(small(), tmp_path / "m.pt")
    refuse(
        tmp_path / "m.pt",
        r"does not take samples of shape \(3, 8, 8\)",
        shape=(3, 8, 8),
        trust_pickle=True,
    )


# Factories in files.


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("needs_more", "needs a value for 'depth'"),
        ("fails", r"archs\.py:fails failed: ValueError: no such width$"),
        ("exits", "SystemExit: bye"),
        ("no_module", "returned list, not a torch.nn.Module"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_factories(tmp_path, name, match):
    with pytest.raises(RobustError, match=match):
        build(f"{write_factories(tmp_path)}:{name}", SHAPE, 10)


def test_factory_files(tmp_path):
    with pytest.raises(RobustError, match="no file"):
        build(f"{tmp_path}/absent.py:net", SHAPE, 10)
    (tmp_path / "broken.py").write_text("def net(:\n")
    with pytest.raises(RobustError, match=r"broken\.py cannot be imported: SyntaxError"):
        build(f"{tmp_path}/broken.py:net", SHAPE, 10)
