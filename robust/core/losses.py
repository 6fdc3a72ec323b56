"""Losses of an attack: higher is nearer to the goal. Per sample, unreduced: (n, K), goal → (n,)."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from .goal import Goal, LabelSet
from .victim import Loss


def ce(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy with the true class; minus cross-entropy with the class to arrive at. For sets
    of labels the binary one, see `bce`."""
    if isinstance(goal, LabelSet):
        return bce(logits, goal.labels)
    if goal.towards is not None:
        return -cross_entropy(logits, goal.towards, reduction="none")
    value = cross_entropy(logits, goal.labels, reduction="none")
    return -value if goal.targeted else value


def bce(logits: Tensor, y: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a sigmoid per label, the mean over labels: (n, K), (n, K) → (n,).

    y           which labels a sample has: 0, 1, or a probability between
    pos_weight  (K,), what the presence of each label weighs, its absence weighing 1
    """
    return binary_cross_entropy_with_logits(
        logits, y.to(logits.dtype), pos_weight=pos_weight, reduction="none"
    ).mean(1)


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """max_{j≠y} z_j − z_y, z_t − max_{j≠t} z_j, or z_t − z_y (Carlini & Wagner, 1608.04644)."""
    return goal.lead(logits)


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """The margin over a difference of logits, blind to their shift and scale (2003.01690).

    Untargeted: margin / (z_π1 − z_π3). Towards a class: (z_t − z_y) / (z_π1 − (z_π3 + z_π4) / 2).
    Departures: a goal that is itself targeted knows no true class, so its numerator is
    z_t − max_{j≠t} z_j; with 3 classes every form divides by z_π1 − z_π3; with 2 there is no third
    logit, and the loss is the plain margin.
    """
    classes = logits.shape[1]
    if classes < 3:
        return goal.lead(logits)
    top = logits.topk(min(4, classes), dim=1).values
    aimed = goal.targeted or goal.towards is not None
    third = (top[:, 2] + top[:, 3]) / 2 if aimed and classes >= 4 else top[:, 2]
    return goal.lead(logits) / (top[:, 0] - third + 1e-12)


LOSSES: dict[str, Loss] = {"ce": ce, "margin": margin, "dlr": dlr}
