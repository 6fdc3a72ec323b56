"""What defenses share that ask a random network several times and answer with one thing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robust.core.goal import as_logits

_ROWS = 1024  # samples that go through the network at once, copies included


def several(model: Callable[[Tensor], Any], x: Tensor, times: int) -> Tensor:
    """The logits of `times` draws for each sample of x (n, …): (times, n, K)."""
    at_once = max(1, min(times, _ROWS // max(1, len(x))))
    found = []
    for start in range(0, times, at_once):
        count = min(at_once, times - start)
        copies = x.repeat(count, *[1] * (x.dim() - 1))
        found.append(as_logits(model(copies), len(copies)).view(count, len(x), -1))
    return torch.cat(found)


def mean_probabilities(logits: Tensor) -> Tensor:
    """The logarithm of the mean over draws of the softmax: (times, n, K) → (n, K)."""
    return logits.log_softmax(2).logsumexp(0) - torch.tensor(float(len(logits))).log()


def vote_shares(logits: Tensor) -> Tensor:
    """The logarithm of the share of draws that vote for each class: (times, n, K) → (n, K).

    A class without a vote counts as if it had half of one, so that every answer is finite.
    """
    votes = one_hot(logits.argmax(2), logits.shape[2]).sum(0).to(logits)
    return (votes.clamp(min=0.5) / len(logits)).log()


class Averaging(nn.Module):
    """The mean of the probabilities over several draws of a random network; one while training."""

    def __init__(self, model: nn.Module, times: int) -> None:
        super().__init__()
        self.model, self.times = model, times

    def forward(self, x: Tensor) -> Any:
        if self.training or self.times == 1:
            return self.model(x)
        return mean_probabilities(several(self.model, x, self.times))


class Voting(nn.Module):
    """The votes of a network on several noisy copies; its answer to one noisy copy while training.

    Exposed, the gradient is that of the mean of the probabilities, of which the votes are a hard
    version. So are the values, but where the two predict different classes.
    """

    def __init__(
        self, model: nn.Module, times: int, deviation: float, *, exposed: bool = False
    ) -> None:
        super().__init__()
        self.model, self.times = model, times
        self.deviation, self.exposed = deviation, exposed

    def forward(self, x: Tensor) -> Any:
        if self.training:
            return self._noisy(x)
        if not self.exposed:
            with torch.no_grad():
                votes = vote_shares(several(self._noisy, x, self.times))
            if not x.requires_grad:
                return votes
            # Counting has no gradient: an attacker who does not know better sees zeros.
            return votes + 0 * x.flatten(1).sum(1).view(-1, 1)
        logits = several(self._noisy, x, self.times)
        soft, votes = mean_probabilities(logits), vote_shares(logits.detach())
        differ = (soft.argmax(1) != votes.argmax(1)).view(-1, 1)
        return soft + torch.where(differ, votes - soft, torch.zeros_like(soft)).detach()

    def _noisy(self, x: Tensor) -> Any:
        return self.model(x + self.deviation * torch.randn_like(x))

    def extra_repr(self) -> str:
        return f"times={self.times}, deviation={self.deviation:g}"
