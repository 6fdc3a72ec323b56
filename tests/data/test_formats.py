"""Every format gives back what was written, under the same ids in any order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NAMES, folder, hdf5, parquet, picture, table
from PIL import Image

from robust.data import DataSpec, Source, batches, from_arrays, open_data


def npz(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez(path / "d.npz", x=x, y=y)
    return "d.npz"


def npz_packed(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez_compressed(path / "d.npz", images=x.transpose(0, 2, 3, 1), labels=y[:, None])
    return "d.npz"


def npz_float(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez(path / "d.npz", X=x / 255.0, target=np.eye(3)[y])
    return "d.npz"


def h5(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    hdf5(path / "d.h5", data=x, target=y.astype(np.uint8))
    return "d.h5"


def h5_float(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    hdf5(path / "d.hdf5", x=x.transpose(0, 2, 3, 1).astype(">f4") / 255, y=y)
    return "d.hdf5"


def one_parquet(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    parquet(path / "d.parquet", x, y)
    return "d.parquet"


def odd_parquet(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    folder_of = path / "a [b]"
    parquet(folder_of / "1.parquet", x[:5], y[:5])
    parquet(folder_of / "2.parquet", x[5:], y[5:], group=2)
    return "a [b]"


def globbed(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    parquet(path / "d" / "test-0.parquet", x[:7], y[:7])
    parquet(path / "d" / "test-1.parquet", x[7:], y[7:])
    parquet(path / "d" / "train-0.parquet", x[:1], y[:1])
    return "d/test-*.parquet"


def split_parquet(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    globbed(path, x, y)
    return "d:test"


def bare_parquet(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    from data_files import encoded

    table(path / "d.parquet", img=[encoded(i) for i in x], labels=y, other=list("abcdefghijkl"))
    return "d.parquet"


def list_parquet(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    import datasets

    features = datasets.Features(
        {"x": datasets.Array3D(x.shape[1:], "uint8"), "y": datasets.Value("int32")}
    )
    data = datasets.Dataset.from_dict({"x": list(x), "y": y.tolist()}, features=features)
    data.to_parquet(str(path / "d.parquet"))
    return "d.parquet"


def hub(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    parquet(path / "d" / "data" / "test-00000-of-00001.parquet", x, y)
    parquet(path / "d" / "data" / "train-00000-of-00001.parquet", x[:2], y[:2])
    return f"hf:{path / 'd'}"


def hub_split(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    parquet(path / "d" / "data" / "train-00000-of-00001.parquet", x, y)
    parquet(path / "d" / "data" / "test-00000-of-00001.parquet", x[:2], y[:2])
    return "hf:./d:train"


def hub_folder(path: Path, x: np.ndarray, y: np.ndarray) -> str:
    order = np.argsort(y, kind="stable")  # as the library finds them
    restored = np.argsort(order)
    for i, at in enumerate(restored):
        (path / "d" / NAMES[y[i]]).mkdir(parents=True, exist_ok=True)
        picture(x[i]).save(path / "d" / NAMES[y[i]] / f"{at:03}.png")
    return "hf:d"


FORMATS = [
    npz,
    npz_packed,
    npz_float,
    h5,
    h5_float,
    one_parquet,
    odd_parquet,
    globbed,
    split_parquet,
    bare_parquet,
    list_parquet,
    hub,
    hub_split,
]


def read(source: Source, size: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = list(batches(source, size))
    return tuple(torch.cat([getattr(p, k) for p in parts]) for k in ("ids", "x", "y"))  # type: ignore[return-value]


@pytest.mark.parametrize("write", FORMATS)
def test_gives_back_what_was_written(
    write: Callable[..., str], here: Path, images: np.ndarray, labels: np.ndarray
) -> None:
    source = open_data(DataSpec(write(here, images, labels)))
    ids, x, y = read(source)
    assert (len(source), source.shape, source.image) == (12, (3, 6, 5), True)
    assert ids.tolist() == list(range(12))
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(images) / 255)
    assert y.dtype == torch.int64
    assert y.tolist() == labels.tolist() == source.labels().tolist()
    mixed = [7, 3, 4, 5, 11, 3, 0]
    batch = source.batch(mixed)
    assert batch.ids.tolist() == mixed
    assert torch.equal(batch.x, x[mixed])
    assert torch.equal(batch.y, y[mixed])
    assert source.batch([]).x.shape == (0, 3, 6, 5)
    with pytest.raises(IndexError, match="12"):
        source.batch([3, 12])
    with pytest.raises(IndexError):
        source.batch([-1])


@pytest.mark.parametrize("write", [npz, h5, one_parquet, hub])
def test_fingerprint_is_the_contents(
    write: Callable[..., str], here: Path, images: np.ndarray, labels: np.ndarray
) -> None:
    name = write(here, images, labels)
    prints = [open_data(DataSpec(name)).fingerprint() for _ in range(2)]
    write(here, images[::-1], labels)
    source = open_data(DataSpec(name))
    assert prints[0] == prints[1] != source.fingerprint()
    assert len(prints[0]) == 64
    assert torch.equal(source.batch([0]).x[0], torch.from_numpy(images[-1]) / 255)


def test_image_folder(here: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder(here / "d", images, labels)
    (here / "d" / "bee" / "notes.txt").write_text("not an image")
    (here / "d" / "bee" / ".hidden.png").write_text("nor this")
    (here / "d" / "zebra").mkdir()
    source = open_data(DataSpec("d"))
    order = np.argsort(labels, kind="stable")
    assert source.classes == ("ant", "bee", "cat", "zebra")
    assert torch.equal(read(source)[1], torch.from_numpy(images[order]) / 255)
    assert source.labels().tolist() == labels[order].tolist()
    before = source.fingerprint()
    picture(images[0]).save(here / "d" / "ant" / "003.png")
    assert open_data(DataSpec("d")).fingerprint() != before


def test_hub_layout_of_image_folders(here: Path, images: np.ndarray, labels: np.ndarray) -> None:
    source = open_data(DataSpec(hub_folder(here, images, labels)))
    order = np.argsort(labels, kind="stable")
    assert source.classes == tuple(NAMES)
    assert sorted(source.labels()) == sorted(labels)
    assert {tuple(x.flatten().tolist()) for x in read(source)[1]} == {
        tuple(x.flatten().tolist()) for x in torch.from_numpy(images[order]) / 255
    }


@pytest.mark.parametrize("write", [one_parquet, hub])
def test_class_names(
    write: Callable[..., str], here: Path, images: np.ndarray, labels: np.ndarray
) -> None:
    assert open_data(DataSpec(write(here, images, labels))).classes == tuple(NAMES)


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("1", (1, 4, 6)),
        ("L", (1, 4, 6)),
        ("P", (3, 4, 6)),
        ("RGBA", (4, 4, 6)),
        ("CMYK", (3, 4, 6)),
    ],
)
def test_image_modes(mode: str, shape: tuple[int, ...], here: Path) -> None:
    (here / "d" / "a").mkdir(parents=True)
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:, 3:] = 255
    Image.fromarray(rgb).convert(mode).save(here / "d" / "a" / "1.tiff")
    source = open_data(DataSpec("d"))
    x = source.batch([0]).x[0]
    assert source.shape == x.shape == shape
    assert x[0].tolist() == [[0.0] * 3 + [1.0] * 3] * 4


def test_sixteen_bits_turned_and_grey_among_coloured(here: Path) -> None:
    (here / "deep" / "a").mkdir(parents=True)
    Image.fromarray(np.array([[0, 65535], [32768, 1]], np.uint16)).save(here / "deep/a/1.png")
    x = open_data(DataSpec("deep")).batch([0]).x[0, 0]
    assert torch.equal(x, torch.tensor([[0, 1], [32768 / 65535, 1 / 65535]]))

    (here / "turned" / "a").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    flat = Image.fromarray(np.array([[0, 255, 255]], np.uint8))
    flat.save(here / "turned/a/1.png", exif=exif)
    assert open_data(DataSpec("turned")).batch([0]).x[0].tolist() == [[[0.0], [1.0], [1.0]]]

    (here / "mixed" / "a").mkdir(parents=True)
    Image.fromarray(np.full((2, 2, 3), 255, np.uint8)).save(here / "mixed/a/1.png")
    Image.fromarray(np.full((2, 2), 51, np.uint8)).save(here / "mixed/a/2.png")
    x = open_data(DataSpec("mixed")).batch([1]).x
    assert torch.equal(x, torch.full((1, 3, 2, 2), 51) / 255)


@pytest.mark.parametrize(
    ("stored", "shape", "image"),
    [
        ((5, 1, 7, 7), (1, 7, 7), True),
        ((5, 7, 7, 4), (4, 7, 7), True),
        ((5, 4, 4, 3), (3, 4, 4), True),
        ((5, 3, 4, 4), (3, 4, 4), True),
        ((5, 3, 9, 3), (3, 9, 3), True),
        ((5, 16, 8, 8), (16, 8, 8), False),
        ((5, 7, 8), (1, 7, 8), True),
        ((5, 9), (9,), False),
        ((5, 2, 3, 4, 5), (2, 3, 4, 5), False),
    ],
)
def test_layouts(stored: tuple[int, ...], shape: tuple[int, ...], image: bool) -> None:
    x = np.arange(np.prod(stored), dtype=np.uint8).reshape(stored)
    source = from_arrays(x, [0] * 5)
    assert (source.shape, source.image) == (shape, image)
    moved = shape != stored[1:] and len(stored) == 4
    expected = x.transpose(0, 3, 1, 2) if moved else x.reshape(5, *shape)
    assert torch.equal(source.batch([4, 1]).x, torch.from_numpy(expected[[4, 1]]) / 255)


def test_floats_keep_their_shape_and_range() -> None:
    x = np.linspace(-1, 1, 5 * 2 * 7).reshape(5, 2, 7)
    source = from_arrays(x, torch.arange(5), low=-1, high=1, classes=list("abcde"))
    assert (source.shape, source.image, source.classes) == ((2, 7), False, tuple("abcde"))
    assert torch.equal(source.batch(range(5)).x, torch.from_numpy(x).float())
    assert from_arrays(x.reshape(5, 14) / 2 + 0.5, [0] * 5).shape == (14,)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (0.1, 0.3)])
def test_integers_fill_the_box(low: float, high: float, here: Path) -> None:
    for top, kind in ((255, np.uint8), (65535, np.uint16)):
        values = np.array([[0, 3, top // 2, top]], kind)
        np.savez(here / "d.npz", x=values, y=[0])
        x = open_data(DataSpec("d.npz", low=low, high=high)).batch([0]).x
        exact = low + values / top * (high - low)
        assert torch.equal(x, torch.from_numpy(exact).float())
        assert x[0, 3] == torch.tensor(high, dtype=torch.float32)


def test_rounding_at_the_edge_is_clipped() -> None:
    x = np.array([[1 + 1e-7, -1e-8]])
    assert from_arrays(x, [0]).batch([0]).x.tolist() == [[1.0, 0.0]]


def test_keras_archive_has_both_splits(here: Path) -> None:
    x = np.eye(4, dtype=np.float32)
    np.savez(here / "d.npz", x_train=x, y_train=[0, 1, 2, 3], x_test=x[:1], y_test=[3])
    assert len(open_data(DataSpec("d.npz:train"))) == 4
    assert open_data(DataSpec("d.npz", split="test")).labels().tolist() == [3]
