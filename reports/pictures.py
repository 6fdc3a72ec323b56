"""Arrays → PNG data URIs, small enough to be carried inside the page."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 112  # pixels, about what a card has room for; larger images are shown smaller

# Where the perturbation of a grey image is negative and positive, on white.
_NEGATIVE, _POSITIVE = np.array([29.0, 92.0, 160.0]), np.array([190.0, 82.0, 20.0])

Array = NDArray[Any]


def is_image(shape: tuple[int, ...]) -> bool:
    """(channels, height, width) with as many channels as a picture has."""
    return len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 1


def image(x: Array, low: float, high: float) -> str:
    """Pixels (c, h, w) in [low, high] as a data URI."""
    levels = np.clip((x.astype(np.float64) - low) / (high - low), 0, 1) * 255
    return _uri(np.rint(levels), Image.Resampling.LANCZOS)


def perturbation(delta: Array, low: float, high: float) -> tuple[str, float]:
    """δ (c, h, w) as a data URI and the factor it was magnified by.

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
    return _uri(np.rint(levels), Image.Resampling.NEAREST), magnification(largest, low, high)


def magnification(largest: float, low: float, high: float) -> float:
    """How many times ± `largest` is stretched when it spans [low, high]."""
    return (high - low) / (2 * largest) if largest else 1.0


def _uri(levels: Array, resampling: Image.Resampling) -> str:
    pixels = levels.astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    picture.thumbnail((LARGEST, LARGEST), resampling)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
