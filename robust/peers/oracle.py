"""The victim as somebody else's code wants it: a torch module on [0, 1], any number of rows."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robust.core.threat import Threat
from robust.core.victim import Access, Victim

# The logit of a class that never wins.
_NEVER = -1e4
# The same question so often in a row is a loop that cannot end, such as a halved step that is 0.
_STUCK = 200


class Stuck(Exception):
    """The search asks the same for ever."""


class Oracle(nn.Module):
    """Scores (k, K), float32, for k rows in [0, 1]; each row is entered in the victim's ledger.

    A row belongs to a sample. A call with one row per sample is taken in order; of any other number
    each row goes to the sample nearest to it (L2), which is its own wherever it has moved by less
    than half the distance to any other sample. So the sum over the samples is exact always, and
    each sample's share but for far-away candidates.

    The victim's parameters are not among the module's: nothing here trains, moves or switches them.
    Rows may be of any float type and on any device; scores come back to where the rows are.

    unit        the samples, float32 (n, …) in [0, 1]: the data's range scaled
    like        a tensor of the data's type and device
    classes     at least as many as this come back, the missing ones with scores that never win; a
                victim that gives labels alone answers with one of exactly so many, and the last
                stands for all from there on
    answers     "logits", "probabilities" (softmax), or "log-probabilities"
    """

    def __init__(
        self,
        victim: Victim,
        unit: Tensor,
        threat: Threat,
        like: Tensor,
        classes: int,
        answers: str = "logits",
    ) -> None:
        super().__init__()
        self.victim, self.unit, self.classes = victim, unit, classes
        self._threat, self._like, self._answers = threat, like, answers
        self._last, self._same = unit[:0], 0

    def forward(self, z: Tensor) -> Tensor:
        self._same = self._same + 1 if torch.equal(self._last, z) else 0
        self._last = z.detach().clone()
        if self._same >= _STUCK:
            raise Stuck("it asks the same question for ever")
        part, x = self.victim[self._owners(z.detach())], to_data(z, self._threat, self._like)
        if part.access == Access.LABELS:
            labels = part.labels(x).clamp(max=self.classes - 1)
            return one_hot(labels, self.classes).float().to(z.device)
        if x.requires_grad and torch.is_grad_enabled():
            logits = part.differentiable(x).float()
        else:
            logits = part.logits(x).float()
        missing = self.classes - logits.shape[1]
        if missing > 0:
            never = torch.full_like(logits[:, :1], _NEVER).expand(-1, missing)
            logits = torch.cat([logits, never], 1)
        if self._answers == "probabilities":
            logits = logits.softmax(1)
        elif self._answers == "log-probabilities":
            logits = logits.log_softmax(1)
        return logits.to(z.device)

    def _owners(self, z: Tensor) -> Tensor:
        n = len(self.unit)
        if len(z) == n:
            return torch.arange(n, device=self.unit.device)
        if n == 1:
            return torch.zeros(len(z), dtype=torch.int64, device=self.unit.device)
        rows = z.to(self.unit).flatten(1).nan_to_num(nan=0.0)
        return torch.cdist(rows, self.unit.flatten(1)).argmin(1)


def to_unit(x: Tensor, threat: Threat) -> Tensor:
    """From the range of the data to [0, 1], in float32."""
    return ((x.double() - threat.low) / (threat.high - threat.low)).float().clamp(0, 1)


def to_data(z: Tensor, threat: Threat, like: Tensor) -> Tensor:
    """From [0, 1] to the range, type and device of the data."""
    return (threat.low + (threat.high - threat.low) * z).to(like.device, like.dtype)
