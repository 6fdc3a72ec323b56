"""The architectures: shapes, published sizes, initialisation, description."""

import sys

import pytest
import torch
from model_nets import SHAPE, write_factories
from torch import nn

from robust.core.errors import RobustError
from robust.models import architectures, build, describe, flops, he_init


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 9, 17), (1, 28, 28), (3, 32, 32), (3, 64, 40), (3, 64, 64)]
)
def test_small_cnn_takes_images(shape):
    net = build("small-cnn", shape, 7)
    assert net(torch.rand(2, *shape)).shape == (2, 7)
    assert count(net) < 400_000


@pytest.mark.parametrize("shape", [(1, 8), (2, 400), (1, 16000)])
def test_small_cnn_takes_signals(shape):
    net = build("small-cnn", shape, 3)
    assert net(torch.rand(2, *shape)).shape == (2, 3)
    assert count(net) < 400_000


def test_small_cnn_on_digits_is_small():
    # 1·9·32 + 32, 32·9·64 + 64, 64·16·64 + 64, 64·10 + 10
    assert count(build("small-cnn", SHAPE, 10)) == 320 + 18_496 + 65_600 + 650


@pytest.mark.parametrize("shape", [(13,), (3, 8, 8)])
def test_mlp_takes_any_shape(shape):
    assert build("mlp", shape, 4)(torch.rand(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # kuangliu/pytorch-cifar's 11,171,146 and the 1,024 of the last BatchNorm, which it leaves
        # out and 1603.05027 has.
        ("preact-resnet18", 11_172_170),
        # 36.5M in table 4 of 1605.07146; the number as its reimplementations count it.
        ("wide-resnet-28-10", 36_479_194),
    ],
)
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        net = build(name, (3, 32, 32), 10)
        assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert count(net) == parameters


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 20, 48)])
def test_resnet_takes_images(shape):
    net = build("preact-resnet18", shape, 5).eval()
    assert net(torch.rand(1, *shape)).shape == (1, 5)


def test_resnets_refuse_other_shapes():
    for name in ("preact-resnet18", "wide-resnet-28-10"):
        with pytest.raises(RobustError, match=name):
            build(name, (10,), 2)
    with pytest.raises(RobustError, match="mlp takes any shape"):
        build("small-cnn", (10,), 2)


def test_every_architecture_has_a_description():
    assert list(architectures()) == ["small-cnn", "mlp", "preact-resnet18", "wide-resnet-28-10"]
    assert all((f.__doc__ or "").strip() for f in architectures().values())


def test_he_initialisation():
    """1502.01852: variance 2 / fan, biases 0; normalisation is the identity."""
    net = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(300, 400))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 7.0)
    torch.manual_seed(0)
    he_init(net)
    assert net[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert net[3].weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.05)
    assert abs(net[3].weight.mean().item()) < 1e-3
    assert (net[1].weight == 1).all()
    assert all((net[i].bias == 0).all() for i in (0, 1, 3))


def test_build_draws_from_the_global_generator():
    torch.manual_seed(3)
    a = build("mlp", (4,), 2)
    torch.manual_seed(3)
    b, c = build("mlp", (4,), 2), build("mlp", (4,), 2)
    assert torch.equal(a[1].weight, b[1].weight)
    assert not torch.equal(a[1].weight, c[1].weight)


def test_factories_get_what_they_name(tmp_path):
    file = write_factories(tmp_path)
    modules, path = set(sys.modules), list(sys.path)
    assert build(f"{file}:net", (3, 8, 8), 6)(torch.rand(2, 3, 8, 8)).shape == (2, 6)
    assert build(f"{file}:fixed", (1, 8, 8), 6)(torch.rand(2, *SHAPE)).shape == (2, 10)
    net = build(f"{file}:by_classes", (1, 8, 8), 6)
    assert net.head.out_features == 6
    assert (net.head.bias == 0).all()
    assert set(sys.modules) == modules
    assert sys.path == path


def test_a_sibling_is_the_one_of_its_own_folder(tmp_path):
    for width in (4, 6):
        folder = tmp_path / str(width)
        folder.mkdir()
        file = write_factories(folder)
        (folder / "sibling.py").write_text(f"WIDTH = {width}\n")
        assert build(f"{file}:fixed", SHAPE, 10).conv.out_channels == width


def test_flops_and_description():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    net[1].eval()
    # 6·6 positions × 4 channels × 9 products, and 144·10 products; a sum for each.
    expected = 2 * (36 * 4 * 9 + 144 * 10)
    mean = net[1].running_mean.clone()
    assert flops(net, SHAPE) == expected
    assert [m.training for m in net] == [True, False, True, True]
    assert torch.equal(net[1].running_mean, mean)
    text = describe(net, SHAPE)
    for part in (str(net), "1,498 (1,498 trainable)", f"{expected:,} per sample"):
        assert part in text
