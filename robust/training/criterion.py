"""What a training run minimises: the loss of each sample."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .data import Data
from .spec import TrainSpec


class Criterion(nn.Module):
    """Cross-entropy of each sample, times the weight of its class: (n, K), (n,) → (n,).

    The weights are n / (classes that occur · samples of the class): 1 on average, so that they
    shift the loss between classes and do not scale it. Smoothed labels give a share of the
    probability to all classes alike (1512.00567).
    """

    weights: Tensor | None

    def __init__(self, spec: TrainSpec, data: Data) -> None:
        super().__init__()
        self.smoothing = spec.label_smoothing
        weights = None
        if spec.class_weights == "balanced":
            labels = torch.from_numpy(data.train.labels())
            counts = torch.bincount(labels, minlength=data.num_classes)
            weights = len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1)).float()
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(
            logits, y, weight=self.weights, reduction="none", label_smoothing=self.smoothing
        )
