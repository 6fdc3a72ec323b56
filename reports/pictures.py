"""Arrays → pixels, and many small pictures → a few sheets, each one WebP data URI."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 112  # pixels, about what a card has room for; larger images are shown smaller
CRISP = 64  # pixels; up to here every one is kept as it is, and can be told from its neighbours
_SHEET = 50  # pictures below each other; browsers draw no image of more than 16,384 pixels
_EDGE = 1  # pixels around each picture that repeat its own, so that scaling mixes in no other's

# Where the perturbation of a grey image is negative and positive, on white.
_NEGATIVE, _POSITIVE = np.array([29.0, 92.0, 160.0]), np.array([190.0, 82.0, 20.0])

Array = NDArray[Any]
Pixels = NDArray[np.uint8]


def is_image(shape: tuple[int, ...]) -> bool:
    """(channels, height, width) with as many channels as a picture has."""
    return len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 1


def image(x: Array, low: float, high: float) -> Pixels:
    """Values (c, h, w) in [low, high] as pixels (h, w, 3 or 4), at most LARGEST a side."""
    levels = np.clip((x.astype(np.float64) - low) / (high - low), 0, 1) * 255
    return _small(np.rint(levels), Image.Resampling.LANCZOS)


def perturbation(delta: Array, low: float, high: float) -> tuple[Pixels, float]:
    """δ (c, h, w) as pixels and the factor it was magnified by.

    ± its largest entry spans the full range: black to white around mid-grey where δ is 0 for
    colour images, blue to orange around white for grey ones.
    """
    delta = delta.astype(np.float64)
    largest = float(np.abs(delta).max())
    unit = delta / (largest or 1.0)
    if len(unit) == 1:
        amount = np.abs(unit[0])[..., None]
        tint = np.where(unit[0][..., None] < 0, _NEGATIVE, _POSITIVE)
        levels = np.moveaxis(255 * (1 - amount) + tint * amount, -1, 0)
    else:
        levels = 127.5 * (1 + unit[:3])
    return _small(np.rint(levels), Image.Resampling.NEAREST), magnification(largest, low, high)


def magnification(largest: float, low: float, high: float) -> float:
    """How many times ± `largest` is stretched when it spans [low, high]."""
    return (high - low) / (2 * largest) if largest else 1.0


def _small(levels: Array, resampling: Image.Resampling) -> Pixels:
    pixels = np.moveaxis(levels.astype(np.uint8), 0, -1)
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, -1)
    if max(pixels.shape[:2]) <= LARGEST:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST), resampling)
    return np.asarray(picture)


@dataclass(frozen=True)
class Place:
    """Where a row of pictures lies: the number of its sheet, and how far down, in percent as CSS
    places a background.
    """

    sheet: int
    down: float


@dataclass
class Sheet:
    """Rows of pictures in one image.

    uri         the image
    across      of each column, in percent as CSS places a background
    wide, high  the image's size, in those of one picture
    """

    uri: str
    across: list[float]
    wide: float
    high: float


def pack(
    rows: Sequence[Sequence[Pixels]], budget: int, lossless: bool
) -> tuple[list[Sheet], list[Place]]:
    """As many rows, all of one size, as sheets of at most `budget` characters hold; one at least.

    Returns the sheets, and the places of the first rows; the others found no room.
    """
    sheets, places, most = list[Sheet](), list[Place](), _SHEET
    while most and len(places) < len(rows):
        some = rows[len(places) : len(places) + most]
        sheet, down = _sheet(some, lossless)
        if len(sheet.uri) > budget and (len(some) > 1 or places):
            most = len(some) // 2
            continue
        budget -= len(sheet.uri)
        places += [Place(len(sheets), percent) for percent in down]
        sheets.append(sheet)
    return sheets, places


def _sheet(rows: Sequence[Sequence[Pixels]], lossless: bool) -> tuple[Sheet, list[float]]:
    edge = ((_EDGE, _EDGE), (_EDGE, _EDGE), (0, 0))
    whole = np.vstack([np.hstack([np.pad(p, edge, "edge") for p in row]) for row in rows])
    height, width = rows[0][0].shape[:2]

    def ends(count: int, size: int) -> list[float]:
        starts = (k * (size + 2 * _EDGE) + _EDGE for k in range(count))
        return [100 * start / (count * (size + 2 * _EDGE) - size) for start in starts]

    buffer = io.BytesIO()
    picture = Image.fromarray(whole)
    if lossless:
        picture.save(buffer, "WEBP", lossless=True, quality=60, method=3, exact=True)
    else:
        picture.save(buffer, "WEBP", quality=80, method=3)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    size = whole.shape[1] / width, whole.shape[0] / height
    return Sheet(uri, ends(len(rows[0]), width), *size), ends(len(rows), height)
