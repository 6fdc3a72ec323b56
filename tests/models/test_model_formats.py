"""Every format: the same logits and the same gradient to the input as the network saved."""

import collections
import hashlib
import json
import math
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from model_nets import SHAPE, answers, assert_same, small, write_factories
from safetensors.torch import save_file
from torch import nn

from robust.core.errors import RobustError
from robust.models import Standardise, build, in_memory, load_model, read_weights, save_checkpoint

ARCH_FILE = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10),
    )
"""
X = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def arch(tmp_path):
    file = tmp_path / "arch_small.py"
    file.write_text(ARCH_FILE)
    return f"{file}:small"


def export(net, path, batch=None, like=X):
    dim = {0: torch.export.Dim("batch", min=1)} if batch is None else {}
    example = like[: batch or 2]
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=(dim,)), path)


def script(net, path, trace=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, X[:2]) if trace else torch.jit.script(net), path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model_state_dict": s, "optimizer": {"state": {}, "lr": 0.1}},
        lambda s: {"model": s},
        lambda s: {"net": {f"module.{k}": v for k, v in s.items()}, "acc": 0.5},
        lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    ],
    ids=["plain", "state_dict", "model_state_dict", "model", "net+module", "compiled"],
)
def test_state_dict(tmp_path, arch, wrap, zipped):
    net, path = small(), tmp_path / "weights.bin"
    torch.save(wrap(net.state_dict()), path, _use_new_zipfile_serialization=zipped)
    loaded = load_model(path, arch=arch)
    assert loaded.info.kind == "state-dict"
    assert_same(loaded.module, net, X)
    assert read_weights(path).keys() == net.state_dict().keys()


def test_safetensors(tmp_path, arch):
    net, path = small(), tmp_path / "weights"
    save_file(net.state_dict(), path)
    loaded = load_model(path, arch=arch)
    assert loaded.info.kind == "safetensors"
    assert_same(loaded.module, net, X)
    assert read_weights(path).keys() == net.state_dict().keys()


@pytest.mark.parametrize("trace", [True, False], ids=["trace", "script"])
def test_torchscript(tmp_path, trace):
    net, path = small(), tmp_path / "model.pt"
    script(net if trace else small().train(), path, trace)
    loaded = load_model(path)
    assert loaded.info.kind == "torchscript"
    assert not loaded.module.net.training
    assert not any(p.requires_grad for p in loaded.module.parameters())
    assert_same(loaded.module, net, X)


def test_exported(tmp_path):
    net, path = small(), tmp_path / "model.bin"
    with path.open("wb") as file:
        export(net, file)
    loaded = load_model(path)
    assert (loaded.info.kind, loaded.info.shape) == ("torch.export", SHAPE)
    assert (loaded.info.num_classes, loaded.info.parameters) == (10, 698)
    assert_same(loaded.module, net, X)
    assert_same(loaded.module, net, X[:1])
    with pytest.raises(RobustError, match=r"takes \(n, 1, 8, 8\), and the input is \(2, 1, 9, 9\)"):
        loaded.module(torch.zeros(2, 1, 9, 9))


class Reshapes(nn.Module):
    """Sizes as numbers in the graph, several outputs of one operator, a constant, a device."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        n = x.shape[0]
        a, b = x.reshape(n * 2, 32).view(n, -1).chunk(2, dim=1)
        x = torch.cat([b, a], 1) + torch.arange(64, device=x.device) / 64
        x = x.to(torch.float64).to(torch.float32) * torch.tensor([2.0])
        return {"features": x, "logits": self.head(x).clamp(max=1.5), "n": x.new_zeros(n + 1)}


def test_exported_sizes_and_dicts(tmp_path):
    net, path = Reshapes().eval(), tmp_path / "model.pt2"
    export(net, path)
    reference = nn.Module()
    reference.forward = lambda x: net(x)["logits"]
    assert_same(load_model(path).module, reference, X)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_exported_with_a_fixed_batch(tmp_path, batch):
    net, path = small(), tmp_path / "model.pt2"
    export(net, path, batch=batch, like=torch.cat([X, X]))
    # Chunks may take another path through the convolutions: not bit for bit.
    assert_same(load_model(path).module, net, X, atol=1e-5)


