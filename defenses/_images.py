"""What defenses share that look at the neighbours of a pixel."""

from collections.abc import Collection

from torch import Tensor
from torch.nn.functional import pad

from robust.core.defense import Frame
from robust.core.errors import RobustError


def refuse_all_but_images(
    frame: Frame, *, channels: Collection[int] | None = None, least: int = 1
) -> None:
    """RobustError unless samples are images (C, H, W) with so many channels (None: any number),
    at least so high and wide."""
    shape = frame.shape
    known = len(shape) == 3 and (channels is None or shape[0] in channels)
    if known and min(shape[1:]) >= least:
        return
    what = "images (C, H, W)"
    if channels is not None:
        what += f" of {' or '.join(map(str, channels))} channels"
    if least > 1:
        what += f" of at least {least}×{least} pixels"
    raise RobustError(f"it takes {what}, not samples of shape {tuple(shape)}")


def refuse_even(name: str, value: int) -> None:
    """RobustError unless a window of that size has a pixel in its middle, and others around it."""
    if value < 3 or value % 2 == 0:
        raise RobustError(f"{name} is an odd number of pixels from 3 on, not {value}")


def windows(x: Tensor, size: int) -> Tensor:
    """The size × size pixels around each pixel: (n, C, H, W) → (n, C, H, W, size²).

    Images go on beyond their borders as if mirrored there, the border itself not repeated.
    """
    reach = size // 2
    padded = pad(x, [reach] * 4, mode="reflect")
    return padded.unfold(2, size, 1).unfold(3, size, 1).flatten(4)
