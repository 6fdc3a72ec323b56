"""Models: loading every format without running code from it, saving, architectures."""

from .architectures import architectures, describe, flops, he_init
from .building import build
from .checkpoint import save_checkpoint
from .info import Loaded, ModelInfo, in_memory
from .loading import NoArchitecture, load_model, read_weights
from .wrappers import Standardise

__all__ = [
    "Loaded",
    "ModelInfo",
    "NoArchitecture",
    "Standardise",
    "architectures",
    "build",
    "describe",
    "flops",
    "he_init",
    "in_memory",
    "load_model",
    "read_weights",
    "save_checkpoint",
]
