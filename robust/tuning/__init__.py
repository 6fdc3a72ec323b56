"""Tuning: the search for good parameters of a recipe of training, or of defenses around a model."""

from .around import Around
from .engine import best_of, tune
from .events import Event, TrialDone, TrialProgress, TrialStarted, TuneDone, TuneStarted
from .folder import read_run
from .recipe import Recipe
from .report import write_report
from .space import Axis, parse_axes
from .spec import OBJECTIVES, TuneSpec
from .study import Row
from .subject import Look, Subject

__all__ = [
    "OBJECTIVES",
    "Around",
    "Axis",
    "Event",
    "Look",
    "Recipe",
    "Row",
    "Subject",
    "TrialDone",
    "TrialProgress",
    "TrialStarted",
    "TuneDone",
    "TuneSpec",
    "TuneStarted",
    "best_of",
    "parse_axes",
    "read_run",
    "tune",
    "write_report",
]