def test_exported_by_torch_2_6(tmp_path):
    """The layout before archives: one folder of JSON and torch.save files, no prefix."""
    net, new, old = small(), tmp_path / "new.pt2", tmp_path / "old.pt2"
    export(net, new)
    with zipfile.ZipFile(new) as archive, zipfile.ZipFile(old, "w") as out:
        out.writestr("version", "8.4")
        out.writestr("serialized_exported_program.json", archive.read("new/models/model.json"))
        for name, value in (("state_dict", net.state_dict()), ("constants", {})):
            torch.save(value, tmp_path / "part")
            out.write(tmp_path / "part", f"serialized_{name}.pt")
    assert_same(load_model(old).module, net, X)


@pytest.mark.parametrize("inside", [False, True])
def test_pickled_module(tmp_path, inside):
    net, path = small().train(), tmp_path / "model.pt"
    torch.save({"model": net, "epoch": 1} if inside else net, path)
    loaded = load_model(path, trust_pickle=True, shape=SHAPE)
    assert (loaded.info.kind, loaded.info.num_classes) == ("pickled-module", 10)
    assert_same(loaded.module, small(), X)


def test_checkpoint(tmp_path):
    torch.manual_seed(0)
    net, path = build("small-cnn", SHAPE, 10), tmp_path / "m.pt"
    data, threat = {"source": "digits", "split": [0, 1]}, {"norm": "linf", "eps": 0.1}
    save_checkpoint(
        path,
        net,
        arch="small-cnn",
        shape=SHAPE,
        num_classes=10,
        classes=[f"digit {i}" for i in range(10)],
        mean=[0.25],
        std=[0.5],
        data=data,
        threat=threat,
        extra={"clean": 0.5},
    )
    loaded = load_model(path)
    assert_same(loaded.module, Standardise(net, [0.25], [0.5]), X)
    assert not loaded.module.training
    assert not any(p.requires_grad for p in loaded.module.parameters())
    info = loaded.info
    assert (info.kind, info.arch, info.shape) == ("robust-checkpoint", "small-cnn", SHAPE)
    assert (info.mean, info.std, info.classes[3]) == ((0.25,), (0.5,), "digit 3")
    assert (info.data, info.threat, info.extra) == (data, threat, {"clean": 0.5})
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.parameters == sum(p.numel() for p in net.parameters())
    assert json.loads(json.dumps(info.to_dict())) == info.to_dict()
    torch.load(path, weights_only=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]
    again = load_model(path, mean=[0.0], std=[2.0])
    assert_same(again.module, Standardise(net, [0.0], [2.0]), X)
    assert read_weights(path).keys() == net.state_dict().keys()


def test_checkpoint_of_a_file_arch_needs_no_file(tmp_path):
    file = write_factories(tmp_path)
    net, path = build(f"{file}:net", SHAPE, 10), tmp_path / "m.pt"
    net(X)
    save_checkpoint(
        path, Standardise(net, [0.1], [0.3]), arch=f"{file}:net", shape=SHAPE, num_classes=10
    )
    assert net.training
    Path(file).write_text("raise SystemExit('executed')")
    net.eval()
    loaded = load_model(path)
    assert_same(loaded.module, Standardise(net, [0.1], [0.3]), X)
    assert loaded.info.mean == pytest.approx((0.1,))
    write_factories(tmp_path)
    assert_same(load_model(path, arch=f"{file}:net").module, loaded.module, X)


def test_checkpoint_that_cannot_be_exported_asks_for_its_file(tmp_path):
    file = write_factories(tmp_path)
    arch, path = f"{file}:branching", tmp_path / "m.pt"
    net = build(arch, SHAPE, 10)
    save_checkpoint(path, net, arch=arch, shape=SHAPE, num_classes=10)
    with pytest.raises(RobustError, match=r"pass --arch .*archs.py:branching \(this runs"):
        load_model(path)
    assert_same(load_model(path, arch=arch).module, net.eval(), X)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    path.write_bytes(b"old")

    def fails(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RobustError, match="cannot be written: No space left"):
        save_checkpoint(path, small(), arch="mlp", shape=SHAPE, num_classes=10)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"m.pt": b"old"}


