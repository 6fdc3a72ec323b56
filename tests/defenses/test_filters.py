"""Defenses that filter images, against what is known of each filter."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from robust.core.defense import Frame
from robust.core.errors import RobustError
from robust.models import defend, parse_defense
from robust.registry import find

GREY, COLOUR = Frame((1, 9, 9), 10), Frame((3, 9, 11), 10)
FILTERS = ("median", "bilateral", "non-local-means", "total-variation")


def made(text):
    return parse_defense(text)[1]


def images(frame, n=3, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, *frame.shape, generator=rng, dtype=dtype)


def variation(z):
    down, right = torch.zeros_like(z), torch.zeros_like(z)
    down[..., :-1, :], right[..., :-1] = z.diff(dim=-2), z.diff(dim=-1)
    return (down.square() + right.square()).sqrt().sum((1, 2, 3))


def test_a_median_is_that_of_the_window_and_outvotes_a_spike():
    x = torch.tensor([[5.0, 1, 9], [2, 100, 3], [8, 4, 7]]).view(1, 1, 3, 3)
    out = made("median").transform(x, Frame((1, 3, 3), 2))
    assert out[0, 0, 1, 1] == 5
    # The corner sees itself once, its mirrored neighbours 2 and 1 twice, and 100 four times.
    assert out[0, 0, 0, 0] == 5


def test_a_bilateral_filter_weighs_by_place_and_colour():
    x = images(COLOUR)
    out = made("bilateral,size=3,sigma-color=0.4,sigma-space=1.5").transform(x, COLOUR)
    row, column, top, bottom = 4, 5, 0.0, 0.0
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            other, own = x[1, :, row + i, column + j], x[1, :, row, column]
            near = math.exp(-(i * i + j * j) / (2 * 1.5**2))
            weight = near * torch.exp(-(other - own).square().sum() / (2 * 0.4**2))
            top, bottom = top + weight * other, bottom + weight
    torch.testing.assert_close(out[1, :, row, column], top / bottom)


def test_means_of_non_local_means_are_those_of_its_definition():
    frame, strength, patch, far = COLOUR, 0.3, 3, 2
    x = images(frame, n=1)
    out = made(f"non-local-means,strength={strength},patch={patch},distance={far}")
    found = out.transform(x, frame)[0].numpy()
    padded = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    grid = np.mgrid[-1:2, -1:2]
    bell = np.exp(-(grid**2).sum(0) / (2 * 0.5**2))
    bell /= bell.sum()
    _, height, width = frame.shape
    for row, column in ((0, 0), (4, 5), (8, 10), (2, 9)):
        top, bottom = 0.0, 0.0
        for i in range(max(0, row - far), min(height, row + far + 1)):
            for j in range(max(0, column - far), min(width, column + far + 1)):
                apart = (
                    padded[:, i : i + 3, j : j + 3] - padded[:, row : row + 3, column : column + 3]
                )
                weight = np.exp(-(bell * apart**2).sum() / 3 / strength**2)
                top, bottom = top + weight * x[0, :, i, j].numpy(), bottom + weight
        np.testing.assert_allclose(found[:, row, column], top / bottom, rtol=1e-10)


@pytest.mark.parametrize("frame", [GREY, COLOUR], ids=["grey", "colour"])
def test_non_local_means_agrees_with_scikit_image(frame):
    restoration = pytest.importorskip("skimage.restoration")
    x = images(frame, n=1) * 0.2 + 0.4
    found = made("non-local-means,strength=0.2,patch=5,distance=3").transform(x, frame)
    ours, image = (np.ascontiguousarray(v[0].permute(1, 2, 0).numpy()) for v in (found, x))
    theirs = restoration.denoise_nl_means(
        image, patch_size=5, patch_distance=3, h=0.2, fast_mode=False, channel_axis=-1
    )
    # Its exponential is an approximation, good to a few percent.
    assert np.abs(ours - theirs.reshape(image.shape)).max() < 0.05 * (ours - image).std()


@pytest.mark.parametrize("weight", [0.05, 0.2])
def test_total_variation_is_that_of_rudin_osher_and_fatemi(weight):
    restoration = pytest.importorskip("skimage.restoration")
    x = images(GREY, n=1)
    found = made(f"total-variation,weight={weight},steps=1000").transform(x, GREY)
    theirs = restoration.denoise_tv_chambolle(
        x[0, 0].numpy(), weight=weight, eps=1e-12, max_num_iter=5000
    )
    np.testing.assert_allclose(found[0, 0].numpy(), theirs, atol=1e-4)


def test_total_variation_smooths_a_noisy_step_and_keeps_its_mean():
    x = torch.cat([torch.full((1, 1, 9, 4), 0.2), torch.full((1, 1, 9, 5), 0.8)], 3).double()
    noisy = x + 0.05 * (images(GREY, n=1) - 0.5)
    found = made("total-variation").transform(noisy, GREY)
    torch.testing.assert_close(found.mean(), noisy.mean())
    assert variation(found) < 0.75 * variation(noisy)
    assert found[0, 0, :, 5].mean() - found[0, 0, :, 2].mean() > 0.4


def test_what_total_variation_drops_has_no_say_and_another_draw_drops_others():
    x = images(GREY, n=1)
    defense = made("total-variation,drop=0.5")

    def answer(values, seed):
        torch.manual_seed(seed)
        return defense.transform(values, GREY)

    torch.manual_seed(0)
    dropped = torch.rand_like(x) < 0.5
    torch.testing.assert_close(answer(x, 0), answer(torch.where(dropped, 0.0, x), 0))
    assert not torch.allclose(answer(x, 0), answer(torch.where(dropped, x, 0.0), 0))
    assert not torch.allclose(answer(x, 0), answer(x, 1))
    assert (defense.draws, made("total-variation").draws) == (10, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_writes_and_reads(channels):
    frame = Frame((channels, 17, 30), 10, -1.0, 1.0)
    x = images(frame, dtype=torch.float32) * 2 - 1
    out = made("jpeg,quality=30").transform(x, frame)
    for image, back in zip(x, out, strict=True):
        pixels = ((image + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=30)
        theirs = np.asarray(Image.open(file)).reshape(pixels.shape)
        np.testing.assert_array_equal(((back + 1) / 2 * 255).round().permute(1, 2, 0), theirs)
    assert out.dtype == x.dtype


@pytest.mark.parametrize("channels", [1, 3])
def test_what_stands_in_for_jpeg_is_near_it(channels):
    frame = Frame((channels, 17, 30), 10, 0.0, 255.0)
    x = images(frame, dtype=torch.float32) * 255
    defense = made("jpeg,quality=50")
    lost = (defense.transform(x, frame) - x).abs().mean()
    assert (defense.transform(x, frame) - defense.stand_in(x, frame)).abs().mean() < 0.4 * lost


@pytest.mark.parametrize(
    "name",
    [
        *("median", "bilateral,size=3", "non-local-means,distance=1"),
        *("total-variation,steps=9", "total-variation,drop=0.4,steps=9"),
    ],
)
def test_exposed_gradients_are_those_of_finite_differences(name):
    frame = Frame((2, 3, 4), 3)
    x = images(frame, n=1).requires_grad_()
    defense = made(name)
    assert defense.gradient == "exact"

    def transform(values):
        torch.manual_seed(0)
        return defense.transform(values, frame)

    assert torch.autograd.gradcheck(transform, (x,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", [*FILTERS, "bit-depth"])
def test_filters_do_the_same_in_every_range(name):
    x = images(COLOUR)
    wide = Frame(COLOUR.shape, 10, -2.0, 3.0)
    defense = made(name)
    torch.testing.assert_close(
        defense.transform(wide.own(x), wide), wide.own(defense.transform(x, COLOUR))
    )


def test_bit_depth_rounds_to_levels():
    x = torch.tensor([0.0, 0.2, 0.4, 0.45, 1.0]).view(1, -1)
    out = made("bit-depth,bits=2").transform(x, Frame((5,), 2))
    torch.testing.assert_close(out, torch.tensor([[0, 1, 1, 1, 3]]) / 3)


@pytest.mark.parametrize("name", [*FILTERS, "jpeg"])
@pytest.mark.parametrize("shape", [(64,), (2, 64)], ids=["features", "signal"])
def test_samples_that_are_no_images_are_refused(name, shape):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 3))
    with pytest.raises(RobustError) as refused:
        defend(net, name, shape=shape, num_classes=3)
    line = str(refused.value)
    assert line.startswith(f"{name}: it takes images (C, H, W)")
    assert line.endswith(f"not samples of shape {shape}")


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("jpeg", (4, 8, 8), "of 1 or 3 channels"),
        ("median,size=5", (1, 2, 8), "of at least 3×3 pixels"),
        ("bilateral", (1, 8, 2), "of at least 3×3 pixels"),
        ("non-local-means,patch=7", (1, 3, 8), "of at least 4×4 pixels"),
    ],
)
def test_images_that_a_filter_cannot_handle_are_refused(name, shape, said):
    with pytest.raises(RobustError, match=said):
        made(name).check(Frame(shape, 3))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("median", {"size": 4}),
        ("median", {"size": 1}),
        ("bilateral", {"size": 2}),
        ("bilateral", {"sigma_color": 0.0}),
        ("bilateral", {"sigma_space": math.inf}),
        ("jpeg", {"quality": 0}),
        ("jpeg", {"quality": 96}),
        ("non-local-means", {"strength": -1.0}),
        ("non-local-means", {"patch": 2}),
        ("non-local-means", {"distance": 0}),
        ("total-variation", {"weight": 0.0}),
        ("total-variation", {"drop": 1.0}),
        ("total-variation", {"steps": 0}),
        ("bit-depth", {"bits": 0}),
        ("bit-depth", {"bits": 9}),
    ],
)
def test_bad_parameters_are_refused_by_name(name, values):
    ((key, value),) = values.items()
    with pytest.raises(RobustError, match=rf"{key} .*{value:g}"):
        find("defenses", name)(**values)
