"""Random changes of training samples that keep their class, by kornia."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust.core.defense import Frame
from robust.core.errors import RobustError

# By name: what its number is, and the least and the most that it may be.
NAMES = {
    "crop": ("pixels", 1, None),
    "flip": ("", None, None),
    "cutout": ("the side in pixels", 1, None),
    "mixup": ("alpha", 0.01, 100.0),
}


def parse_augment(texts: Sequence[str]) -> dict[str, float | None]:
    """["crop", "cutout:8"] → their numbers by name, None where none is given. RobustError for what
    is none of NAMES, or cannot be meant."""
    found: dict[str, float | None] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if name not in NAMES or name in found:
            why = "is given twice" if name in found else f"is none of {', '.join(NAMES)}"
            raise RobustError(f"--augment {name!r} {why}")
        what, least, most = NAMES[name]
        try:
            number = float(value) if colon else None
        except ValueError:
            number = -1.0
        if number is not None and (least is None or number < least or number > (most or number)):
            wants = f"wants a number after the colon ({what})" if what else "has no number"
            raise RobustError(f"--augment {text}: {name} {wants}")
        found[name] = number
    return found


@dataclass(frozen=True)
class Augment:
    """What happens to the samples of a batch, drawn from torch's global generator.

    crop      shifted by up to that many pixels each way, with zeros from behind the edges: an
              eighth of the shorter side (1512.03385, section 4.2)
    flip      left for right, every other one
    cutout    a square of that side takes the value of the box's middle: half of the shorter side
              (1708.04552)
    mixup     two samples mixed by a share from Beta(alpha, alpha), 0.2 unless given, and their
              losses by the same (1710.09412); inner attacks go away from the first, whose share is
              the larger one
    """

    given: dict[str, float | None]
    frame: Frame

    def check(self) -> None:
        """Raise RobustError where such samples cannot be changed so."""
        others = [name for name in self.given if name != "mixup"]
        if others and len(self.frame.shape) != 3:
            raise RobustError(
                f"--augment {others[0]} is for images (C, H, W), not for samples of shape "
                f"{self.frame.shape}: leave it out"
            )
        for name in ("crop", "cutout"):
            if name in self.given and self._pixels(name) > min(self.frame.shape[1:]):
                raise RobustError(
                    f"--augment {name}: the images have {self.frame.shape[1:]} pixels"
                )

    def _pixels(self, name: str) -> int:
        side = min(self.frame.shape[-2:])
        default = {"crop": round(side / 8), "cutout": round(side / 2)}[name]
        return max(1, int(self.given[name] or default))

    def __call__(self, x: Tensor, y: Tensor, loss: nn.Module) -> tuple[Tensor, Tensor, nn.Module]:
        """The changed samples, their labels, and the criterion for them."""
        for name in self.given:
            if name != "mixup":
                x = self._changed(name, x)
        if "mixup" not in self.given:
            return x, y, loss
        alpha = self.given["mixup"] or 0.2
        share = torch.distributions.Beta(alpha, alpha).sample((len(x),)).to(x)
        share = torch.maximum(share, 1 - share)
        other = torch.randperm(len(x)).to(x.device)
        weight = share.view(-1, *[1] * (x.dim() - 1))
        return weight * x + (1 - weight) * x[other], y, Mixed(loss, y[other], share)

    def _changed(self, name: str, x: Tensor) -> Tensor:
        from kornia import augmentation

        made: nn.Module
        if name == "flip":
            made = augmentation.RandomHorizontalFlip(p=0.5)
        elif name == "crop":
            size = self._pixels("crop")
            made = augmentation.RandomCrop(self.frame.shape[1:], padding=size, fill=self.frame.low)
        else:
            side, area = self._pixels("cutout"), self.frame.shape[1] * self.frame.shape[2]
            share = min(1.0, side**2 / area)
            made = augmentation.RandomErasing(
                scale=(share, share), ratio=(1.0, 1.0), value=0.5, p=1.0
            )
            return self.frame.own(made(self.frame.unit(x)))  # it knows values in [0, 1] alone
        changed: Tensor = made(x)
        return changed


class Mixed(nn.Module):
    """The criterion of samples that are mixed of two: (n, K), (n,) → (n,).

    other, share    the second label (n,) of each sample, and the share (n,) of the first. A batch
                    that holds the samples several times over repeats them in order
    """

    def __init__(self, criterion: nn.Module, other: Tensor, share: Tensor) -> None:
        super().__init__()
        self.criterion, self.other, self.share = criterion, other, share

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        times = len(y) // len(self.other)
        share, other = self.share.repeat(times), self.other.repeat(times)
        first: Tensor = self.criterion(logits, y)
        second: Tensor = self.criterion(logits, other)
        return share * first + (1 - share) * second
