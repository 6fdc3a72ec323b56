"""Models: loading every format without running code from it, saving, architectures."""

from .architectures import architectures, describe, flops, he_init
from .building import build
from .checkpoint import save_checkpoint
from .defended_file import save_defended
from .defending import (
    answers_differ,
    around,
    defend,
    describe_defense,
    is_file_defense,
    make_defense,
    parse_defense,
)
from .info import Loaded, ModelInfo, in_memory
from .loading import NoArchitecture, load_model, read_weights
from .wrappers import Called, Standardise

__all__ = [
    "Called",
    "Loaded",
    "ModelInfo",
    "NoArchitecture",
    "Standardise",
    "answers_differ",
    "architectures",
    "around",
    "build",
    "defend",
    "describe",
    "describe_defense",
    "flops",
    "he_init",
    "in_memory",
    "is_file_defense",
    "load_model",
    "make_defense",
    "parse_defense",
    "read_weights",
    "save_checkpoint",
    "save_defended",
]
