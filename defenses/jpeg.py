"""JPEG: what compression throws away, a perturbation cannot use."""

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError

from ._images import refuse_all_but_images


@dataclass(frozen=True, kw_only=True)
class Jpeg(InputDefense):
    """Write each image as JPEG and read it again (Dziugaite et al., 1608.00853; 1711.00117).

    Deployed, that is what Pillow does with 8-bit pixels, grey or RGB with halved chroma. Exposed,
    its gradient is that of kornia's differentiable codec (Reich et al., 2309.06978; the idea is
    Shin & Song's), in which rounding is smooth. Images (C, H, W) of 1 or 3 channels, of any size:
    codecs fill up what is missing to whole blocks by themselves.

    quality     1 to 95, as in Pillow: 75 is its default, above 95 files grow and hardly anything
                is lost

    Raises RobustError for other qualities, and for other samples.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1608.00853"
    claims: ClassVar[str] = "perturbations are lost with the details that compression drops"
    broken_by: ClassVar[str] = "BPDA (1802.00420), differentiable JPEG (2309.06978)"
    quality: int = 75

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise RobustError(f"quality is a whole number from 1 to 95, not {self.quality}")

    def check(self, frame: Frame) -> None:
        refuse_all_but_images(frame, channels=(1, 3))

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        pixels = (frame.unit(x.detach()).clamp(0, 1) * 255).round().byte().cpu()
        made = [self._through(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
        back = torch.from_numpy(np.stack(made)).to(x.device).permute(0, 3, 1, 2)
        return frame.own(back.to(x.dtype) / 255)

    def _through(self, image: np.ndarray) -> np.ndarray:
        """One image (H, W, C) uint8."""
        file = io.BytesIO()
        grey = image.shape[2] == 1
        Image.fromarray(image[..., 0] if grey else image).save(file, "JPEG", quality=self.quality)
        return np.asarray(Image.open(file)).reshape(image.shape)

    def stand_in(self, x: Tensor, frame: Frame) -> Tensor:
        from kornia.enhance import jpeg_codec_differentiable  # half a second to import

        grey = x.shape[1] == 1
        unit = frame.unit(x).expand(-1, 3, -1, -1)
        quality = torch.tensor([float(self.quality)], dtype=x.dtype, device=x.device)
        near = jpeg_codec_differentiable(unit, quality)
        return frame.own(near.mean(1, keepdim=True) if grey else near)
