"""An attack of another package as one of ours: what both engines share."""

import dataclasses
import inspect
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Access, BudgetSpent, Victim

from .oracle import Oracle, Stuck, to_data, to_unit
from .shield import own_randomness, quiet


@dataclass(frozen=True)
class Facts:
    """What must be known of a peer's attack to run it.

    norms       those it measures or bounds a perturbation in
    alone       it goes through the samples one after the other anyway, so it gets them so: every
                query is then entered for its sample, and a sample that fails fails alone
    images      it works on samples (channels, height, width) alone
    answers     what it takes for the model's answer, see Oracle
    defaults    ours, where the package has none or one that cannot be
    """

    norms: str
    access: Access = Access.GRADIENT
    minimal: bool = False
    goals: str = "untargeted targeted"
    alone: bool = False
    images: bool = False
    answers: str = "logits"
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Parameters of theirs that are not the user's to set, and why.
RESERVED = {
    **dict.fromkeys(("eps", "epsilons"), "--eps gives it"),
    **dict.fromkeys(("norm", "distance", "constraint"), "--norm gives it"),
    "targeted": "--targeted gives it",
    **dict.fromkeys(("estimator", "classifier"), "it is the model under attack"),
    **dict.fromkeys(("batch_size", "parallel_pool_size"), "the engine decides on it"),
    **dict.fromkeys(
        ("verbose", "verbose_es", "tensorboard", "summary_writer", "eval_perform"),
        "the engine shows and stores what happens",
    ),
    "minimal": "attacks that look for the smallest perturbation do so always",
}

# Lengths in the units of the data; whatever else is a length is in units of the box.
_LENGTHS = ("eps_step", "abs_stepsize")
_AT_LEAST_ONE = ("steps", "max_iter", "repeats", "directions", "population", "candidates")


@dataclass(frozen=True, kw_only=True)
class Peer(Attack):
    """An attack of another package, run by our engine.

    It works on samples scaled to [0, 1]. What it returns is put into the box, a budget attack's
    point into the ball, and asked about once more: where a minimal attack's is no success, and
    where it is not finite, x comes back. If it raises, it gets the batch again in halves, so that
    one sample costs no other its result; it is an error only where every sample fails.

    The ledger counts what it asks of the model, by rows (see Oracle). Its randomness is the global
    generators', seeded from `rng` and restored.
    """

    engine: ClassVar[str]
    facts: ClassVar[Facts]
    theirs: ClassVar[Any]
    reserved: ClassVar[Mapping[str, str]] = RESERVED

    def __post_init__(self) -> None:
        for name, value in self.params.items():
            if name in _AT_LEAST_ONE and value is not None and value < 1:
                raise RobustError(f"{name} must be at least 1, not {value}")
        try:
            with quiet():
                self._rehearse()
        except (ValueError, TypeError, ImportError, NotImplementedError) as error:
            raise self._complaint(error) from error

    @abstractmethod
    def _rehearse(self) -> None:
        """Make the package's own attack object, as it will be made: it refuses bad values."""

    @abstractmethod
    def _run(self, oracle: Oracle, goal: Goal, threat: Threat, options: dict[str, Any]) -> Tensor:
        """The package's answer for oracle.unit; `threat` and `options` are scaled to [0, 1]."""

    def _classes(self, victim: Victim, first: Tensor, goal: Goal) -> int:
        """How many classes the package is told of. Those above the goal's are one to a search by
        labels: it asks whether the goal is reached, which does not depend on them.
        """
        return max(3, int(goal.labels.max()) + 2) if self.access == Access.LABELS else 0

    @classmethod
    def _gave_up(cls, error: Exception) -> bool:
        """Whether that says, in the package's way, that it found nothing."""
        return isinstance(error, Stuck)

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        self.check(threat, targeted=goal.targeted, shape=x.shape[1:])
        if not len(x) or (threat.eps == 0 and not self.minimal):
            return x.clone()
        # What the package tries on its way is no result: only its answer counts for a watch.
        inner, _ = victim.watched(goal)
        with quiet(), own_randomness(rng), torch.enable_grad():
            found = self._answers(inner, x, goal, threat)
        x_adv = self._placed(x, found, threat)
        moved = (x_adv != x).flatten(1).any(1)
        if self.minimal:
            x_adv[victim.left < 1] = x[victim.left < 1]  # what it has shown, its progress knows
        changed = (moved & (victim.left > 0)).nonzero().squeeze(1)
        if len(changed):
            reached = goal[changed].satisfied(victim[changed].labels(x_adv[changed]))
            if self.minimal:
                missed = changed[~reached]
                x_adv[missed] = x[missed]
        return x_adv

    def _answers(self, victim: Victim, x: Tensor, goal: Goal, threat: Threat) -> Tensor:
        """The package's answers, in [0, 1]; the sample itself where it raised."""
        unit = to_unit(x, threat)
        first = torch.zeros(1, dtype=torch.int64, device=x.device)
        classes = self._classes(victim[first], x[:1], goal)
        span = threat.high - threat.low
        scaled = Threat(threat.norm, threat.eps if threat.norm == "l0" else threat.eps / span)
        options = {
            name: value / span if name in _LENGTHS and value is not None else value
            for name, value in self.params.items()
        }
        found, failed = unit.clone(), []
        everyone = torch.arange(len(x), device=x.device)
        pending = list(everyone.view(-1, 1)) if self.facts.alone else [everyone]
        while pending:
            rows = pending.pop(0)
            oracle = Oracle(
                victim[rows], unit[rows].clone(), threat, x, classes, self.facts.answers
            )
            try:
                found[rows] = self._run(oracle, goal[rows], scaled, options).detach().to(found)
            except BudgetSpent:  # those at their end stay behind; the others start once more
                more = rows[victim[rows].left > 0]
                if 0 < len(more) < len(rows):
                    pending.insert(0, more)
            except RobustError:
                raise
            except Exception as error:  # somebody else's code may fail in any way
                if len(rows) > 1:
                    pending[:0] = rows.chunk(2)
                else:
                    failed.append(error)
        real = [error for error in failed if not self._gave_up(error)]
        if real and len(failed) == len(x):
            raise self._complaint(real[0]) from real[0]
        return found

    def _placed(self, x: Tensor, found: Tensor, threat: Threat) -> Tensor:
        """Points in [0, 1] as allowed points of the data; what did not move stays to the bit."""
        # Packages that work in other coordinates move every one by a rounding.
        still = (found - to_unit(x, threat)).abs() <= (1e-5 if threat.norm == "l0" else 0)
        x_adv = torch.where(still, x, to_data(found.double(), threat, x))
        finite = found.flatten(1).isfinite().all(1).view(-1, *[1] * (x.dim() - 1))
        x_adv = torch.where(finite, x_adv, x).clamp(threat.low, threat.high)
        return x_adv if self.minimal else threat.around(x).project(x_adv)

    def _complaint(self, error: Exception) -> RobustError:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return RobustError(f"{type(self).__name__}: {lines[0]}")


