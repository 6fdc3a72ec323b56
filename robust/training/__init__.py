"""Training: the engine, what it asks for (TrainSpec), its run folder and its events."""

from .adv import NO_ATTACK, describe_attack, make_attack, parse_adv, training_option
from .engine import train
from .events import Alarm, EpochDone, Event, Progress, TrainDone, TrainStarted
from .guard import describe_adv
from .recipes import RECIPES, with_recipe
from .spec import TrainSpec, eps_at, lr_at

__all__ = [
    "NO_ATTACK",
    "RECIPES",
    "Alarm",
    "EpochDone",
    "Event",
    "Progress",
    "TrainDone",
    "TrainSpec",
    "TrainStarted",
    "describe_adv",
    "describe_attack",
    "eps_at",
    "lr_at",
    "make_attack",
    "parse_adv",
    "train",
    "training_option",
    "with_recipe",
]
