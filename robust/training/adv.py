"""What `--adv` means: an inner attack of adversarial training, or training of another kind."""

from collections.abc import Sequence
from typing import Any

from robust.core.attack import Attack
from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.core.trainer import Trainer
from robust.registry import (
    ALIASES,
    PRESETS,
    build,
    find,
    name_of,
    names,
    parse_attack,
    parse_pairs,
    suggest,
)

# What `--adv NAME` means beyond the attack's own defaults: training wants few steps and a random
# start (1706.06083, 2001.03994).
ADV_DEFAULTS = {"pgd": {"steps": "7"}, "fgsm": {"random_start": "true"}}
# Ways to train that are made of others, and the options that ask for them.
_OPTIONS = {
    "adversarial-training": "--adv pgd",
    "awp": "--adv pgd --awp 0.005",
    "union": "--adv pgd --also l2:1.5",
}
NO_ATTACK = {"name": "none", "params": {}}


def parse_adv(text: str) -> dict[str, Any]:
    """`--adv NAME,key=value,…` → {"name", "params"}: any registered attack, a kind of training from
    `trainers`, or "none".

    "pgd" takes 7 steps and "fgsm" starts at random unless told otherwise. RobustError for unknown
    names and parameters, with a suggestion, and for attacks that no training can use.
    """
    name, *given = [part.strip() for part in text.split(",")]
    if name == NO_ATTACK["name"]:
        if given:
            raise RobustError("--adv none has no parameters")
        return dict(NO_ATTACK)
    if is_trainer(name):
        trainer = build(find("defenses", name), name, parse_pairs(name, given))
        return {"name": name, "params": trainer.params}
    if name in names("defenses"):
        typed = training_option(name) or f"--defense {name}"
        raise RobustError(f"{name} is not for --adv: type {typed}")
    attacks = [*names("attacks"), *ALIASES, *PRESETS]
    if ":" not in name and name not in attacks:
        likely = suggest(name, [*attacks, *trainers()])
        raise RobustError(
            f"unknown --adv {name!r}{likely}; give an attack (`robust list attacks`), "
            f"{', '.join(trainers())} or none"
        )
    keys = {pair.partition("=")[0].strip().replace("-", "_") for pair in given}
    given += [f"{k}={v}" for k, v in ADV_DEFAULTS.get(name, {}).items() if k not in keys]
    attack = parse_attack(",".join([name, *given]))
    _adversarial_training(attack)
    return describe_attack(attack)


def trainers() -> list[str]:
    """The names of the kinds of training that `--adv` knows besides attacks."""
    return [name for name in names("defenses") if is_trainer(name)]


def is_trainer(name: str) -> bool:
    """Whether that is the name of one of `trainers`."""
    if name not in names("defenses"):
        return False
    kind = find("defenses", name)
    return issubclass(kind, Trainer) and not kind.reserved


def training_option(name: str) -> str | None:
    """What to type for a defense that is a way to train and has an option of its own; None for
    others."""
    return _OPTIONS.get(name) or (f"--adv {name}" if is_trainer(name) else None)


def inner_attack(adv: dict[str, Any]) -> Attack | None:
    """The attack that `adv` names, None for "none". RobustError where it names other training."""
    if adv["name"] == NO_ATTACK["name"]:
        return None
    if is_trainer(adv["name"]):
        raise RobustError(f"{adv['name']} is no attack, but a way to train of its own")
    return make_attack(adv)


def make_trainer(
    adv: dict[str, Any],
    threat: Threat,
    *,
    mix: float = 1.0,
    awp: float = 0.0,
    also: Sequence[Threat] = (),
    union: str = "max",
) -> Defense:
    """The defense that trains against `threat`: what `adv` names, and what goes around that.

    mix     share of each batch that is adversarial
    awp     relative length of a perturbation of the weights; 0: none
    also    threats besides, with `union` "max" or "average" over all of them

    Raises RobustError where it does not answer the threat, and for what does not go together.
    """
    trainer: Any
    if is_trainer(adv["name"]):
        if mix != 1:
            raise RobustError(
                f"--mix is a share of samples under attack, and {adv['name']} decides that for "
                "itself: drop it"
            )
        pairs = {key: str(value) for key, value in adv["params"].items()}
        trainer = build(find("defenses", adv["name"]), adv["name"], pairs)
    else:
        trainer = _adversarial_training(inner_attack(adv), mix)
    if also:
        trainer = find("defenses", "union")(around=trainer, threats=(threat, *also), how=union)
    trainer.check_threat(threat)
    if awp:
        trainer = find("defenses", "awp")(around=trainer, gamma=awp)
    made: Defense = trainer
    return made


def _adversarial_training(attack: Attack | None, mix: float = 1.0) -> Any:
    return find("defenses", "adversarial-training")(attack=attack, mix=mix)


def describe_attack(attack: Attack) -> dict[str, Any]:
    """{"name", "params"}, from which `make_attack` makes it again."""
    return {"name": name_of(attack), "params": attack.params}


def make_attack(record: dict[str, Any]) -> Attack:
    """{"name", "params"} → the attack. RobustError for unknown names and parameters."""
    pairs = [f"{k}={str(v).lower()}" for k, v in record["params"].items()]
    return parse_attack(",".join([record["name"], *pairs]))
