"""Saturating logits: so far apart that float32 knows no difference from certainty."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robust.core.defense import OutputDefense

from ._fields import above_zero


@dataclass(frozen=True, kw_only=True)
class Saturation(OutputDefense):
    """Multiply logits until cross-entropy has no gradient left.

    What defensive distillation comes to, as Carlini & Wagner found it (1607.04311). The softmax of
    such logits is 1 to the last bit, and its loss and gradient 0. Exposed as the logits before:
    whatever looks at differences of logits never noticed.

    scale       what logits are multiplied by, above 0

    Raises RobustError for a scale that is not a finite number above 0.
    """

    family: ClassVar[str] = "gradient masking"
    paper: ClassVar[str] = "1607.04311"
    claims: ClassVar[str] = "no gradient of the loss, and so no gradient attack"
    broken_by: ClassVar[str] = "any loss on logits (1608.04644)"
    scale: float = 1000.0

    def __post_init__(self) -> None:
        above_zero(scale=self.scale)

    def change(self, logits: Tensor) -> Tensor:
        return logits * self.scale
