"""Write data files of each format, as other tools would."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ["ant", "bee", "cat"]


def encoded(image: np.ndarray) -> bytes:
    """One CHW uint8 image as PNG."""
    buffer = io.BytesIO()
    picture(image).save(buffer, "PNG")
    return buffer.getvalue()


def picture(image: np.ndarray) -> Image.Image:
    """One CHW uint8 image as PIL."""
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def parquet(path: Path, x: np.ndarray, y: np.ndarray, *, group: int = 100) -> None:
    """An image data set as `datasets` writes it, in one or more row groups."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    rows = [{"bytes": encoded(i), "path": None} for i in x]
    data = datasets.Dataset.from_dict({"image": rows, "label": list(y)}, features=features)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(path), batch_size=group)


def table(path: Path, **columns: object) -> None:
    """A parquet file that knows nothing of `datasets`."""
    import pyarrow
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), path)


def folder(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """A folder of images per class; the names sort as the samples do, within a class."""
    for i, (image, k) in enumerate(zip(x, y, strict=True)):
        (path / NAMES[k]).mkdir(parents=True, exist_ok=True)
        picture(image).save(path / NAMES[k] / f"{i:03}.png")


def hdf5(path: Path, **arrays: object) -> None:
    """Arrays at the top of an HDF5 file."""
    import h5py

    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
