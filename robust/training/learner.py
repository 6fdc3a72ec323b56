"""What learns in a run: network, optimiser and trainer, and how a batch changes them."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import clip_grad_norm_

from robust.core.defense import Task
from robust.core.goal import predicted_right
from robust.core.threat import Threat
from robust.models import load_model

from .averaging import Average
from .criterion import make_criterion
from .data import Data, Samples
from .network import Autocast, freeze, make_network, make_optimizer
from .spec import TrainSpec, eps_at, lr_at


class Learner:
    """A network in training.

    adv         {"name", "params"} of what trains it: the spec's, until something else takes over
    memory      what a batch leaves to the next one of its epoch
    """

    def __init__(self, spec: TrainSpec, data: Data, samples: Samples, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.threat = Threat(**spec.threat)
        self.network = make_network(spec, data, samples, device)
        self.still = freeze(self.network.net, spec.freeze)
        self.free = self.network.free()
        self.optimizer = make_optimizer(spec, self.free)
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "fp16")
        self.criterion = make_criterion(spec, data).to(device)
        self.average = Average(self.network, self.still, spec.ema, spec.swa)
        defended = self.network.defended
        self.model = Autocast(defended.model, device.type, spec.precision)
        self.seen = self.model
        if defended.exposed is not defended.model:
            self.seen = Autocast(defended.exposed, device.type, spec.precision)
        self.memory: dict[str, Tensor] = {}
        self.switch(spec.adv)

    def switch(self, adv: dict[str, Any]) -> None:
        """Go on with this in place of the spec's `adv`."""
        self.adv = adv
        self.memory.clear()
        frame = self.network.defended.frame
        assert frame is not None
        made = dataclasses.replace(self.spec, adv=adv).defense()
        self.trainer = made.opened(self._open, frame)

    def _open(self, path: str) -> nn.Module:
        return load_model(Path(path)).module.to(self.device)

    def step(
        self,
        passed: float,
        share: float,
        x: Tensor,
        y: Tensor,
        rng: Generator,
        criterion: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Learn from one batch: (sum of its losses, number of its samples that were predicted
        right), means where the batch is worth several updates.

        passed      epochs before this batch, a fraction included; share: of an epoch that it is
        criterion   in place of the run's
        """
        spec = self.spec
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(spec, passed / spec.epochs)
        threat = dataclasses.replace(self.threat, eps=eps_at(spec, passed + share))
        task = Task(x, y, threat, rng, criterion or self.criterion)
        steps = self.trainer.updates(self.model, self.seen, task, self.memory)
        losses, hits = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
        updates = 0
        for result in steps:
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(result.loss).backward()  # type: ignore[no-untyped-call]
            if result.after is not None:
                result.after()
            if spec.grad_clip:
                self.scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.free, spec.grad_clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.average.after_update(result.x_adv, passed >= spec.epochs - spec.swa)
            losses += result.loss.detach() * len(x)
            hits += predicted_right(result.logits, y).sum()
            updates += 1
        return losses / updates, hits / updates

    def training_mode(self) -> None:
        """All that learns in training mode, all that is frozen in eval mode."""
        self.network.defended.train()
        for module in self.still:
            module.eval()

    def state(self) -> dict[str, Any]:
        """A copy of all that changes from batch to batch, but for `memory`."""
        return {
            "weights": self.network.weights(),
            "average": self.average.state(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "adv": self.adv,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. States of runs before there were averages have none."""
        self.network.trained.load_state_dict(state["weights"])
        self.average.load(state.get("average"))
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.scaler.load_state_dict(state["scaler"])
        adv = state.get("adv", self.spec.adv)
        if adv != self.adv:
            self.switch(adv)
        self.memory.clear()
