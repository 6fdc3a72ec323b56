"""DataSpec: the JSON-able record of where samples come from."""

import dataclasses
import math
from typing import Any

from robust.core.errors import RobustError


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Where samples come from, and the box in which they are delivered.

    source    `digits`, `x.npz`, `x.h5`, an image folder, `x.parquet` (or a folder or glob of
              them), `hf:NAME`, `hf:OWNER/NAME/CONFIG`, `hf:DIR`. `:train`, `:test` (for `hf:` any
              split) at the end chooses the part where a source has several
    split     the same choice, apart from the source's name: "train", "test" (for `hf:` any); or
              "held-in", "held-out": seeded random complementary parts of one source. Of a source
              that has a train split and names no other, that is what these divide, never its
              test split. None: the test split, or all there is
    fraction  what part goes to "held-out"
    seed      of the hold-out
    low, high the box: integer pixels are scaled into it, float ones must lie inside
    multi_label  labels are sets, (n, K) of 0 and 1: .npz and HDF5 only
    """

    source: str
    split: str | None = None
    fraction: float = 0.1
    seed: int = 0
    low: float = 0.0
    high: float = 1.0
    multi_label: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise RobustError("no data: name a source, such as digits or test.npz")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise RobustError(f"the range must rise: [{self.low:g}, {self.high:g}] does not")
        if not 0 < self.fraction < 1:
            raise RobustError(f"the held-out fraction is {self.fraction:g}: it must be in (0, 1)")

    @property
    def held(self) -> bool:
        """Whether this is one of the two parts of a hold-out."""
        return self.split in ("held-in", "held-out")

    def to_dict(self) -> dict[str, Any]:
        """The record, for JSON. Without `multi_label` where it is off, as records from before there
        were label sets are, so that their hashes stay."""
        record = dataclasses.asdict(self)
        if not self.multi_label:
            del record["multi_label"]
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "DataSpec":
        """The reverse of to_dict. RobustError for fields that this version does not know."""
        unknown = sorted(set(record) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise RobustError(f"unknown fields in the record of the data: {', '.join(unknown)}")
        if "source" not in record:
            raise RobustError("the record of the data names no source")
        return cls(**record)
