"""Surrogates: networks that stand in for a model whose inside the attacker does not know."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .goal import as_logits
from .victim import Model


class Ensemble(nn.Module):
    """Several networks as one: the mean of their logits (Liu et al., 1611.02770; 1710.06081).

    models   each from pixels to logits (n, K), K the same for all; or (n,) for binary models
    """

    def __init__(self, models: Iterable[Model]) -> None:
        super().__init__()
        self.members: list[Model] = list(models)
        self.submodules = nn.ModuleList(
            member for member in self.members if isinstance(member, nn.Module)
        )

    def __len__(self) -> int:
        return len(self.members)

    def forward(self, x: Tensor) -> Tensor:
        answers = [as_logits(member(x), len(x)) for member in self.members]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(0)
