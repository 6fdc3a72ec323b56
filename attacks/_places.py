"""Where to put a patch: what attacks that choose or keep a place share."""

import re

import torch
from torch import Tensor

from robust.core import window
from robust.core.errors import RobustError


def corner_of(position: str) -> tuple[int, int] | None:
    """ "3:10" → (3, 10); None for a rule such as "best"."""
    found = re.fullmatch(r"(\d+):(\d+)", position)
    return (int(found[1]), int(found[2])) if found else None


def check_place(position: str, side: int, size: tuple[int, int]) -> None:
    """RobustError where a patch at that position leaves images of that height and width."""
    corner = corner_of(position)
    if corner is not None and (corner[0] + side > size[0] or corner[1] + side > size[1]):
        raise RobustError(
            f"a patch of side {side} at position {position} does not fit into images of "
            f"{size[0]} × {size[1]} pixels"
        )


def fixed(position: str, x: Tensor) -> Tensor:
    """That corner for each of the images x: int64 (n, 2)."""
    return torch.tensor([corner_of(position)], device=x.device).expand(len(x), 2)


def spread(scores: Tensor, count: int, gap: int) -> Tensor:
    """The `count` corners of highest score that are `gap` apart in rows or in columns.

    scores (n, rows, columns), all finite → int64 (n, k, 2), k ≤ count; an image that has fewer
    such corners than others gets its first one again.
    """
    rest = scores.clone()
    found: list[Tensor] = []
    lines = [torch.arange(size, device=scores.device) for size in scores.shape[1:]]
    while len(found) < count and (not found or bool(rest.isfinite().any())):
        corner = window.best(rest)
        if found:
            used_up = ~rest.flatten(1).isfinite().any(1)
            corner[used_up] = found[0][used_up]
        found.append(corner)
        near = [(line - corner[:, i : i + 1]).abs() < gap for i, line in enumerate(lines)]
        rest.masked_fill_(near[0].unsqueeze(2) & near[1].unsqueeze(1), float("-inf"))
    return torch.stack(found, 1)
