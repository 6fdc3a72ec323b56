"""What a training run minimises: the loss of each sample."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robust.core.losses import bce

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


class SetCriterion(nn.Module):
    """Binary cross-entropy of each sample, the mean over its labels: (n, K), (n, K) → (n,).

    With class weights the presence of a label weighs as much as its absence over the training data:
    absences / presences for each presence, and 1 where all samples agree. Smoothed labels are
    s / 2 and 1 − s / 2 in place of 0 and 1.
    """

    weights: Tensor | None

    def __init__(self, spec: TrainSpec, data: Data) -> None:
        super().__init__()
        self.smoothing = spec.label_smoothing
        weights = None
        if spec.class_weights == "balanced":
            labels = torch.from_numpy(data.train.labels())
            present = labels.sum(0)
            absent = len(labels) - present
            both = (present > 0) & (absent > 0)
            weights = torch.where(both, absent / present.clamp(min=1), 1.0).float()
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        wanted = y * (1 - self.smoothing) + self.smoothing / 2
        return bce(logits, wanted, self.weights)


def make_criterion(spec: TrainSpec, data: Data) -> nn.Module:
    """The criterion for classes, or for sets of labels."""
    return SetCriterion(spec, data) if spec.multi_label else Criterion(spec, data)
