"""What the model answers, asked again and again: chance, probabilities, work at inference."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robust.core.errors import RobustError
from robust.core.goal import as_logits
from robust.diagnosis.subject import Subject
from robust.preflight import guarded, probabilities

REPEATS = 8
_ROUNDED = 1e-3  # of logarithms of probabilities: what floating point may make of them


def probe(subject: Subject) -> dict[str, Any]:
    """How the model answers the samples when it is asked several times.

    repeats         so many times each sample was asked, always in the same batch
    different       samples whose logits were not the same, to the last bit, every time
    largest         the largest difference of a logit between two answers to the same sample
    scale           the largest logit, for comparison
    flipping        samples whose predicted class was not always the same
    probabilities   whether the logits are probabilities: in [0, 1], with a sum of one
    logarithms      whether they are logarithms of probabilities, whose exponentials sum to one
    rounded         then: samples whose probabilities, but for one, were rounded to 0, so that no
                    gradient is left
    recording       operations of one forward without gradient that recorded gradients nevertheless;
                    None where the model does not run while its operations are watched
    backwards       operations of it that are part of a backward pass
    """
    first: list[Tensor] = []
    largest, counts = 0.0, {"different": 0, "flipping": 0}
    for rows in subject.parts():
        every = _asked(subject.model, subject.x[rows])
        predicted = every.argmax(2)
        counts["different"] += int((every != every[0]).any(2).any(0).sum())
        counts["flipping"] += int((predicted != predicted[0]).any(0).sum())
        largest = max(largest, float((every.amax(0) - every.amin(0)).amax()))
        first.append(every[0].float())
    logits = torch.cat(first)
    logarithms = bool((logits.logsumexp(1).abs() < _ROUNDED).all())
    spy = _watched(subject.model, subject.x[:1])
    return {
        "repeats": REPEATS,
        **counts,
        "largest": largest,
        "scale": float(logits.abs().amax()),
        "probabilities": probabilities(logits),
        "logarithms": logarithms,
        "rounded": _rounded(logits) if logarithms else 0,
        "recording": spy and spy.recording,
        "backwards": spy and spy.backwards,
    }


def _rounded(logits: Tensor) -> int:
    """How many rows have all logarithms but one at the floor that zeros are raised to."""
    floor = math.log(torch.finfo(torch.float32).tiny)
    others = logits.sort(dim=1, descending=True).values[:, 1:]
    return int(((others - floor).abs() < _ROUNDED).all(1).sum())


def _watched(model: nn.Module, x: Tensor) -> "_Spy | None":
    """What one forward does; None where the model cannot run under watch."""
    spy = _Spy()
    try:
        with guarded(x), torch.no_grad(), spy:
            model(x)
    except RobustError:
        return None
    return spy


def _asked(model: nn.Module, x: Tensor) -> Tensor:
    """The answers to x, REPEATS times: (REPEATS, n, K)."""
    with guarded(x), torch.no_grad():
        return torch.stack([as_logits(model(x), len(x)) for _ in range(REPEATS)])


class _Spy(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that a model under no_grad runs on the way of an optimisation.

    Whoever differentiates in a forward must turn the recording of gradients on again, by whatever
    name; what runs then is seen here, below Python, compiled and scripted code included.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = self.backwards = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.recording += torch.is_grad_enabled()
        self.backwards += "backward" in func.__name__
        return func(*args, **(kwargs or {}))
