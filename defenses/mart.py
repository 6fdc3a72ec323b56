"""MART: adversarial training that minds the samples which the model misclassifies."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robust.core.defense import Task
from robust.core.goal import as_logits, without

from ._ascent import Ascending
from ._divergence import divergence
from ._fields import at_least


@dataclass(frozen=True, kw_only=True)
class MART(Ascending):
    """Boosted cross-entropy at adversarial points, and steadiness where the model is unsure.

    Wang et al., "Improving adversarial robustness requires revisiting misclassified examples",
    ICLR 2020: with p and p' the answers at x and at its adversarial point x',
    −log p'_y − log(1 − max_{k≠y} p'_k) + lam · KL(p ‖ p') · (1 − p_y). The inner search is PGD on
    cross-entropy from a random point. The first term is the run's loss, class weights and smoothing
    included.

    lam         weight of the third term, λ in the paper
    steps       gradient steps of the inner search
    step_size   their length in the threat's norm, in the units of x;
                None: 2.5 eps / steps, for L1 10 eps / steps

    Raises RobustError for a negative lam, no steps, or a step_size that is not above 0.
    """

    paper: ClassVar[str] = "Wang et al., ICLR 2020"
    claims: ClassVar[str] = "robust inside the ball, on samples that are hard to classify too"
    lam: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, lam=self.lam)

    def points(self, seen: nn.Module, task: Task) -> Tensor:
        start = task.threat.around(task.x).random(task.rng)
        return self.ascend(
            seen, task, start, lambda logits: cross_entropy(logits, task.y, reduction="none")
        )

    def losses(self, model: nn.Module, task: Task, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        y = task.y
        clean, logits = (as_logits(model(at), len(at)) for at in (task.x, x_adv))
        # 1 − max_{k≠y} p'_k is the sum of all other probabilities: its logarithm, without a
        # difference that rounds to 0 where the model is sure of the wrong class.
        rival = without(logits, y).argmax(1)
        boost = logits.logsumexp(1) - without(logits, rival).logsumexp(1)
        sure = clean.softmax(1).gather(1, y.view(-1, 1)).squeeze(1)
        steady = divergence(clean, logits) * (1 - sure)
        return task.loss(logits, y) + boost + self.lam * steady, logits
