"""Defenses that learn to denoise: a U-Net before a classifier, and blocks inside of one."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from robust.core.defense import Before, Task
from robust.core.errors import RobustError
from robust.core.rng import generator, seeded
from robust.core.threat import Threat
from robust.data import DataSpec
from robust.models import build, defend, load_model, parse_defense, save_checkpoint
from robust.models.architectures import _WideResNet, architectures
from robust.registry import parse_attack
from robust.training import TrainSpec, describe_attack, parse_adv, train

LINF = Threat("linf", 0.1)


def noisy(module, seed=0):
    """The module with random weights everywhere, and so with nothing that starts at 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return module


def guarded(net, text="denoiser", shape=(1, 8, 8), attack="pgd,steps=1,random_start=false"):
    """(what is defended, what trains its denoiser), with a U-Net of 4 channels."""
    _, defense = parse_defense(f"{text},width=4")
    defended = defend(net, [defense], shape=shape, num_classes=10).train()
    net.eval()
    return defended, defense.against(parse_attack(attack))


def step(trainer, defended, x, y, seed=0):
    rng = generator(seed)
    loss = nn.CrossEntropyLoss(reduction="none")
    return trainer.step(defended.model, defended.exposed, Task(x, y, LINF, rng, loss))


def batch(n=6, shape=(1, 8, 8)):
    return torch.rand(n, *shape, generator=generator(5)), torch.arange(n) % 10


# A learned denoiser


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13)])
def test_a_new_denoiser_changes_nothing(shape):
    net = build("small-cnn", shape, 10).eval()
    defended = defend(net, "denoiser", shape=shape, num_classes=10).eval()
    x, _ = batch(shape=shape)
    torch.testing.assert_close(defended(x), net(x))
    noisy(defended.parts)
    assert not torch.allclose(defended(x), net(x))


def test_a_denoiser_is_differentiated_exactly_where_it_is_exposed(digits_net):
    net = copy.deepcopy(digits_net).requires_grad_(False)
    defended = defend(net, "denoiser,width=2", shape=(1, 8, 8), num_classes=10)
    noisy(defended.double().eval().parts)
    x, _ = batch(n=1)
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(defended.exposed, (x,), fast_mode=True)
    # Deployed it is a step of its own, which gives an attacker nothing.
    assert not defended.model(x).requires_grad
    torch.testing.assert_close(defended.model(x), defended.exposed(x))


@pytest.mark.parametrize("kind", ["pixels", "logits"])
def test_what_a_denoiser_learns_is_the_distance_to_the_clean_image(digits_net, kind):
    net = copy.deepcopy(digits_net).requires_grad_(False)
    defended, trainer = guarded(net, f"denoiser,loss={kind}")
    x, y = batch()
    made = step(trainer, defended, x, y)
    with torch.no_grad():  # a new U-Net cleans nothing
        a, b = (made.x_adv, x) if kind == "pixels" else (net(made.x_adv), net(x))
    torch.testing.assert_close(made.loss.detach(), (a - b).abs().mean())
    torch.testing.assert_close(made.logits, net(made.x_adv))
    made.loss.backward()
    assert all(p.grad is None for p in net.parameters())
    assert defended.parts["0"].last.weight.grad.abs().sum() > 0


def test_a_denoiser_cleans_examples_of_the_classifier_alone(digits_net):
    defended, trainer = guarded(copy.deepcopy(digits_net).requires_grad_(False))
    x, y = batch()
    found = step(trainer, defended, x, y).x_adv
    with torch.no_grad():
        noisy(defended.parts)
    # The examples do not depend on what the denoiser has learned.
    torch.testing.assert_close(step(trainer, defended, x, y).x_adv, found, rtol=0, atol=0)
    lengths = [
        float((step(trainer, defended, x, y, seed).x_adv - x).abs().max()) for seed in range(8)
    ]
    assert max(lengths) <= 0.1 + 1e-6
    assert len({round(length, 4) for length in lengths}) == 8


@pytest.fixture
def run(checkpoint, tmp_path):
    """(the folder of a short training of a denoiser, the model that it was put before)."""
    source = tmp_path / "few.npz"
    x, y = batch(64)
    np.savez(source, x=x.numpy(), y=y.numpy())
    spec = TrainSpec(
        data=DataSpec(str(source)).to_dict(),
        init=str(checkpoint),
        defenses=[{"name": "denoiser", "params": {"loss": "logits", "width": 4}}],
        adv=parse_adv("pgd,steps=1"),
        val_attack=describe_attack(parse_attack("pgd,steps=1")),
        threat=dataclasses.asdict(LINF),
        epochs=2,
        batch_size=16,
        guard=False,
    )
    list(train(spec, folder=tmp_path / "run"))
    return tmp_path / "run", checkpoint


def test_training_a_denoiser_leaves_the_classifier_as_it_is(run):
    folder, before = run
    x, _ = batch()
    plain, loaded = load_model(before), load_model(folder / "model.pt")
    weights = torch.load(before, weights_only=True)["state_dict"]
    kept = torch.load(folder / "model.pt", weights_only=True)
    assert all(torch.equal(kept["state_dict"][key], value) for key, value in weights.items())
    assert kept["parts"]["0.last.weight"].abs().sum() > 0
    place = next(m for m in loaded.module.modules() if isinstance(m, Before))
    torch.testing.assert_close(loaded.module(x), plain.module(place.parts(x)))


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("denoiser,width=0", (1, 8, 8), "width must be at least 1, not 0"),
        ("denoiser", (1, 7, 8), "denoiser: it takes images .* at least 8×8 pixels, not .*7, 8"),
        ("denoiser", (64,), "denoiser: it takes images"),
    ],
)
def test_what_a_denoiser_cannot_be_is_said(text, shape, said):
    with pytest.raises(RobustError, match=said):
        defend(build("mlp", shape, 3), text, shape=shape, num_classes=3)


