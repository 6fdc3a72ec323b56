"""Signals that can be heard → clips: WAV data URIs."""

import base64
import io
import wave
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # values a second, where nobody said it
SLOWEST, FASTEST = 3_000, 768_000  # what browsers play
LONGEST = 4.0  # seconds of a clip
_SHORTEST = 4_000  # values; less than a quarter of a second at RATE tells an ear nothing

Array = NDArray[Any]


def is_signal(shape: tuple[int, ...]) -> bool:
    """(n,), or (1, n) and (2, n) of one or two channels."""
    return len(shape) == 1 or (len(shape) == 2 and shape[0] in (1, 2))


def rate_of(shape: tuple[int, ...], low: float, high: float, given: int | None) -> int | None:
    """How many values of a sample make a second; None where it is no sound.

    Where nobody said it, long signals around zero are taken for sound.
    """
    if not is_signal(shape):
        return None
    return given or (RATE if low < 0 < high and shape[-1] >= _SHORTEST else None)


def clip(x: Array, rate: int, low: float, high: float, factor: float = 1.0) -> str:
    """Values in [low, high], whose middle is silence, magnified and with 16 bits each."""
    channels = np.atleast_2d(x.astype(np.float64))[:, : round(LONGEST * rate)]
    unit = factor * (channels - (low + high) / 2) / ((high - low) / 2)
    frames = np.rint(np.clip(unit, -1, 1) * 32_767).astype("<i2").T
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(frames.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()
