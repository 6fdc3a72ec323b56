"""Random resizing and padding: the image a little smaller, somewhere on black."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError


@dataclass(frozen=True, kw_only=True)
class ResizePad(InputDefense):
    """Shrink each image to a random size and put it at a random place (Xie et al., 1711.01991).

    Bilinear; size and place are drawn anew with every forward, for each image of its own. What is
    around it has the lowest value of the range. Exposed as it is, for it is differentiable.
    Departure: the paper enlarges images and pads them to a larger frame, which wants a network that
    takes any size; here the frame has the size that the network was made for. The default is the
    paper's ratio, 299 to 331.

    smallest    the least size as a share of the image's, above 0 and below 1, rounded to pixels and
                at least one pixel less than the image; both sides shrink alike

    Raises RobustError for another share, and for samples that are no images.
    """

    family: ClassVar[str] = "randomization"
    paper: ClassVar[str] = "1711.01991"
    claims: ClassVar[str] = "a perturbation does not survive being moved and resized"
    broken_by: ClassVar[str] = "expectation over transformation (1802.00420)"
    gradient: ClassVar = "own"
    smallest: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.smallest < 1:
            raise RobustError(
                f"smallest is a share of the image's size, above 0 and below 1, not "
                f"{self.smallest:g}"
            )

    def check(self, frame: Frame) -> None:
        if not frame.image:
            shape = tuple(frame.shape)
            raise RobustError(
                f"it resizes images (1 or 3 channels, height, width), not samples of shape {shape}"
            )
        if min(frame.shape[1:]) < 2:
            raise RobustError(f"images of {frame.shape[1]} × {frame.shape[2]} cannot be shrunk")

    @property
    def draws(self) -> int:
        return 30

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        height, width = x.shape[2:]
        longest = max(height, width)
        least = max(1, min(longest - 1, round(self.smallest * longest)))
        size = torch.randint(least, longest + 1, (len(x),), device=x.device) / longest
        down, inside_down = _sampled(height, size)
        across, inside_across = _sampled(width, size)
        grid = torch.stack(
            [
                across.view(-1, 1, width).expand(-1, height, -1),
                down.view(-1, height, 1).expand(-1, -1, width),
            ],
            dim=3,
        )
        moved = grid_sample(x, grid.to(x), "bilinear", "border", align_corners=False)
        inside = inside_down.view(-1, 1, height, 1) & inside_across.view(-1, 1, 1, width)
        return moved.where(inside, frame.low)


def _sampled(length: int, size: Tensor) -> tuple[Tensor, Tensor]:
    """Along one side of so many pixels: where each pixel of the new image is read from, in the
    units of grid_sample, float (n, length), and whether it lies in the shrunk image, bool.
    """
    pixels = (size * length).round().clamp(min=1)
    room = length - pixels
    start = (torch.rand_like(room) * (room + 1)).floor().minimum(room)
    place = torch.arange(length, device=size.device) - start.view(-1, 1)
    inside = (place >= 0) & (place < pixels.view(-1, 1))
    return (2 * place + 1) / pixels.view(-1, 1) - 1, inside
