"""What `--adv` means: the inner attack of adversarial training."""

from typing import Any

from robust.core.attack import Attack
from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.registry import find, name_of, parse_attack

# What `--adv NAME` means beyond the attack's own defaults: training wants few steps and a random
# start (1706.06083, 2001.03994).
ADV_DEFAULTS = {"pgd": {"steps": "7"}, "fgsm": {"random_start": "true"}}
NO_ATTACK = {"name": "none", "params": {}}


def parse_adv(text: str) -> dict[str, Any]:
    """`--adv NAME,key=value,…` → {"name", "params"}: any registered attack, or "none".

    "pgd" takes 7 steps and "fgsm" starts at random unless told otherwise.
    """
    name, *given = [part.strip() for part in text.split(",")]
    if name == NO_ATTACK["name"]:
        if given:
            raise RobustError("--adv none has no parameters")
        return dict(NO_ATTACK)
    keys = {pair.partition("=")[0].strip().replace("-", "_") for pair in given}
    given += [f"{k}={v}" for k, v in ADV_DEFAULTS.get(name, {}).items() if k not in keys]
    return describe_attack(parse_attack(",".join([name, *given])))


def make_trainer(adv: dict[str, Any], threat: Threat, *, mix: float = 1.0) -> Defense:
    """The defense that trains. RobustError where its attack does not answer the threat."""
    attack = None if adv["name"] == NO_ATTACK["name"] else make_attack(adv)
    if attack is not None:
        attack.check(threat)
    made: Defense = find("defenses", "adversarial-training")(attack=attack, mix=mix)
    return made


def describe_attack(attack: Attack) -> dict[str, Any]:
    """{"name", "params"}, from which `make_attack` makes it again."""
    return {"name": name_of(attack), "params": attack.params}


def make_attack(record: dict[str, Any]) -> Attack:
    """{"name", "params"} → the attack. RobustError for unknown names and parameters."""
    pairs = [f"{k}={str(v).lower()}" for k, v in record["params"].items()]
    return parse_attack(",".join([record["name"], *pairs]))
