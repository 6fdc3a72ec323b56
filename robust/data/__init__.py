"""Data: sources of samples with stable ids, delivered in batches inside a box."""

from .arrays import from_arrays
from .base import Batch, EightBit, Ids, Source, batches
from .open import open_data
from .spec import DataSpec

__all__ = ["Batch", "DataSpec", "EightBit", "Ids", "Source", "batches", "from_arrays", "open_data"]
