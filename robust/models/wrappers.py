"""What is put around a network so that it takes pixels and answers with one tensor of logits."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.errors import RobustError

_ROUNDED = 1e-3  # what a probability may be off by


class Standardise(nn.Module):
    """net((x − mean) / std) per channel: the normalisation as a part of the model.

    mean, std: one value, or one per channel (dimension 1 of x), in the units of x.
    Raises RobustError where their lengths differ, or a value is not finite, or a std not > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = check_normalisation(mean, std)
        self.net = net
        self.register_buffer("mean", torch.tensor(means))
        self.register_buffer("std", torch.tensor(stds))

    def forward(self, x: Tensor) -> Any:
        return self.net(standardise(x, self.mean, self.std))


def standardise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x − mean) / std per channel: see Standardise."""
    channels = mean.numel()
    if channels > 1 and (x.dim() < 2 or x.shape[1] != channels):
        raise RobustError(
            f"mean and std have {channels} values, one per channel; "
            f"the input has shape {tuple(x.shape[1:])}"
        )
    view = (-1, *[1] * (x.dim() - 2))
    return (x - mean.view(view)) / std.view(view)


def check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """mean and std as tuples of one length, a missing one as 0 or 1."""
    means = (0.0,) if mean is None else tuple(float(v) for v in mean)
    stds = (1.0,) if std is None else tuple(float(v) for v in std)
    size = max(len(means), len(stds))
    means, stds = (v * size if len(v) == 1 else v for v in (means, stds))
    if not means or not stds or len(means) != len(stds):
        raise RobustError(f"mean has {len(means)} values and std has {len(stds)}: give as many")
    if not all(map(math.isfinite, means + stds)) or min(stds) <= 0:
        raise RobustError(f"mean and std must be finite and std > 0, not {means} and {stds}")
    return means, stds


class Called(nn.Module):
    """A plain function of samples as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class TensorOutput(nn.Module):
    """The logits of a network that answers with more than a tensor.

    Takes "logits" of a mapping or object that has it, else the first element. What holds no
    tensor passes through, for the caller to refuse.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return first_tensor(self.net(x))


def first_tensor(output: Any) -> Any:
    """The logits in a network's answer: see TensorOutput."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and output:
        return first_tensor(output.get("logits", next(iter(output.values()))))
    if hasattr(output, "logits"):
        return first_tensor(output.logits)
    if isinstance(output, tuple | list) and output:
        return first_tensor(output[0])
    return output


class LogProbabilities(nn.Module):
    """log of a network's probabilities, so that they can be attacked as logits.

    Probabilities are clamped to the smallest normal number of their dtype: at exactly 0 the
    gradient is 0, and not infinite. One probability p of a binary model becomes log p − log(1 − p).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return log_probabilities(self.net(x))


def log_probabilities(p: Tensor) -> Tensor:
    """Logits of these probabilities: see LogProbabilities."""
    tiny = torch.finfo(p.dtype).tiny
    logs = p.clamp_min(tiny).log()
    return logs - (1 - p).clamp_min(tiny).log() if p.dim() == 1 or p.shape[1] == 1 else logs


def checked_log_probabilities(p: Tensor, who: object) -> Tensor:
    """The same of answers from outside: RobustError where they are none. NaN passes."""
    off = (p < -_ROUNDED) | (p > 1 + _ROUNDED)
    if bool(off.any()):
        raise RobustError(
            f"{who} answered {p[off][0]:g}, which is no probability: leave out --probabilities"
        )
    return log_probabilities(p)


class FixedBatch(nn.Module):
    """Any batch through a network that takes batches of exactly `size`.

    The last chunk is filled up with copies of its last sample, whose outputs are dropped. Exact,
    gradients included, where a sample's output depends on no other sample.
    """

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for chunk in torch.split(x, self.size):
            missing = self.size - chunk.shape[0]
            if missing:
                chunk = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])])
            outputs.append(first_tensor(self.net(chunk)))
        return torch.cat(outputs)[: x.shape[0]]
