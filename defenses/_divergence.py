"""How far apart two answers are."""

from torch import Tensor
from torch.nn.functional import kl_div


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax p ‖ softmax q) in nats, of logits (n, K) each: (n,)."""
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
