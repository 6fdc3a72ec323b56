"""The defenses of a training run: which of them trains, and which stand around its network."""

from collections.abc import Mapping, Sequence
from typing import Any

from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.core.trainer import Trainer
from robust.models import parse_defense
from robust.registry import defense_label

from .adv import inner_attack, make_trainer

Named = tuple[str, Defense]


def make_defenses(records: Sequence[Mapping[str, Any]]) -> list[Named]:
    """Names and defenses of {"name", "params"}, in order. RobustError for what cannot be made."""
    return [parse_defense(defense_label(record)) for record in records]


def choose_trainer(
    defenses: Sequence[Named],
    adv: dict[str, Any],
    threat: Threat,
    *,
    mix: float = 1.0,
    awp: float = 0.0,
    also: Sequence[Threat] = (),
    union: str = "max",
) -> Defense:
    """What trains: the one of the defenses that does so in its own way, else what `adv` and the
    rest, as `make_trainer` has it, stand for.

    Raises RobustError where two would train, and where one has no use for the rest.
    """
    own = [(name, defense) for name, defense in defenses if defense.trains]
    if not own:
        return make_trainer(adv, threat, mix=mix, awp=awp, also=also, union=union)
    if len(own) > 1:
        raise RobustError(f"{own[0][0]} and {own[1][0]} each train in a way of their own: give one")
    name, defense = own[0]
    for flag, given in (("--mix", mix != 1), ("--awp", awp), ("--also", also)):
        if given:
            raise RobustError(f"{flag} is of adversarial training, and {name} trains: drop it")
    attack = inner_attack(adv)
    if attack is not None:
        attack.check(threat)
    try:
        made = defense.against(attack)
    except RobustError as error:
        raise RobustError(f"{name}: {error}") from error
    if isinstance(made, Trainer):
        made.check_threat(threat)
    return made


def around_network(defenses: Sequence[Named]) -> list[Named]:
    """Those that change something around the network."""
    return [(name, defense) for name, defense in defenses if defense.place]
