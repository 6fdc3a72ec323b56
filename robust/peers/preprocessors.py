"""The preprocessors of ART, each as a defense of ours: `art:JpegCompression,quality=50`."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from robust.core.defense import Frame, InputDefense
from robust.core.errors import RobustError

from .peer import parameters
from .shield import own_randomness, quiet

_DRAWS = 20


@dataclass(frozen=True)
class Handling:
    """What must be known of a preprocessor to run it.

    images      it works on images (C, H, W) alone
    random      it answers differently every time
    last        it wants channels last, and has no parameter to say otherwise
    torch       it works on tensors, and an attacker differentiates it exactly
    twin        the name of one that does the same on tensors, whose gradient an attacker takes
    fixed       parameters that are not the user's to set, with their values
    paper       where the package names another one, or none
    """

    images: bool = True
    random: bool = False
    last: bool = False
    torch: bool = False
    twin: str = ""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paper: str = ""


_HANDLING = {
    "FeatureSqueezing": Handling(images=False),
    "GaussianAugmentation": Handling(
        images=False, random=True, fixed={"augmentation": False, "ratio": 1.0}
    ),
    "JpegCompression": Handling(),
    "SpatialSmoothing": Handling(twin="SpatialSmoothingPyTorch"),
    "SpatialSmoothingPyTorch": Handling(torch=True),
    "TotalVarMin": Handling(random=True, last=True, paper="1711.00117"),
}

_TRAINING = "it changes training data and their labels, and nothing of a deployed model"
_SOUND = "it is for sound, and needs packages of its own"
_VIDEO = "it is for video, and needs ffmpeg"
_TENSORFLOW = "it needs TensorFlow"
_LEFT_OUT = {
    **dict.fromkeys(
        (
            *("CutMix", "CutMixPyTorch", "Cutout", "CutoutPyTorch"),
            *("LabelSmoothing", "Mixup", "MixupPyTorch"),
        ),
        _TRAINING,
    ),
    **dict.fromkeys(
        (
            *("CutMixTensorFlowV2", "CutoutTensorFlowV2", "MixupTensorFlowV2"),
            "SpatialSmoothingTensorFlowV2",
        ),
        _TENSORFLOW,
    ),
    **dict.fromkeys(("Mp3Compression", "Mp3CompressionPyTorch", "Resample"), _SOUND),
    **dict.fromkeys(("VideoCompression", "VideoCompressionPyTorch"), _VIDEO),
    "PixelDefend": "it needs a PixelCNN, an object of Python",
    "ThermometerEncoding": "it changes the shape of samples: take thermometer, which trains for it",
}

# Parameters of theirs that are not the user's to set, and why.
_RESERVED = {
    "clip_values": "it works on values in [0, 1], as which the data come in",
    "channels_first": "samples have their channels first",
    **dict.fromkeys(("apply_fit", "apply_predict"), "a defense is applied wherever a model is"),
    "verbose": "the engine shows what happens",
    "device_type": "it runs on the processor",
}


@dataclass(frozen=True, kw_only=True)
class ArtPreprocessor(InputDefense):
    """Run on the processor, on values scaled to [0, 1]; the model stays where it is.

    Its randomness is the global generators', seeded from torch's and restored. Exposed as the
    identity (BPDA, 1802.00420), but for those that ART has for tensors, which are differentiated.
    """

    family: ClassVar[str] = "denoising"
    claims: ClassVar[str] = "small perturbations are taken off before the model looks"
    broken_by: ClassVar[str] = "BPDA, with EOT where it is random (1802.00420)"
    theirs: ClassVar[Any]
    handling: ClassVar[Handling]
    reserved: ClassVar[Mapping[str, str]] = _RESERVED

    def __post_init__(self) -> None:
        try:
            with quiet():
                self._make(self.theirs)
        except Exception as error:  # somebody else's code may fail in any way
            raise self._complaint(error) from error

    @property
    def draws(self) -> int:
        return _DRAWS if self.handling.random else 1

    def check(self, frame: Frame) -> None:
        if self.handling.images and len(frame.shape) != 3:
            raise RobustError(f"it takes images (C, H, W), not samples of shape {frame.shape}")
        x = torch.full((1, *frame.shape), frame.low)
        try:
            with torch.random.fork_rng(devices=[]):
                found = self.transform(x, frame)
        except Exception as error:
            raise self._complaint(error) from error
        if found.shape != x.shape:
            raise RobustError(
                f"it makes samples of shape {tuple(found.shape[1:])} of {frame.shape}, which the "
                "model does not take"
            )

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        unit = frame.unit(x).clamp(0, 1)
        with quiet():
            if self.handling.torch:
                made, _ = self._make(self.theirs).forward(unit.cpu())
                return frame.own(made.to(x))
            # Theirs may write into what they are given.
            values = unit.detach().cpu().float().numpy().copy()
            if self.handling.last:
                values = np.moveaxis(values, 1, -1)
            if self.handling.random:
                rng = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
                with own_randomness(rng):
                    found, _ = self._make(self.theirs)(values)
            else:
                found, _ = self._make(self.theirs)(values)
        if self.handling.last:
            found = np.moveaxis(found, -1, 1)
        return frame.own(torch.from_numpy(np.ascontiguousarray(found)).to(x))

    def stand_in(self, x: Tensor, frame: Frame) -> Tensor:
        if not self.handling.twin:
            return x
        twin = getattr(importlib.import_module("art.defences.preprocessor"), self.handling.twin)
        with quiet():
            near, _ = self._make(twin).forward(frame.unit(x).cpu())
        return frame.own(near.to(x))

    def _make(self, theirs: Any) -> Any:
        known = inspect.signature(theirs.__init__).parameters
        given = {
            **{"clip_values": (0.0, 1.0), "channels_first": True, "apply_predict": True},
            **{"verbose": False, "device_type": "cpu"},
            **self.handling.fixed,
            **self.params,
        }
        return theirs(**{key: value for key, value in given.items() if key in known})

    def _complaint(self, error: Exception) -> RobustError:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return RobustError(f"{type(self).__name__}: {lines[0]}")


def catalogue() -> tuple[dict[str, type[ArtPreprocessor]], dict[str, str]]:
    """The preprocessors that can be put around a model, and why others cannot."""
    there = importlib.import_module("art.defences.preprocessor")
    usable, left_out = {}, dict(_LEFT_OUT)
    for name, theirs in vars(there).items():
        if not (inspect.isclass(theirs) and issubclass(theirs, there.Preprocessor)):
            continue
        if name in _HANDLING:
            usable[name] = _defense_class(name, theirs, _HANDLING[name])
        elif name not in left_out and theirs is not there.Preprocessor:
            left_out[name] = "it is not known here yet"
    return dict(sorted(usable.items())), left_out


def _defense_class(name: str, theirs: Any, handling: Handling) -> type[ArtPreprocessor]:
    """The dataclass called `art:name`: the package's parameters are its fields."""
    fixed = dict.fromkeys(handling.fixed, "it is for training data")
    fields, reserved = parameters(theirs, {**_RESERVED, **fixed})
    paper = re.search(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", inspect.getdoc(theirs) or "")
    gradient: Literal["exact", "stand-in"] = "exact" if handling.torch else "stand-in"
    made: type[ArtPreprocessor] = dataclasses.make_dataclass(
        f"art:{name}",
        fields,
        bases=(ArtPreprocessor,),
        frozen=True,
        kw_only=True,
        namespace={
            "__doc__": f"{name} of the package art.",
            "__module__": __name__,
            "theirs": theirs,
            "handling": handling,
            "gradient": gradient,
            "reserved": reserved,
            "paper": handling.paper or (paper[1] if paper else ""),
            "family": "randomization" if name == "GaussianAugmentation" else "denoising",
        },
    )
    return made
