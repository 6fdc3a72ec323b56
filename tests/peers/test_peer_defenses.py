"""ART's preprocessors as defenses: what they answer is what ART answers."""

import random

import art.defences.preprocessor as theirs
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from robust import peers
from robust.cli import main
from robust.core.defense import Frame
from robust.core.errors import RobustError
from robust.models import defend, load_model, parse_defense, save_checkpoint
from robust.registry import defense_label

COLOUR = (3, 9, 10)
WIDE = Frame(COLOUR, 4, -1.0, 3.0)


@pytest.fixture
def x(make_samples):
    return make_samples(COLOUR, 4)


def linear(shape, classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes)).eval()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("FeatureSqueezing,bit_depth=2", theirs.FeatureSqueezing((0, 1), bit_depth=2)),
        ("JpegCompression,quality=20", theirs.JpegCompression((0, 1), 20, channels_first=True)),
        ("SpatialSmoothing,window_size=4", theirs.SpatialSmoothing(4, channels_first=True)),
        (
            "SpatialSmoothingPyTorch",
            theirs.SpatialSmoothingPyTorch(3, channels_first=True, device_type="cpu"),
        ),
    ],
)
def test_a_preprocessor_answers_as_art_does_in_every_range(text, made, x):
    defense = parse_defense(f"art:{text}")[1]
    expected, _ = made(x.numpy().copy())
    found = defense.transform(WIDE.own(x), WIDE)
    # What the data's range rounds may lie beyond a rounding of theirs, in a few places.
    apart = (WIDE.unit(found) - torch.from_numpy(np.asarray(expected, dtype=np.float32))).abs()
    assert (apart > 1e-5).float().mean() < 0.01
    assert defense.draws == 1


@pytest.mark.parametrize("name", ["TotalVarMin,max_iter=2", "GaussianAugmentation,sigma=0.1"])
def test_a_random_preprocessor_draws_from_torch_and_leaves_numpy_alone(name, x):
    defense = parse_defense(f"art:{name}")[1]
    frame = Frame(COLOUR, 4)

    def answer(seed):
        torch.manual_seed(seed)
        return defense.transform(x, frame)

    before, python = np.random.get_state()[1].copy(), random.getstate()
    assert torch.equal(answer(0), answer(0))
    assert not torch.equal(answer(0), answer(1))
    torch.manual_seed(0)
    assert not torch.equal(defense.transform(x, frame), defense.transform(x, frame))
    assert (np.random.get_state()[1] == before).all()
    assert random.getstate() == python
    assert defense.draws == 20
    assert answer(0).shape == x.shape


def test_total_variation_of_art_gets_channels_last(x):
    defense = parse_defense("art:TotalVarMin,prob=0.999999,lamb=0.2,max_iter=3")[1]
    made = theirs.TotalVarMin(prob=0.999999, lamb=0.2, max_iter=3, clip_values=(0, 1))
    expected, _ = made(np.moveaxis(x.numpy(), 1, -1).copy())
    found = defense.transform(x, Frame(COLOUR, 4))
    torch.testing.assert_close(found, torch.from_numpy(np.moveaxis(expected, -1, 1)))


@pytest.mark.parametrize("name", list(peers.defenses("art")))
def test_every_preprocessor_gives_an_adaptive_attacker_a_gradient(name, x):
    defended = defend(linear(COLOUR), f"art:{name}", shape=COLOUR, num_classes=4)
    x = x.requires_grad_()
    torch.manual_seed(0)
    answer = defended.exposed(x)
    torch.manual_seed(0)
    torch.testing.assert_close(defended.model(x), answer)
    (gradient,) = torch.autograd.grad(answer[:, 0].sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_what_art_smooths_is_differentiated_as_its_twin_on_tensors(x):
    net = linear(COLOUR)
    x = x.requires_grad_()
    gradients = [
        torch.autograd.grad(
            defend(net, f"art:{name}", shape=COLOUR, num_classes=4).exposed(x)[:, 0].sum(), x
        )[0]
        for name in ("SpatialSmoothing", "SpatialSmoothingPyTorch")
    ]
    torch.testing.assert_close(*gradients)
    assert not torch.allclose(gradients[0], net[1].weight[0].view(1, *COLOUR).expand(4, *COLOUR))


def test_a_checkpoint_names_the_preprocessor_that_it_was_made_with(digits_net, tmp_path):
    defended = defend(digits_net, "art:JpegCompression,quality=30", shape=(1, 8, 8), num_classes=10)
    path = tmp_path / "m.pt"
    common = {"arch": "small-cnn", "shape": (1, 8, 8), "num_classes": 10}
    save_checkpoint(path, digits_net, **common, defended=defended)
    loaded = load_model(path).module
    assert [defense_label(record) for record in loaded.records] == [
        "art:JpegCompression,quality=30"
    ]
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(loaded(x), defended(x))


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("art:JpegCompresion", COLOUR, "unknown defense .* did you mean 'JpegCompression'"),
        ("foolbox:Jpeg", COLOUR, "foolbox has attacks and no defenses"),
        ("arts:Jpeg", COLOUR, "unknown engine 'arts'; did you mean 'art'"),
        ("art:Mp3Compression", COLOUR, "art:Mp3Compression cannot be run: it is for sound"),
        ("art:ThermometerEncoding", COLOUR, "take thermometer"),
        ("art:JpegCompression,quality=0", COLOUR, "art:JpegCompression: .*[Qq]uality"),
        ("art:JpegCompression,clip_values=1", COLOUR, "clip_values is not yours to set"),
        ("art:JpegCompression,size=3", COLOUR, "has no parameter 'size'"),
        ("art:JpegCompression", (20,), r"it takes images \(C, H, W\), not samples of shape"),
        ("art:GaussianAugmentation,augmentation=true", COLOUR, "augmentation is not yours to set"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(text, shape, said):
    with pytest.raises(RobustError, match=said) as refused:
        defend(linear(shape), text, shape=shape, num_classes=4)
    assert "\n" not in str(refused.value)


def test_all_preprocessors_of_the_package_are_listed_or_left_out_with_a_reason():
    known = {
        name
        for name, thing in vars(theirs).items()
        if isinstance(thing, type) and thing is not theirs.Preprocessor
    }
    usable, left_out = peers.defenses("art"), peers.left_out("art", "defenses")
    assert not usable.keys() & left_out.keys()
    assert known <= usable.keys() | left_out.keys()
    assert "it is not known here yet" not in left_out.values()


def test_the_command_line_lists_them():
    listed = CliRunner().invoke(main, ["list", "defenses", "--engine", "art"])
    assert listed.exit_code == 0, listed.output
    assert "art:JpegCompression\n" in listed.output
    assert "quality=50" in listed.output
