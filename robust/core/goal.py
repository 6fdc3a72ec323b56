"""The goal: what counts as success."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import RobustError


@dataclass(frozen=True)
class Goal:
    """Leave the class `labels` (untargeted) or arrive at it (targeted).

    labels      int64 (n,): the true classes, or the target classes where `targeted`
    persist     go on after success: nothing counts as solved, and a search returns the end of its
                ascent, or the best point that it measured (adversarial training wants this)
    towards     int64 (n,), untargeted goals only: the class by which a loss should leave `labels`;
                it guides the search, success is still any other class
    """

    labels: Tensor
    targeted: bool = False
    persist: bool = False
    towards: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> "Goal":
        towards = None if self.towards is None else self.towards[rows]
        return Goal(self.labels[rows], self.targeted, self.persist, towards)

    def margin(self, logits: Tensor) -> Tensor:
        """> 0 where the goal is reached: (n, K) → (n,).

        max_{j≠y} z_j − z_y untargeted, z_t − max_{j≠t} z_j targeted.
        """
        own = logits.gather(1, self.labels.view(-1, 1)).squeeze(1)
        best_other = without(logits, self.labels).amax(1)
        return own - best_other if self.targeted else best_other - own

    def lead(self, logits: Tensor) -> Tensor:
        """What a loss should raise: z_towards − z_y where a class is set, else `margin`."""
        if self.towards is None:
            return self.margin(logits)
        pair = logits.gather(1, torch.stack([self.towards, self.labels], 1))
        return pair[:, 0] - pair[:, 1]

    def satisfied(self, predicted: Tensor) -> Tensor:
        """Whether predicted classes, int64 (n,), are what the goal wants: bool (n,). −1 is none."""
        return ((predicted == self.labels) == self.targeted) & (predicted >= 0)

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the predicted class satisfies the goal: bool (n,). Ties go to the lower class,
        and an answer with NaN satisfies none.
        """
        return self.satisfied(logits.argmax(1)) & ~logits.isnan().any(1)


@dataclass(frozen=True)
class LabelSet(Goal):
    """Get some label of a set wrong, and as many of them as may be.

    A model of label sets has a sigmoid for each label, and says that a sample has those whose
    logits are above 0. Success is a matter of degree, so this goal always persists: a search goes
    on after the first label is wrong.

    labels      int64 (n, K): 1 where the sample has the label, else 0
    """

    targeted: bool = field(default=False, init=False)
    persist: bool = field(default=True, init=False)
    towards: Tensor | None = field(default=None, init=False)

    def __getitem__(self, rows: Tensor) -> "LabelSet":
        return LabelSet(self.labels[rows])

    def margin(self, logits: Tensor) -> Tensor:
        """> 0 where some label is wrong: by how much the worst of them is, (n, K) → (n,)."""
        return torch.where(self.labels == 1, -logits, logits).amax(1)

    def satisfied(self, predicted: Tensor) -> Tensor:
        """Whether predicted sets, int64 (n, K), differ from the true ones: bool (n,)."""
        return (predicted != self.labels).any(1)

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the predicted set is wrong: bool (n,). A logit of 0 says that the label is not
        there, and an answer with NaN reaches nothing.
        """
        return self.satisfied((logits > 0).long()) & ~logits.isnan().any(1)


def leaving(y: Tensor, *, persist: bool = False) -> Goal:
    """The untargeted goal for true labels y: classes int64 (n,), or sets of labels int64 (n, K),
    for which it always persists.
    """
    return LabelSet(y) if y.dim() == 2 else Goal(y, persist=persist)


def predicted_right(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the predicted class is the true one, or every label of the set: bool (n,)."""
    if y.dim() == 2:
        return ((logits > 0) == (y == 1)).all(1)
    return logits.argmax(1) == y


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits with the class `labels` of each row at −∞."""
    return logits.scatter(1, labels.view(-1, 1), float("-inf"))


def as_logits(output: object, n: int) -> Tensor:
    """A model's answer as logits (n, K ≥ 2); one logit z of a binary model becomes (0, z).

    Raises RobustError if it is no tensor of shape (n,), (n, 1) or (n, K).
    """
    if not isinstance(output, Tensor):
        raise RobustError(f"the model returned {type(output).__name__}, not a tensor of logits")
    logits = output.view(-1, 1) if output.dim() == 1 else output
    if logits.dim() != 2 or logits.shape[0] != n or logits.shape[1] == 0:
        raise RobustError(
            f"the model returned shape {tuple(output.shape)} for {n} samples; "
            f"logits of shape ({n}, classes) are needed"
        )
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
