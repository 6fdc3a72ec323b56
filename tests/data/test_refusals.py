"""Bad input: one line each, that says what is wrong and what to do."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import encoded, folder, hdf5, parquet, picture, table
from PIL import Image

from robust.core.errors import RobustError
from robust.data import DataSpec, batches, from_arrays, open_data

X = np.zeros((4, 3, 5, 5), np.uint8)
Y = np.arange(4)


def refusal(source: str, **how: Any) -> str:
    with pytest.raises(RobustError) as caught:
        list(batches(open_data(DataSpec(source, **how)), 2))
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 250
    return line


def saved(**arrays: Any) -> str:
    np.savez("d.npz", **arrays)
    return "d.npz"


def floats(value: float) -> np.ndarray:
    x = np.zeros((4, 7), np.float32)
    x[2, 3] = value
    return x


ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"x": X}, "d.npz has no y: it has x"),
    ({"a": X, "b": Y}, "d.npz has no x: it has a, b"),
    ({"x": X, "images": X, "y": Y}, "ambiguous"),
    ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}, "choose with :train or :test"),
    ({"x": X, "y": Y[:3]}, "x has 4 samples, but y has 3"),
    ({"x": X[:0], "y": Y[:0]}, "d.npz is empty"),
    ({"x": X.astype(np.int64), "y": Y}, "type int64: save it as uint8"),
    ({"x": X.astype(bool), "y": Y}, "type bool"),
    ({"x": X.astype(complex), "y": Y}, "type complex128"),
    ({"x": np.array(["a"] * 4), "y": Y}, "d.npz has shape (4,)"),
    ({"x": np.array([["a"]] * 4), "y": Y}, "type <U1"),
    ({"x": np.array([[{}]] * 4, object), "y": Y}, "never unpickled"),
    ({"x": X, "y": np.array([{}] * 4, object)}, "never unpickled"),
    ({"x": np.asfortranarray(floats(0)), "y": Y}, "ascontiguousarray"),
    ({"x": floats(0)[:, 0], "y": Y}, "x in d.npz has shape (4,)"),
    (
        {"x": floats(255), "y": Y},
        "pixels outside the box: x has values from 0 to 255 in d.npz, but the range is [0, 1]; "
        "pass --range 0,255 or rescale",
    ),
    ({"x": floats(-0.5), "y": Y}, "pass --range -1,1"),
    ({"x": floats(1.001), "y": Y}, "pixels outside the box"),
    ({"x": floats(-300), "y": Y}, "pass --range -300,0"),
    ({"x": floats(np.nan), "y": Y}, "not finite: first in sample 2"),
    ({"x": floats(np.inf), "y": Y}, "not finite: first in sample 2"),
    ({"x": X, "y": Y - 2}, "negative label: -2 for sample 0"),
    ({"x": X, "y": np.array([0, 1, -1, -1])}, "negative label: -1 for sample 2"),
    ({"x": X, "y": Y.astype(float)}, "whole numbers"),
    ({"x": X, "y": Y.astype(bool)}, "whole numbers"),
    ({"x": X, "y": np.array(list("abcd"))}, "whole numbers"),
    ({"x": X, "y": np.array(3)}, "whole numbers"),
    ({"x": X, "y": np.eye(4) * 0.5}, "sample 0 is not one-hot"),
    ({"x": X, "y": np.array([[1, 0], [0, 1], [1, 1], [0, 0]])}, "sample 2 is not one-hot"),
    ({"x": X, "y": np.array([0, 1, 2, 2**64 - 1], np.uint64)}, "18446744073709551615"),
]


@pytest.mark.parametrize(("arrays", "says"), ARRAYS)
def test_arrays(arrays: dict[str, Any], says: str, here: Path) -> None:
    assert says in refusal(saved(**arrays))


# The order of an array's axes matters in a file alone: memory holds columns as well as rows.
IN_MEMORY = [
    arrays
    for arrays, says in ARRAYS
    if list(arrays) == ["x", "y"] and "ascontiguousarray" not in says
]


@pytest.mark.parametrize("arrays", IN_MEMORY)
def test_arrays_in_memory(arrays: dict[str, Any]) -> None:
    with pytest.raises(RobustError):
        from_arrays(arrays["x"], arrays["y"])


def test_a_pickle_in_an_archive_is_not_executed(here: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, ("exploded",)

    for arrays in ({"x": np.array([[Bomb()]] * 4), "y": Y}, {"x": X, "y": np.array([Bomb()] * 4)}):
        refusal(saved(**arrays))
    (here / "d.npz").write_bytes(pickle.dumps(Bomb()))
    refusal("d.npz")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_damaged_files(suffix: str, here: Path) -> None:
    path = Path("d" + suffix)
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 9, 9), dtype=np.uint8)
    if suffix == ".npz":
        np.savez(path, x=x, y=np.arange(40))
    elif suffix == ".h5":
        hdf5(path, x=x, y=np.arange(40))
    else:
        parquet(path, x, np.arange(40) % 3)
    whole = path.read_bytes()
    open_data(DataSpec(str(path)))
    for part in (10, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:part])
        assert str(path) in refusal(str(path))
    path.write_bytes(b"")
    assert refusal(str(path)) == f"{path} is empty"
    if suffix == ".npz":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + b"????" + whole[middle + 4 :])
        assert "damaged" in refusal(str(path))
    path.write_text("hello, world, this is text")
    assert "damaged, or has the wrong name" in refusal(str(path))
    Image.new("L", (3, 3)).save(path, "PNG")
    assert refusal(str(path)).startswith(f"{path} is one image")
    path.unlink()
    assert refusal(str(path)) == f"there is no file {path}"
    np.save("one.npy", x)
    Path("one.npy").rename(path)
    assert "np.savez" in refusal(str(path))


def test_wrong_names(here: Path) -> None:
    saved(x=X, y=Y)
    Path("d.npz").rename("d.h5")
    assert refusal("d.h5") == "d.h5 holds .npz, not HDF5: rename it"
    Path("d.h5").rename("d.data")
    assert len(open_data(DataSpec("d.data"))) == 4
    assert "there is no data called cifar" in refusal("cifar")
    assert "download it" in refusal("https://example.org/d.npz")
    assert refusal("*.parquet") == "no file matches *.parquet"
    assert "not a parquet file" in refusal("*.data")
    assert "there is no folder" in refusal("hf:./nothing")
    import zipfile

    with zipfile.ZipFile("d.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    assert "without arrays" in refusal("d.npz")
    with pytest.raises(RobustError):
        DataSpec("")


def test_splits_and_ranges(here: Path) -> None:
    saved(x=X, y=Y)
    assert "d.npz has no x_test: it has x, y" in refusal("d.npz", split="test")
    folder(here / "f", X, Y % 3)
    assert "f has no splits" in refusal("f", split="test")
    assert "train and test, not dev" in refusal("digits", split="dev")
    assert "names the split train" in refusal("digits:train", split="test")
    assert "too few" in refusal(saved(x=X[:1], y=Y[:1]), split="held-in")
    for how in ({"fraction": 0.0}, {"fraction": 1.0}, {"low": 1.0}, {"high": float("nan")}):
        with pytest.raises(RobustError):
            DataSpec("digits", **how)


def test_hub_layout(here: Path) -> None:
    for split in ("train", "validation"):
        parquet(here / f"d/data/{split}-00000-of-00001.parquet", X, Y % 3)
    assert refusal("hf:d") == "hf:d has the splits train, validation: add one, as in hf:d:train"
    assert refusal("hf:d:test") == "hf:d has the splits train, validation, not test"
    assert len(open_data(DataSpec("hf:d:validation"))) == 4
    (here / "empty").mkdir()
    assert refusal("hf:empty").startswith("hf:empty cannot be loaded: ")


def test_hdf5_links_and_foreign_storage(here: Path) -> None:
    import h5py

    hdf5(here / "other.h5", x=X, y=Y)
    for key, value, says in (
        ("x", h5py.ExternalLink("other.h5", "/x"), "x in d.h5 is a link"),
        ("x", h5py.SoftLink("/y"), "x in d.h5 is a link"),
    ):
        hdf5(here / "d.h5", **{"y": Y, key: value})
        assert says in refusal("d.h5")
    with h5py.File("d.h5", "w") as file:
        file["y"] = Y
        file.create_dataset("x", (4, 7), "u1", external=[("other.h5", 0, 28)])
    assert "kept in other files" in refusal("d.h5")
    with h5py.File("d.h5", "w") as file:
        file["y"] = Y
        layout = h5py.VirtualLayout(X.shape, "u1")
        layout[:] = h5py.VirtualSource("other.h5", "x", X.shape)
        file.create_virtual_dataset("x", layout)
    assert "kept in other files" in refusal("d.h5")
    with h5py.File("d.h5", "w") as file:
        file["y"] = Y
        file.create_group("x")
    assert "x in d.h5 is a group" in refusal("d.h5")
    hdf5(here / "d.h5", x=h5py.Empty("u1"), y=Y)
    assert "d.h5 is empty" in refusal("d.h5")
    hdf5(here / "d.h5", x=["a", "b"], y=Y[:2])
    assert "not an array of numbers" in refusal("d.h5")
    hdf5(here / "d.h5", x=floats(2), y=Y)
    assert "pixels outside the box: x has values from 0 to 2 in d.h5" in refusal("d.h5")


def test_folders(here: Path) -> None:
    (here / "f").mkdir()
    assert "f is empty" in refusal("f")
    picture(X[0]).save("f/1.png")
    assert "one folder per class" in refusal("f")
    folder(here / "f", X, Y % 2)
    Path("f/1.png").unlink()
    open_data(DataSpec("f"))
    Image.new("RGB", (6, 5)).save("f/bee/001.png")
    assert refusal("f") == (
        "images differ in size: f/bee/001.png is 6×5 with 3 channels, "
        "the first is 5×5 with 3 channels; resize them first"
    )
    Image.new("F", (5, 5)).save("f/bee/001.tiff")
    Path("f/bee/001.png").unlink()
    assert "f/bee/001.tiff is an image of mode F" in refusal("f")
    Path("f/bee/001.tiff").write_bytes(encoded(X[0])[:40])
    assert "f/bee/001.tiff is not a readable image" in refusal("f")
    Path("f/bee/001.tiff").unlink()
    Image.fromarray(np.zeros((5, 5), np.uint16)).save("f/bee/001.png")
    assert "1 channel, the first is" in refusal("f")
    folder(here / "deep/test", X, Y % 2)
    assert "folders within folders (test/ant): give the one" in refusal("deep")


def test_parquet_rows(here: Path) -> None:
    ok = [encoded(i) for i in X]
    table(here / "d.parquet", image=ok, label=["a"] * 4)
    assert "label in d.parquet is text" in refusal("d.parquet")
    table(here / "d.parquet", image=ok, label=[1, None, 0, 1])
    assert "1 samples without a label" in refusal("d.parquet")
    table(here / "d.parquet", image=ok, label=[0, -1, -1, 0])
    assert "negative label: -1 for sample 1" in refusal("d.parquet")
    table(here / "d.parquet", image=ok, caption=["a"] * 4)
    assert "d.parquet has no y: it has caption, image" in refusal("d.parquet")
    table(here / "d.parquet", image=[*ok[:3], None], label=Y)
    assert "sample 3 of d.parquet has no image" in refusal("d.parquet")
    table(here / "d.parquet", image=[*ok[:2], b"GIF89a", ok[0]], label=Y)
    assert "sample 2 of d.parquet is not a readable image" in refusal("d.parquet")
    picture(X[0]).save("secret.png")
    rows = [{"bytes": None, "path": str(here / "secret.png")}] * 4
    table(here / "d.parquet", image=rows, label=Y)
    assert "sample 0 of d.parquet has no image" in refusal("d.parquet")
    table(here / "d.parquet", x=[[0.0, 1.0], [0.5], [1.0], [0.0]], y=Y)
    assert "sample 1 of d.parquet is (1,), the first is (2,)" in refusal("d.parquet")
    table(here / "d.parquet", x=[[0.0], [0.5], [7.0], [0.0]], y=Y)
    assert "pixels outside the box: x has values from 0 to 7 in" in refusal("d.parquet")
    table(here / "d.parquet", x=[0.0] * 4, y=Y)
    assert "neither images nor arrays" in refusal("d.parquet")
    table(here / "d.parquet", image=ok[:0], label=Y[:0])
    assert "d.parquet is empty" in refusal("d.parquet")
    for split in ("train", "test"):
        parquet(here / f"p/{split}-0.parquet", X, Y % 3)
    assert "p holds several splits (test, train)" in refusal("p")
    assert "p has no dev split" in refusal("p", split="dev")
