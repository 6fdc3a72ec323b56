"""TRADES: accuracy on clean samples, and answers that do not change around them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robust.core.defense import Task
from robust.core.goal import as_logits

from ._ascent import Ascending, nearby
from ._divergence import divergence
from ._fields import at_least


@dataclass(frozen=True, kw_only=True)
class TRADES(Ascending):
    """The clean loss plus beta times how far the answer moves inside the ball.

    Zhang et al., 1901.08573: loss(f(x), y) + beta · max KL(f(x) ‖ f(x')), the maximum sought by
    steps of steepest ascent from next to x; both terms are differentiated at both points, as in
    the authors' code. The first term is the run's loss, class weights and smoothing included; the
    second knows no labels.

    beta        weight of the second term, 1/λ in the paper
    steps       gradient steps of the inner search
    step_size   their length in the threat's norm, in the units of x;
                None: 2.5 eps / steps, for L1 10 eps / steps

    Raises RobustError for a negative beta, no steps, or a step_size that is not above 0.
    """

    paper: ClassVar[str] = "1901.08573"
    claims: ClassVar[str] = "robust inside the ball; beta trades clean accuracy against that"
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, beta=self.beta)

    def points(self, seen: nn.Module, task: Task) -> Tensor:
        clean = as_logits(seen(task.x), len(task.x))
        start = nearby(task.x, task.threat, task.rng)
        return self.ascend(seen, task, start, lambda logits: divergence(clean, logits))

    def losses(self, model: nn.Module, task: Task, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        clean, logits = (as_logits(model(at), len(at)) for at in (task.x, x_adv))
        return task.loss(clean, task.y) + self.beta * divergence(clean, logits), logits
