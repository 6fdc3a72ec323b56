"""Finished runs on small models, and the samples that probes look at."""

import torch
from torch import nn

from robust import planning
from robust.core.threat import Threat
from robust.data import from_arrays
from robust.diagnosis import Subject
from robust.evaluation import Evaluation
from robust.models import in_memory
from robust.planning import as_oracle
from robust.store import MemoryStore
from robust.views import attacks_for


def subject(
    net: nn.Module, x, y, threat: Threat, attacks, *, view="both", amount="full", targeted=None,
    surrogates=(), batch_size=32,
) -> Subject:  # fmt: skip
    """What is diagnosed of a run of these attacks, to its end."""
    source = from_arrays(x, y, low=threat.low, high=threat.high, channels_last=False)
    loaded = as_oracle(in_memory(net), "gradient")
    loaded = planning.with_chance(loaded, source, torch.device("cpu"), "gradient")
    chosen = attacks_for(loaded.module, attacks, view, white_box=not surrogates)
    spec = planning.plan(
        loaded, source, {"source": "in memory"}, threat, chosen, device=torch.device("cpu"),
        batch_size=batch_size, curve=False, targeted=targeted,
        surrogates=[in_memory(one) for one in surrogates],
    )  # fmt: skip
    run, store = Evaluation(spec, loaded.module, source, chosen, surrogates), MemoryStore()
    for _ in run.run(store):
        pass
    return Subject(run, store, amount)


class Linear(nn.Module):
    """Two classes on either side of w·x = b: the second where w·x > b, by a logit of w·x − b."""

    def __init__(self, w: list[float], b: float) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(w)), b

    def forward(self, x):
        score = x.flatten(1) @ self.w - self.b
        return torch.stack([torch.zeros_like(score), score], 1)


class Around(nn.Module):
    """net, with something done to what comes in and what goes out."""

    def __init__(self, net: nn.Module, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))
