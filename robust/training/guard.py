"""Catastrophic overfitting, seen within an epoch: what is looked at, when, and what is done."""

from typing import Any

import torch

from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.goal import as_logits, leaving
from robust.core.rng import generator, seeded
from robust.core.threat import Threat
from robust.core.victim import Victim
from robust.preflight import frozen
from robust.registry import label, parse_attack

from .adv import make_attack, parse_adv
from .data import Samples
from .label_sets import FIGURES, jaccard
from .spec import TrainSpec

# The model answers single-step attacks and no longer multi-step ones (2001.03994, section 5.4;
# 2007.02617). In healthy runs the two accuracies lie within some 0.1, and the second one does not
# halve; nor does what is near chance fall by much.
GAP, FALL, LEAST_FALL = 0.3, 0.5, 0.15

LOOKS = 4  # in an epoch, the last of them at its end
COST = 0.02  # the share of an epoch's passes that looks may cost
_FEW, _MANY = 128, 512  # samples of a look, and of the second one that confirms what it saw
_QUICK = "pgd,steps=3"
_PASSES = 5  # forwards and backwards that a look costs each of its samples
_MOST_STEPS = 10  # no attack is made stronger than this

REMEDY = "pgd,steps=3"


def collapsed(fgsm: float, robust: float, best: float) -> bool:
    """Whether a model that had `best` accuracy under a multi-step attack, and has `robust` now, has
    overfitted to a weak one; `fgsm`: under a single step."""
    return fgsm - robust > GAP and robust < FALL * best and best - robust > LEAST_FALL


def stronger(adv: dict[str, Any]) -> dict[str, Any] | None:
    """What takes over from an inner attack that a model has overfitted to: one of several steps, or
    the same with twice as many; None where that is not weak."""
    steps = adv["params"].get("steps")
    if adv["name"] == "none" or (steps is not None and 2 * steps > _MOST_STEPS):
        return None
    if steps is None:
        return parse_adv(REMEDY)
    params = {**adv["params"], "steps": 2 * steps}
    if "step_size" in params:
        params["step_size"] = None
    return {"name": adv["name"], "params": params}


def describe_adv(adv: dict[str, Any]) -> str:
    """As it would be given to `--adv`, but for parameters that have their defaults."""
    try:
        return label(make_attack(adv))
    except RobustError:  # a way to train that is no attack
        return str(adv["name"])


class Guard:
    """Looks at a few samples that are held back, several times in an epoch.

    A look is FGSM and a short PGD on few samples. What it suspects is looked at again, on more of
    them with the attack that validation uses. best is the highest accuracy that looks saw. For sets
    of labels the Jaccard index takes the place of accuracy.
    """

    def __init__(self, spec: TrainSpec, model: Defended, samples: Samples, threat: Threat) -> None:
        self.spec, self.model, self.threat = spec, model, threat
        order = torch.randperm(len(samples), generator=generator(spec.seed, "looks"))[:_MANY]
        self.x, self.y = next(samples.stream([order]))
        self.best = 0.0

    def when(self, steps: int, samples: int) -> list[int]:
        """The steps of an epoch of that many steps, over that many samples, after which a look is
        due. The last one is left to the measurement that ends each epoch."""
        affordable = int(COST * 2 * samples / (_PASSES * min(_FEW, len(self.y))))
        count = min(LOOKS, affordable + 1, steps)
        return [steps * number // count for number in range(1, count)]

    def look(self, epoch: int, step: int) -> str | None:
        """What is wrong, in half a line; None where nothing is, and then `best` may grow."""
        with seeded(self.spec.seed, "look", epoch, step), frozen(self.model), torch.no_grad():
            fgsm, robust = self._figures(parse_attack(_QUICK), _FEW)
            if not collapsed(fgsm, robust, self.best):
                self.best = max(self.best, robust)
                return None
            fgsm, robust = self._figures(make_attack(self.spec.val_attack), _MANY)
            if not collapsed(fgsm, robust, self.best):
                return None
            return said(fgsm, robust, self.best, sets=self.spec.multi_label)

    def _figures(self, attack: Attack, count: int) -> tuple[float, float]:
        x, y, found = self.x[:count], self.y[:count], []
        for search in (parse_attack("fgsm"), attack):
            victim = Victim(self.model.exposed, len(x), search.access, x.device)
            # The same points to start from in every look, so that their figures compare.
            rng = generator(self.spec.seed, "look")
            at = search.search(victim, x, leaving(y), self.threat, rng)
            logits = as_logits(self.model(at), len(x))
            if self.spec.multi_label:
                found.append(jaccard(y.cpu().numpy(), (logits > 0).long().cpu().numpy()))
            else:
                found.append(float((logits.argmax(1) == y).double().mean()))
        return found[0], found[1]


def said(fgsm: float, robust: float, best: float, *, sets: bool = False) -> str:
    """The figures of a collapse, in half a line; sets: they are Jaccard indices."""
    return (
        f"{FIGURES[sets][1]} {fgsm:.0%} under FGSM but {robust:.0%} under PGD, "
        f"which was {best:.0%} before"
    )
