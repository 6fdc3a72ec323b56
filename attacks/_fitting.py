"""What attacks share that craft one thing for all samples."""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from robust.core.fitted import Part
from robust.core.goal import Goal
from robust.core.losses import LOSSES


def clipped_ce(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy, from where on a sample counts as won and pulls no more: 3 nats."""
    return LOSSES["ce"](logits, goal).clamp(max=3)


def turns(parts: Sequence[Part], steps: int) -> Iterator[tuple[float, Part]]:
    """`steps` times the next part, with the share of the first step length that the step has."""
    for number in range(steps):
        yield (1 + math.cos(math.pi * number / steps)) / 2, parts[number % len(parts)]
