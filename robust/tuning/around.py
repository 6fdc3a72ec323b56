"""Defenses around a finished model as a subject: every trial measures the defended model."""

import shlex
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.adaptive import Adaptive
from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.goal import Goal, as_logits
from robust.core.rng import derive, generator, seeded
from robust.core.threat import Threat
from robust.core.victim import Access, Victim
from robust.data import Source
from robust.models import Loaded, parse_defense, save_defended
from robust.preflight import examine, frozen
from robust.training.data import Samples, choose, cut

from .subject import (
    Look,
    Record,
    changed,
    names_of,
    parse_record,
    shortest,
    suggest,
    type_of,
    with_params,
)

DRAWS = 10  # answers that a figure of a random model is the mean of
_BATCH = 128


class Around:
    """Defenses around a model, whose parameters are tuned: "jpeg.quality".

    load        texts of defenses → the model with them around it
    defenses    {"name", "params"} of each, in the order in which a sample meets them
    source      what trials are judged by: `limit` of its samples, a seeded choice
    attack      searches on what an adaptive attacker sees (see `robust.core.adaptive`)
    """

    kind = "defense"

    def __init__(
        self,
        load: Callable[[Sequence[str]], Loaded],
        defenses: Sequence[Record],
        *,
        source: Source,
        data: dict[str, Any],
        threat: Threat,
        attack: Attack,
        described: dict[str, Any],
        limit: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """Loads the model and asks it about some samples. RobustError where it cannot be tuned."""
        if attack.access < Access.GRADIENT:
            raise RobustError(
                f"--val-attack {described['name']}: an adaptive attacker needs one with gradients"
            )
        attack.check(threat)
        self.load, self.defenses, self.source = load, list(defenses), source
        self.threat, self.seed, self.device = threat, seed, device
        self.attack = Adaptive(attack=attack)
        self.samples = Samples(source, choose(source, limit, seed), device)
        loaded = self._loaded({})
        examine(loaded.module, source, device)
        self.facts: dict[str, Any] = {
            "model": {"path": loaded.info.path, "sha256": loaded.info.sha256},
            "data": {**data, "fingerprint": source.fingerprint()},
            "threat": vars(threat),
            "attack": described,
            "defenses": [{"name": d["name"], "params": dict(d["params"])} for d in defenses],
            "samples": len(self.samples),
        }

    @property
    def usual(self) -> list[str]:
        """Every parameter of every defense."""
        return [f"{one['name']}.{key}" for one in self.defenses for key in one["params"]]

    def record(self) -> dict[str, Any]:
        return dict(self.facts)

    def identity(self) -> dict[str, Any]:
        model, data = self.facts["model"], self.facts["data"]
        return {**self.facts, "model": model["sha256"], "data": data["fingerprint"]}

    def canonical(self, name: str) -> str:
        if "." not in name:
            raise RobustError(
                f"--search {name}: around a finished model the parameters of its defenses are "
                f"searched{suggest(name, self.usual)}"
            )
        return ".".join(names_of(self.defenses, name))

    def value(self, name: str) -> Any:
        owner, _, parameter = name.rpartition(".")
        return next(one["params"].get(parameter) for one in self.defenses if one["name"] == owner)

    def type_of(self, name: str) -> type:
        return type_of(self.value(name))

    def check(self, values: Mapping[str, Any]) -> None:
        for text in self.texts(values):
            parse_defense(text)

    def texts(self, values: Mapping[str, Any]) -> list[str]:
        """`NAME,key=value,…` of each defense, with these values."""
        return [with_params(one, {}) for one in changed(self.defenses, values)]

    def options(self, values: Mapping[str, Any]) -> str:
        texts = [shortest(one, parse_record) for one in changed(self.defenses, values)]
        return shlex.join([word for text in texts for word in ("--with", text)])

    def run(self, values: Mapping[str, Any], folder: Path) -> Generator[Look, None, None]:
        began = time.perf_counter()
        model = self._loaded(values).module
        yield Look(0.0)
        # In tenths, where a batch holds that many: what is hopeless is given up early.
        chunks = cut(torch.arange(len(self.samples)), min(_BATCH, -(-len(self.samples) // 10)))
        clean = robust = 0.0
        done = 0
        for number, (x, y) in enumerate(self.samples.stream(chunks)):
            right, withstood = self._measure(model, x, y, number)
            clean, robust, done = clean + right, robust + withstood, done + len(x)
            yield Look(
                done / len(self.samples),
                clean / done,
                robust / done,
                seconds=time.perf_counter() - began,
                final=done == len(self.samples),
            )

    def write(self, values: Mapping[str, Any], folder: Path, out: Path) -> None:
        save_defended(out, self.load(self.texts(values)))

    def _loaded(self, values: Mapping[str, Any]) -> Loaded:
        loaded = self.load(self.texts(values))
        loaded.module.to(self.device)
        return loaded

    def _measure(self, model: nn.Module, x: Tensor, y: Tensor, number: int) -> tuple[float, float]:
        """Sums over the batch: of the share of draws that are right on x, and of those that are
        right on x and x_adv, whichever is the less. All trials have the same random numbers."""
        assert isinstance(model, Defended)
        draws = DRAWS if model.draws > 1 else 1
        with frozen(model), torch.no_grad(), seeded(self.seed, "defense", number):
            victim = Victim(model, len(x), self.attack.access, x.device)
            rng = generator(derive(self.seed, "attack"), number)
            x_adv = self.attack.search(victim, x, Goal(y, persist=True), self.threat, rng)
            right, withstood = (
                torch.stack([self._right(model, at, y) for _ in range(draws)]).mean(0)
                for at in (x, x_adv)
            )
        return float(right.sum()), float(torch.minimum(right, withstood).sum())

    @staticmethod
    def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = as_logits(model(x), len(x))
        if not bool(logits.isfinite().all()):
            raise RobustError("the defended model answers with NaN or infinity")
        return (logits.argmax(1) == y).double()
