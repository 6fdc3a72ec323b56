"""What the model answers, asked again and again: chance, probabilities, work at inference."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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
    recording       operations of one forward without gradient that recorded gradients nevertheless
    backwards       operations of it that are part of a backward pass
    """
    every = torch.cat([_asked(subject.model, subject.x[rows]) for rows in subject.parts()], 1)
    logits = every[0]
    predicted = every.argmax(2)
    kept = logits.float()
    sums = kept.logsumexp(1).abs()
    floor = torch.tensor(torch.finfo(torch.float32).tiny).log().item()
    others = kept.sort(dim=1, descending=True).values[:, 1:]
    logarithms = bool((sums < _ROUNDED).all())
    spy = _Spy()
    x = subject.x[:1]
    with guarded(x), torch.no_grad(), spy:
        subject.model(x)
    return {
        "repeats": REPEATS,
        "different": int((every != logits).any(2).any(0).sum()),
        "largest": float((every.amax(0) - every.amin(0)).amax()),
        "scale": float(every.abs().amax()),
        "flipping": int((predicted != predicted[0]).any(0).sum()),
        "probabilities": probabilities(logits),
        "logarithms": logarithms,
        "rounded": int(((others - floor).abs() < _ROUNDED).all(1).sum()) if logarithms else 0,
        "recording": spy.recording,
        "backwards": spy.backwards,
    }


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
