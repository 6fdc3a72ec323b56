"""The network of a training run: built or filled from a file, normalised, partly frozen."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.defended import Defended, frames_of
from robust.core.defense import Frame
from robust.core.errors import RobustError
from robust.core.rng import seeded
from robust.models import Standardise, build, load_model, read_weights
from robust.models import around as around_model
from robust.models.defending import is_file_defense
from robust.preflight import forward

from .data import Data, Samples, mean_and_std
from .spec import TrainSpec
from .trainer import around_network


class Autocast(nn.Module):
    """The model with each forward in mixed precision, and logits in float32.

    Autocast begins and ends within the forward: the copies of the weights that it keeps, made
    while an attack records no gradient, must not serve the training step.
    """

    def __init__(self, model: nn.Module, device: str, precision: str) -> None:
        super().__init__()
        self.model, self.device = model, device
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        self.enabled = precision != "fp32"

    def forward(self, x: Tensor) -> Any:
        if not self.enabled:
            return self.model(x)
        with torch.autocast(self.device, self.dtype):
            output = self.model(x)
        return output.float() if isinstance(output, Tensor) else output


@dataclass(frozen=True)
class Network:
    """What a run trains: a network with its normalisation and defenses around it.

    net         the network alone; mean, std: its normalisation
    defended    with all that is around it: what is deployed, and as an attacker sees it
    fresh       parameters that `init` did not give it
    """

    net: nn.Module
    defended: Defended
    mean: list[float] | None
    std: list[float] | None
    fresh: tuple[str, ...] = ()

    @cached_property
    def trained(self) -> nn.ModuleDict:
        """All that has weights: the network, and what its defenses learn."""
        return nn.ModuleDict({"net": self.net, "parts": self.defended.parts})

    def weights(self) -> dict[str, Tensor]:
        """A copy of all weights and statistics."""
        return {k: v.detach().clone() for k, v in self.trained.state_dict().items()}

    def free(self) -> list[nn.Parameter]:
        """The parameters to train."""
        return [p for p in self.trained.parameters() if p.requires_grad]


def make_network(spec: TrainSpec, data: Data, samples: Samples, device: torch.device) -> Network:
    """The network of a run, on the device. RobustError where its parts do not fit together."""
    source = data.train
    around = around_network(spec.named())
    names, defenses = [name for name, _ in around], [defense for _, defense in around]
    frame = Frame(tuple(source.shape), data.num_classes, source.low, source.high)
    behind = frames_of(defenses, names, frame)[-1]
    with seeded(spec.seed, "init"):
        net = build(spec.arch, behind.shape, data.num_classes)
    mean, std, fresh = _start(net, spec, samples, measured=behind.shape == frame.shape)
    model = with_normalisation(net, mean, std).to(device)
    check_fit(model, behind, min(2, len(samples)), device)
    if not around:
        return Network(net, Defended(model, model, frame=frame, behind=frame), mean, std, fresh)
    with seeded(spec.seed, "parts"):
        defended = around_model(model, around, frame).to(device)
    frozen = next((name for name, defense in around if defense.freezes), None)
    if frozen is not None:
        if fresh:
            raise RobustError(f"{frozen} keeps the weights of --init, which has other classes")
        net.requires_grad_(False)
    if spec.init is not None:
        _fill_parts(defended, spec.init, [name for name in names if is_file_defense(name)])
    return Network(net, defended, mean, std, fresh)


def _start(
    net: nn.Module, spec: TrainSpec, samples: Samples, *, measured: bool
) -> tuple[list[float] | None, list[float] | None, tuple[str, ...]]:
    """The weights to start from; the normalisation, and the parameters that `init` did not give.

    measured    the network sees samples of the shape that they come in, so that their mean and std
                are its normalisation where nothing else is asked
    """
    fresh: tuple[str, ...] = ()
    if spec.init is not None:
        fresh = _fill(net, read_weights(spec.init), spec)
        try:
            info = load_model(spec.init).info
        except RobustError:
            pass  # a plain state dict says nothing of its normalisation
        else:
            if spec.normalise == "auto":
                return list(info.mean) if info.mean else None, list(info.std or ()) or None, fresh
    if isinstance(spec.normalise, dict):
        return spec.normalise["mean"], spec.normalise["std"], fresh
    if spec.normalise == "none" or not measured:
        return None, None, fresh
    return *mean_and_std(samples), fresh


def _fill_parts(defended: Defended, init: str, files: list[str]) -> None:
    """What the same defenses have learned around the model to start from."""
    try:
        other = load_model(init, defenses=files).module
    except RobustError:  # no checkpoint, and so without defenses
        return
    if isinstance(other, Defended) and other.records == defended.records:
        defended.parts.load_state_dict(other.parts.state_dict())


def _fill(net: nn.Module, weights: dict[str, Tensor], spec: TrainSpec) -> tuple[str, ...]:
    """Put the weights into the network; the names of those of another shape, which stay new."""
    own = net.state_dict()
    if own.keys() != weights.keys():
        odd = sorted(own.keys() ^ weights.keys())
        raise RobustError(
            f"{spec.init} does not fit {spec.arch}: {', '.join(odd[:3])}"
            f"{' …' if len(odd) > 3 else ''} is in one of them only; give its --arch"
        )
    fresh = [name for name in own if own[name].shape != weights[name].shape]
    # Another number of classes changes the shape of the last layer, and of nothing else.
    last = list(own)[-1].rpartition(".")[0]
    if any(name.rpartition(".")[0] != last for name in fresh):
        name = fresh[0]
        raise RobustError(
            f"{spec.init} does not fit: its {name} has shape {tuple(weights[name].shape)}, "
            f"{spec.arch} on these data needs {tuple(own[name].shape)}"
        )
    net.load_state_dict({k: own[k] if k in fresh else v for k, v in weights.items()})
    return tuple(fresh)


def with_normalisation(
    net: nn.Module, mean: list[float] | None, std: list[float] | None
) -> nn.Module:
    return net if mean is None or std is None else Standardise(net, mean, std)


def check_fit(model: nn.Module, frame: Frame, count: int, device: torch.device) -> None:
    """Raise RobustError unless the model takes such samples and tells that many classes apart."""
    model.eval()
    x = torch.full((count, *frame.shape), frame.low, device=device)
    found = forward(model, x).shape[1]
    if found != frame.num_classes:
        raise RobustError(
            f"the network has {found} classes, but the training data have {frame.num_classes}"
        )


def freeze(net: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Stop the parameters that match; the modules that have no other ones left to train.

    Those stay in eval mode: their BatchNorm keeps its statistics, their dropout is off.
    """
    names = [name for name, _ in net.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise RobustError(
                f"--freeze {pattern!r} matches no parameter; there are {', '.join(names[:4])} …"
            )
    for name, parameter in net.named_parameters():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    owners = [m for m in net.modules() if next(m.parameters(), None) is not None]
    return [m for m in owners if not any(p.requires_grad for p in m.parameters())]


def make_optimizer(spec: TrainSpec, free: list[nn.Parameter]) -> torch.optim.Optimizer:
    if not free:
        raise RobustError("--freeze leaves no parameter to train")
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            free,
            lr=spec.lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            nesterov=spec.nesterov,
        )
    kind = torch.optim.Adam if spec.optimizer == "adam" else torch.optim.AdamW
    return kind(free, lr=spec.lr, weight_decay=spec.weight_decay)
