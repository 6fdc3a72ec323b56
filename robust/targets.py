"""The rules that choose which class a targeted attack aims at."""

import torch
from torch import Tensor

from .core.errors import RobustError
from .core.rng import derive

TARGET_RULES = ("next", "random", "least-likely")


def refuse_targets(targeted: str | None, classes: int) -> None:
    """RobustError for a rule that there is not, or a class that the model has not."""
    if targeted is None or targeted in TARGET_RULES:
        return
    if not targeted.isdigit():
        rules = ", ".join(TARGET_RULES)
        raise RobustError(f"--targeted takes {rules} or the number of a class, not {targeted!r}")
    if int(targeted) >= classes:
        raise RobustError(
            f"--targeted {targeted}: the model has {classes} classes (0 to {classes - 1})"
        )


def choose_targets(
    rule: str | None, logits: Tensor, y: Tensor, ids: Tensor, seed: int
) -> Tensor | None:
    """The class that each sample shall be turned into, int64 (n,); None where untargeted.

    rule: "next" (y + 1), "random" (any but y, from the sample's id and the seed), "least-likely"
    (smallest logit), or the number of a class.
    """
    if rule is None:
        return None
    classes = logits.shape[1]
    if rule == "next":
        return (y + 1) % classes
    if rule == "random":
        draws = [derive(seed, "target", int(i)) % (classes - 1) for i in ids]
        return (y + 1 + torch.tensor(draws, device=y.device)) % classes
    if rule == "least-likely":
        return logits.argmin(1)
    return torch.full_like(y, int(rule))
