"""The base of every defense: the faces by which it acts on a model."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from .threat import Threat

# (logits (n, K), y (n,)) → loss of each sample (n,), weighted by its class where the run asks so.
Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What a defense makes of one batch of training data.

    loss        scalar, to be differentiated with respect to the parameters
    logits      (n, K), of the samples that were trained on, without gradient
    x_adv       (n, …), these samples: adversarial, or as they came
    """

    loss: Tensor
    logits: Tensor
    x_adv: Tensor


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """One way to make a model more robust. Subclasses are frozen dataclasses.

    The fields are the configuration. A subclass states `family` and `paper` (arXiv id).
    """

    family: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    @abstractmethod
    def step(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        rng: Generator,
        *,
        loss: Criterion,
    ) -> Step:
        """How it trains: the loss of the batch x (n, …) in the threat's box, y int64 (n,).

        The engine differentiates it and steps the optimiser. The model is in training mode, but
        for what is frozen, and is left so; its parameters get no gradient here; all randomness
        but that of the model's own layers comes from `rng`. `threat` is that of this step: its
        eps grows while a run warms up.
        """

    @property
    def attacks(self) -> bool:
        """Whether it trains on adversarial examples: such a run is judged by robust accuracy."""
        return False

    @property
    def params(self) -> dict[str, Any]:
        """The configuration, by field name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