def attack_class(base: type[Peer], name: str, theirs: Any, facts: Facts) -> type[Peer]:
    """The dataclass called `engine:name`: the package's parameters are its fields."""
    fields, reserved = parameters(theirs, RESERVED, facts.defaults)
    paper = re.search(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", inspect.getdoc(theirs) or "")
    made: type[Peer] = dataclasses.make_dataclass(
        f"{base.engine}:{name}",
        fields,
        bases=(base,),
        frozen=True,
        kw_only=True,
        namespace={
            "__doc__": f"{name} of the package {base.engine}.",
            "__module__": base.__module__,
            "theirs": theirs,
            "facts": facts,
            "access": facts.access,
            "norms": frozenset(facts.norms.split()),
            "goals": frozenset(facts.goals.split()),
            "images": facts.images,
            "minimal": facts.minimal,
            "reserved": reserved,
            "paper": paper[1] if paper else "",
        },
    )
    return made


def parameters(
    theirs: Any, reserved: Mapping[str, str], defaults: Mapping[str, Any] | None = None
) -> tuple[list[tuple[str, Any, Any]], dict[str, str]]:
    """The parameters of a package's class as fields of a dataclass, and why others are none.

    reserved    names that are not the user's to set, and why
    defaults    ours, where the package has none or one that cannot be
    """
    fields, refused = [], dict(reserved)
    for parameter in list(inspect.signature(theirs.__init__).parameters.values())[1:]:
        if parameter.name in reserved or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            continue
        default = (defaults or {}).get(parameter.name, parameter.default)
        kind = _kind(parameter.annotation, default)
        if kind is None:
            refused[parameter.name] = "it takes an object of Python"
        else:
            value = float(default) if kind is float else default
            fields.append((parameter.name, kind, dataclasses.field(default=value)))
    return fields, refused


def _kind(annotation: Any, default: Any) -> Any:
    """The type of a parameter that can be written as text, or None where it cannot."""
    text = annotation if isinstance(annotation, str) else str(annotation)
    words = set(re.findall(r"\w+", text))
    choices = re.findall(r"Literal\['([^']+)'\]", text)
    if words & {"Tuple", "tuple", "List", "list", "dict", "Callable"}:
        return None
    kind: Any = None
    if choices:
        kind = Literal[tuple(choices)]
    elif isinstance(default, bool):
        kind = bool
    else:
        named = {"float": float, "int": int, "str": str, "bool": bool}
        kind = next((named[word] for word in named if word in words), None)
    if kind is not None and (default is None or words & {"None", "NoneType", "Optional"}):
        kind |= None
    return kind
