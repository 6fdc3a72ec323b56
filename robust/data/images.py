"""Pictures as arrays: one (H, W, C) or (H, W), uint8 or uint16, for each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.core.errors import RobustError

# Modes whose values are taken as they are; the others are converted without losing colour or
# transparency. 32-bit integers and floats have no fixed range, and are refused.
_KEPT = ("L", "RGB", "RGBA", "I;16")
_CONVERTED = {
    "1": "L",
    "P": "RGB",
    "LA": "RGBA",
    "PA": "RGBA",
    "La": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
    "I;16L": "I;16",
    "I;16B": "I;16",
    "I;16N": "I;16",
}


def pixels_of(picture: Any, what: str) -> NDArray[Any]:
    """A PIL image as (H, W, C): C is 1, 3 or 4. (`datasets` has turned it as its EXIF says.)

    what: how an error names it. Raises RobustError for a mode that has no fixed range.
    """
    mode = picture.mode
    if mode in _CONVERTED:
        picture = picture.convert(_CONVERTED[mode])
    elif mode not in _KEPT:
        raise RobustError(f"{what} is an image of mode {mode}: save it as 8-bit grey or RGB")
    array: NDArray[Any] = np.array(picture)
    return array[:, :, None] if array.ndim == 2 else array


def fit(array: NDArray[Any], shape: Sequence[int], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """The picture, if it is of this shape (H, W, C) and type. Grey ones fit among coloured ones."""
    if array.dtype == dtype and array.shape[2] == 1 and shape[2] == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape != tuple(shape):
        size, first = (_size(s) for s in (array.shape, shape))
        raise RobustError(
            f"images differ in size: {what} is {size}, the first is {first}; resize them first"
        )
    if array.dtype != dtype:
        raise RobustError(
            f"images differ in depth: {what} has {8 * array.itemsize} bits a channel, the first "
            f"has {8 * dtype.itemsize}; convert them first"
        )
    return array


def _size(shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{width}×{height} with {channels} channel{'s' if channels > 1 else ''}"
