"""A learned denoiser: a network that takes the perturbation off before the classifier looks."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust.core.attack import Attack
from robust.core.defense import Before, Defense, Frame, InputDefense, Task
from robust.core.errors import RobustError
from robust.core.goal import as_logits
from robust.core.threat import Threat
from robust.core.trainer import OnPoints

from ._images import refuse_all_but_images
from ._unet import UNet
from .adversarial_training import AdversarialTraining


@dataclass(frozen=True, kw_only=True)
class Denoiser(InputDefense):
    """Put a U-Net before a frozen classifier that cleans its adversarial examples (1712.02976).

    It is trained on examples that `--adv` finds for the classifier alone, each batch at an eps
    drawn from 0 to the run's, so that hardly perturbed images are among them. What it makes of one
    shall be like the original x:

    loss        "logits": in what the classifier says of both, |f(D(x_adv)) − f(x)| (LGD, the
                high-level guide that did best); "pixels": itself, |D(x_adv) − x| (PGD there)
    width       channels of the U-Net at full size, at least 1

    As published it stands between the data and the classifier where attackers do not look, so that
    deployed there is no gradient through it; exposed, there is. Images (C, H, W) of at least 8×8
    pixels and any number of channels. The run's class weights and smoothing do not matter to it,
    as no labels do.

    Departures: a smaller U-Net; its examples are made anew for every batch instead of once, and an
    eps holds for a batch.

    Raises RobustError for other samples, and for a run without an inner attack.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1712.02976"
    claims: ClassVar[str] = "takes the perturbation off, if the attacker does not know it"
    broken_by: ClassVar[str] = "attacks through the denoiser (1804.03286)"
    trained: ClassVar[bool] = True
    freezes: ClassVar[bool] = True
    gradient: ClassVar[Literal["own", "exact", "stand-in"]] = "exact"
    loss: Literal["logits", "pixels"] = "logits"
    width: int = 16

    def __post_init__(self) -> None:
        if self.width < 1:
            raise RobustError(f"width must be at least 1, not {self.width}")

    def check(self, frame: Frame) -> None:
        refuse_all_but_images(frame, least=8)

    def against(self, attack: Attack | None) -> Defense:
        if attack is None:
            raise RobustError("it learns from adversarial examples: give --adv pgd, say")
        return _Guided(denoiser=self, inner=AdversarialTraining(attack=attack))

    def parts(self, model: nn.Module, frame: Frame) -> nn.Module:
        device = next((p.device for p in model.parameters()), None)
        return UNet(frame.shape[0], self.width).to(device)

    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        assert parts is not None
        return frame.own(parts(frame.unit(x)))


@dataclass(frozen=True, kw_only=True)
class _Guided(OnPoints):
    """How a denoiser learns: `inner` finds what it is to clean."""

    denoiser: Denoiser
    inner: AdversarialTraining

    def check_threat(self, threat: Threat) -> None:
        self.inner.check_threat(threat)

    def points(self, seen: nn.Module, task: Task) -> Tensor:
        share = float(1 - torch.rand((), generator=task.rng))
        threat = dataclasses.replace(task.threat, eps=share * task.threat.eps)
        return self.inner.points(self._around(seen).model, task._replace(threat=threat))

    def losses(self, model: nn.Module, task: Task, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        place = self._around(model)
        assert place.parts is not None
        with _answers(place.parts) as cleaned:
            logits = as_logits(model(x_adv), len(x_adv))
        if self.denoiser.loss == "pixels":
            apart = cleaned[-1].float() - place.frame.unit(task.x)
        else:
            with torch.no_grad():
                wanted = as_logits(place.model(task.x), len(task.x))
            apart = logits - wanted
        return apart.abs().flatten(1).mean(1), logits

    def _around(self, model: nn.Module) -> Before:
        """The place in the model where the denoiser is."""
        return next(
            module
            for module in model.modules()
            if isinstance(module, Before) and module.defense == self.denoiser
        )


@contextlib.contextmanager
def _answers(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module answers in here, in order."""
    answers: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, answer: answers.append(answer))
    try:
        yield answers
    finally:
        handle.remove()
