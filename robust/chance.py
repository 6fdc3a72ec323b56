"""Models that answer at random: several draws of each answer, and what they say together."""

import torch
from torch import Tensor, nn

from .core.goal import Goal, as_logits
from .preflight import guarded

_AT_ONCE = 32  # rows that may share what a model draws once for a batch


def draw(model: nn.Module, x: Tensor, count: int) -> Tensor:
    """So many answers to each row of x: logits (n, count, K), without gradient.

    In small batches: a defense that draws once for all rows would make their shares rise and fall
    together, and an interval that takes samples for independent too narrow.
    """
    with guarded(x), torch.no_grad():
        parts = [
            torch.stack([as_logits(model(part), len(part)) for _ in range(count)], 1)
            for part in torch.split(x, _AT_ONCE)
        ]
        return torch.cat(parts)


def settled(answers: Tensor) -> Tensor:
    """One answer (n, K) from several draws (n, d, K): the logarithm of the mean probability."""
    if answers.shape[1] == 1:
        return answers[:, 0]
    return answers.log_softmax(2).logsumexp(1)


def reached(goal: Goal, answers: Tensor) -> Tensor:
    """In which draws the goal is reached: bool (n, d)."""
    return torch.stack([goal.reached(answer) for answer in answers.unbind(1)], 1)


def halves(hits: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of draws that are hits, bool (n, 2 d), of the first d and of the others, float64
    (n,) each; of a single draw it twice.
    """
    half = max(1, hits.shape[1] // 2)
    return hits[:, :half].double().mean(1), hits[:, -half:].double().mean(1)


def vote(answers: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The class that most of the draws predict that are `counted`, bool (n, d), or most of all
    where none is, int64 (n,), and its mean probability, float64 (n,).
    """
    probability, classes = answers.double().softmax(2), answers.shape[2]
    counted = counted | ~counted.any(1, keepdim=True)
    ballots = nn.functional.one_hot(answers.argmax(2), classes) * counted.unsqueeze(2)
    predicted = ballots.sum(1).argmax(1)
    return predicted, probability.mean(1).gather(1, predicted.unsqueeze(1)).squeeze(1)