def test_normalisation_is_inside(tmp_path, arch):
    net, path = small(), tmp_path / "m.pt"
    torch.save(net.state_dict(), path)
    by_hand = nn.Module()
    by_hand.forward = lambda x: net((x - 0.25) / 0.5)
    loaded = load_model(path, arch=arch, mean=[0.25], std=[0.5])
    assert_same(loaded.module, by_hand, X, atol=1e-5)
    assert (loaded.info.mean, loaded.info.std) == ((0.25,), (0.5,))


def test_standardise_is_per_channel():
    x = torch.rand(2, 3, 4)
    out = Standardise(nn.Identity(), [0.0, 1.0, 2.0], [1.0, 2.0, 4.0])(x)
    expected = torch.stack([x[:, 0], (x[:, 1] - 1) / 2, (x[:, 2] - 2) / 4], 1)
    torch.testing.assert_close(out, expected)
    vector = Standardise(nn.Identity(), [1.0, 2.0], [1.0])(torch.tensor([[3.0, 3.0]]))
    assert vector.tolist() == [[2.0, 1.0]]
    with pytest.raises(RobustError, match="mean and std have 3 values"):
        Standardise(nn.Identity(), [0.0] * 3, [1.0])(torch.rand(2, 1, 4))


@pytest.mark.parametrize(
    ("mean", "std"), [([0.0] * 3, [1.0] * 2), ([0.0], [0.0]), ([float("nan")], [1.0]), ([], [1.0])]
)
def test_standardise_refuses(mean, std):
    with pytest.raises(RobustError, match="mean"):
        Standardise(nn.Identity(), mean, std)


def test_probabilities_become_logits(tmp_path):
    net, path = nn.Sequential(small(), nn.Softmax(1)).eval(), tmp_path / "m.ts"
    script(net, path)
    module = load_model(path, probabilities=True).module
    torch.testing.assert_close(module(X).softmax(1), net(X))
    saturated = load_model(path, probabilities=True, mean=[0.0], std=[1e-6]).module
    logits, gradient = answers(saturated, X)
    assert logits.min() == pytest.approx(math.log(torch.finfo(torch.float32).tiny))
    assert gradient.isfinite().all()


Output = collections.namedtuple("Output", ["loss", "logits"])


@pytest.mark.parametrize(
    "pack",
    [
        lambda z: (z, z * 0),
        lambda z: [z, z * 0],
        lambda z: {"other": z * 0, "logits": z},
        lambda z: Output(z.sum(), z),
        lambda z: {"logits": (z,)},
    ],
    ids=["tuple", "list", "dict", "attribute", "nested"],
)
def test_the_logits_are_found(tmp_path, arch, pack):
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            return pack(self.net(x))

    file = tmp_path / "packs.py"
    file.write_text("make = None")
    net = Packs()
    torch.save(net.state_dict(), tmp_path / "m.pt")
    module = type(sys)("packs_holder")
    module.make = Packs
    sys.modules["packs_holder"] = module
    file.write_text("from packs_holder import make")
    loaded = load_model(tmp_path / "m.pt", arch=f"{file}:make", shape=SHAPE)
    del sys.modules["packs_holder"]
    assert_same(loaded.module, small(), X)
    assert loaded.info.num_classes == 10


def test_in_memory():
    net = small().train()
    a, b, c = in_memory(net, shape=SHAPE), in_memory(small()), in_memory(small(seed=1))
    assert a.module is net
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert (a.info.kind, a.info.path, a.info.shape, a.info.parameters) == (
        "in-memory",
        "",
        SHAPE,
        698,
    )
    assert a.info.sha256 == b.info.sha256 != c.info.sha256
    b.module[1].running_mean += 1
    assert in_memory(b.module).info.sha256 != a.info.sha256
    in_memory(nn.Linear(2, 2, dtype=torch.bfloat16))
