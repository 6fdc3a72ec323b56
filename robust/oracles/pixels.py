"""Samples as a service wants them: scaled, laid out, and written as JSON."""

import base64
import io
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robust.core.errors import RobustError
from robust.models.wrappers import check_normalisation, standardise

LAYOUTS = ("channels-first", "channels-last")


@dataclass(frozen=True)
class Pixels:
    """From samples x (n, *shape) in [low, high] to what is sent.

    eight_bit   rounded to 0 … 255, else float32
    scale       where low and high go, if floats are sent; None: they stay
    mean, std   (x − mean) / std per channel, as in load_model; for floats only
    last        channels come last
    form        shape of one sample as it is sent, of as many values
    """

    low: float
    high: float
    eight_bit: bool = False
    scale: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    last: bool = False
    form: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.mean is None and self.std is None:
            return
        check_normalisation(self.mean, self.std)
        if self.eight_bit or self.scale is not None:
            raise RobustError(
                "--mean and --std are not for a service that scales or rounds the values itself"
            )

    def prepare(self, x: Tensor) -> np.ndarray:
        """(n, *form), float32 or uint8. RobustError for NaN."""
        x = x.detach().float().cpu()
        if not bool(x.isfinite().all()):
            raise RobustError("a service cannot be asked about values that are not finite")
        if self.mean is not None or self.std is not None:
            means, stds = check_normalisation(self.mean, self.std)
            x = standardise(x, torch.tensor(means), torch.tensor(stds))
        span = self.high - self.low
        if self.eight_bit:
            x = ((x - self.low) / span * 255).round().clamp(0, 255).to(torch.uint8)
        elif self.scale is not None:
            low, high = self.scale
            x = (x - self.low) / span * (high - low) + low
        if self.last and x.dim() > 2:
            x = x.movedim(1, -1)
        form = x.shape[1:] if self.form is None else self.form
        return np.ascontiguousarray(x.reshape(len(x), *form).numpy())


def numbers(values: np.ndarray, *, double: bool = False) -> str:
    """JSON of an array, nested as it is, from which each number is read back exactly.

    float32 takes 9 digits, after which no other is as near; `double` gives all the digits that the
    same number has as a float64.
    """
    if values.dtype.kind != "f":
        how = "%d"
    elif double or float(np.abs(values).max(initial=0.0)) >= 1e8:
        how = "%r"
    else:
        how = "%#.9g"  # always with a decimal point: some services tell floats by it
    return _pattern(values.shape, how) % tuple(values.ravel().tolist())


@lru_cache(maxsize=16)
def _pattern(shape: tuple[int, ...], how: str) -> str:
    if not shape:
        return how
    return "[" + ",".join([_pattern(shape[1:], how)] * shape[0]) + "]"


def png(image: np.ndarray) -> str:
    """base64 of a PNG of one image, uint8 (h, w, c) of 1, 3 or 4 channels."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        file, "PNG", compress_level=1
    )
    return base64.b64encode(file.getvalue()).decode("ascii")


def refuse_no_image(shape: tuple[int, ...]) -> None:
    """RobustError unless samples of this shape can be written as a PNG."""
    if len(shape) != 3 or shape[0] not in (1, 3, 4):
        raise RobustError(f"samples of shape {shape} are no images that a PNG could hold")


def forms(shape: tuple[int, ...]) -> list[tuple[str, bool, tuple[int, ...]]]:
    """The ways to lay out one sample: (name, channels last, shape as sent), likeliest first."""
    flat = ("flat", False, (math.prod(shape),))
    if len(shape) != 3:
        return [("as it is", False, shape), *([flat] if len(shape) > 1 else [])]
    c, h, w = shape
    found = [("channels-first", False, shape), ("channels-last", True, (h, w, c))]
    return [*found, *([("grey", False, (h, w))] if c == 1 else []), flat]
