"""Averages of the weights: what is measured, kept and written in their place."""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    update_bn,
)

from .network import Network

_RECENT = 2**26  # values of the samples that the statistics of averaged weights are taken of
_BATCHES = 32  # and in how many of the last batches these are


class Average:
    """A mean of all weights of a network, over the updates or over the last epochs.

    decay     of an exponential moving average over the updates: at first (1 + n) / (10 + n) after n
              of them, where that is less, so that the start is soon forgotten
    epochs    the mean is over the ends of this many last epochs (SWA, 1803.05407)

    Statistics of BatchNorm are averaged with the weights; at the end of an epoch of SWA they are
    measured anew, on the last samples that were trained on.
    """

    def __init__(self, network: Network, still: list[nn.Module], decay: float, epochs: int) -> None:
        self.network, self.still, self.decay, self.epochs = network, still, decay, epochs
        self.model: AveragedModel | None = None
        self.recent: deque[Tensor] = deque(maxlen=_BATCHES)
        self._normalised = any(
            isinstance(module, _BatchNorm) and module.track_running_stats
            for module in network.defended.modules()
        )

    @property
    def active(self) -> bool:
        """Whether there is a mean to take the place of the weights."""
        return self.model is not None

    def after_update(self, x: Tensor, last_epochs: bool) -> None:
        """An update was made on the samples x; `last_epochs`: in those that SWA is over."""
        if self.decay:
            seen = 0 if self.model is None else int(self.model.n_averaged)
            self._add(min(self.decay, (1 + seen) / (10 + seen)))
        elif self._normalised and self.epochs and last_epochs:
            self.recent.append(x)
            while len(self.recent) > 1 and len(self.recent) * x.numel() > _RECENT:
                self.recent.popleft()

    def after_epoch(self, last_epochs: bool) -> None:
        """An epoch is over."""
        if self.decay or not (self.epochs and last_epochs):
            return
        seen = 0 if self.model is None else int(self.model.n_averaged)
        self._add(seen / (seen + 1))
        if not self.recent:
            return
        assert self.model is not None
        with self.in_place():
            network = self.network
            fixed = [(m, {k: v.clone() for k, v in m.state_dict().items()}) for m in self.still]
            with torch.no_grad():
                update_bn(list(self.recent), network.defended.model)
            for module, values in fixed:
                module.load_state_dict(values)
            measured = dict(network.trained.named_buffers())
            for name, buffer in self.model.module.named_buffers():
                buffer.copy_(measured[name])
        self.recent.clear()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the mean for its weights, while there is one."""
        if self.model is None:
            yield
            return
        trained, live = self.network.trained, self.network.weights()
        trained.load_state_dict(self.model.module.state_dict())
        try:
            yield
        finally:
            trained.load_state_dict(live)

    def state(self) -> dict[str, Tensor] | None:
        """A copy of the mean, and of how many it is made of."""
        if self.model is None:
            return None
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def load(self, state: dict[str, Tensor] | None) -> None:
        """Go on where `state` was taken."""
        self.recent.clear()
        if state is None:
            self.model = None
        else:
            self._model().load_state_dict(state)

    def _add(self, decay: float) -> None:
        """Let the mean be `decay` parts of itself, and the weights as they are the rest."""
        model = self._model()
        # torch's function for equal weights fails on counters, such as BatchNorm's.
        model.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        model.update_parameters(self.network.trained)

    def _model(self) -> AveragedModel:
        if self.model is None:
            self.model = AveragedModel(self.network.trained, use_buffers=True)
        return self.model


def deployed(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to write of a state of `Learner`: the mean, where there is one."""
    average: dict[str, Tensor] | None = state.get("average")
    if average is None:
        weights: dict[str, Tensor] = state["weights"]
        return weights
    start = "module."
    return {k.removeprefix(start): v for k, v in average.items() if k.startswith(start)}