def test_a_denoiser_wants_examples_to_learn_from():
    with pytest.raises(RobustError, match="give --adv pgd"):
        parse_defense("denoiser")[1].against(None)


# Blocks inside of a network


def with_blocks(net, shape, text="feature-denoising"):
    return defend(net, text, shape=shape, num_classes=10)


@pytest.mark.parametrize("training", [False, True])
def test_new_blocks_change_nothing(digits_net, training):
    net = copy.deepcopy(digits_net)
    defended = with_blocks(net, (1, 8, 8)).train(training)
    x, _ = batch()
    torch.testing.assert_close(defended(x), net(x))
    noisy(defended.parts)
    assert not torch.allclose(defended(x), net(x))


@pytest.mark.parametrize("similarity", ["gaussian", "dot-product"])
def test_a_block_adds_means_over_similar_positions(digits_net, similarity):
    text = f"feature-denoising,similarity={similarity}"
    defended = with_blocks(copy.deepcopy(digits_net), (1, 8, 8), text)
    block = noisy(defended.parts["0"]["relu2"]).eval().double()
    x = torch.rand(2, 64, 2, 3, generator=generator(1), dtype=torch.float64)
    rows = x.flatten(2).transpose(1, 2)
    if similarity == "gaussian":
        theta, phi = (rows @ conv.weight[:, :, 0].T for conv in (block.theta, block.phi))
        weights = (theta @ phi.transpose(1, 2) / 8).softmax(2)
    else:
        weights = rows @ rows.transpose(1, 2) / 6
    made = (weights @ rows @ block.conv.weight[:, :, 0].T).transpose(1, 2)
    made = made * (block.norm.weight / (1 + block.norm.eps) ** 0.5).view(1, -1, 1)
    made = made + block.norm.bias.view(1, -1, 1)
    torch.testing.assert_close(block(x), x + made.view_as(x))


@pytest.mark.parametrize(
    ("make", "shape", "channels"),
    [
        (architectures()["small-cnn"], (1, 8, 8), {"relu1": 32, "relu2": 64}),
        (architectures()["small-cnn"], (2, 64), {"relu1": 32, "relu2": 64}),
        (
            architectures()["preact-resnet18"],
            (3, 8, 8),
            {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512},
        ),
        (
            lambda shape, classes: _WideResNet(shape[0], classes, depth=10, width=1),
            (3, 8, 8),
            {"block1": 16, "block2": 32, "block3": 64},
        ),
    ],
    ids=["small-cnn", "signal", "preact-resnet18", "wide-resnet"],
)
def test_a_block_follows_each_layer_group(make, shape, channels):
    net = make(shape, 10).eval()
    blocks = with_blocks(net, shape).parts["0"]
    assert {name: block.conv.in_channels for name, block in blocks.items()} == channels
    assert not net.training


def test_blocks_come_behind_their_groups_and_leave_the_network_as_it_is(digits_net):
    net = copy.deepcopy(digits_net)
    names = list(net.state_dict())
    defended = with_blocks(net, (1, 8, 8)).eval()
    seen = []
    for name, block in defended.parts["0"].items():
        block.register_forward_hook(
            lambda block, given, answer, name=name: (
                seen.append((name, given[0], answer + 1)) or answer + 1
            )
        )
    x, _ = batch()
    changed = defended(x)
    assert [name for name, _, _ in seen] == ["relu1", "relu2"]
    torch.testing.assert_close(seen[0][1], net.relu1(net.conv1(x)))
    torch.testing.assert_close(seen[1][1], net.relu2(net.conv2(seen[0][2])))
    assert not torch.allclose(net(x), changed)
    assert list(net.state_dict()) == names
    assert not any(module._forward_hooks for module in net.modules())


def test_a_copy_has_blocks_of_its_own(digits_net):
    defended = with_blocks(copy.deepcopy(digits_net), (1, 8, 8)).eval()
    again = copy.deepcopy(defended)
    x, _ = batch()
    before = defended(x)
    torch.testing.assert_close(again(x), before)
    noisy(again.parts)
    assert not torch.allclose(again(x), before)
    torch.testing.assert_close(defended(x), before)


def test_a_checkpoint_keeps_blocks_and_the_plain_names_of_the_network(digits_net, tmp_path):
    defended = with_blocks(copy.deepcopy(digits_net), (1, 8, 8)).eval()
    with seeded(0):
        noisy(defended.parts)
    path = tmp_path / "m.pt"
    common = {"arch": "small-cnn", "shape": (1, 8, 8), "num_classes": 10}
    save_checkpoint(path, digits_net, **common, defended=defended)
    x, _ = batch()
    torch.testing.assert_close(load_model(path).module(x), defended(x))
    kept = torch.load(path, weights_only=True)
    assert kept["state_dict"].keys() == digits_net.state_dict().keys()


def test_other_architectures_are_refused_in_one_line():
    with pytest.raises(RobustError, match="feature-denoising goes into small-cnn, .* none of them"):
        with_blocks(build("mlp", (6,), 10), (6,))
