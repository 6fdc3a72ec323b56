"""The attacks of foolbox."""

import importlib
import importlib.util
import inspect
from typing import Any, ClassVar, cast

from torch import Tensor

from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Access

from .oracle import Oracle
from .peer import Facts, Peer

ALL_NORMS = "linf l2 l1 l0"

# What a class does not say of itself. By file: what it asks of the model.
_ACCESS = {
    **dict.fromkeys(
        (
            *("additive_noise", "binarization", "blended_noise", "blur", "boundary_attack"),
            *("contrast", "contrast_min", "dataset_attack", "hop_skip_jump", "inversion"),
            *("pointwise", "saltandpepper"),
        ),
        Access.LABELS,
    ),
    "gen_attack": Access.SCORES,
}
# By class: those that refuse a target, or whose steps do not aim at one, and the one that needs it.
_GOALS = {
    **dict.fromkeys(
        (
            *("L1FastGradientAttack", "L2FastGradientAttack", "LinfFastGradientAttack"),
            *("NewtonFoolAttack", "VirtualAdversarialAttack"),
            *("L2DeepFoolAttack", "LinfDeepFoolAttack"),
        ),
        "untargeted",
    ),
    "GenAttack": "targeted",
}
# It states L1, and searches as `constraint` says.
_NORMS = {"HopSkipJumpAttack": "linf l2"}
# Its fitness is z_t − log(Σ exp z − z_t): it overflows with large logits, and means the odds of the
# target where z are log-probabilities.
_ANSWERS = {"GenAttack": "log-probabilities"}
_IMAGES = ("GaussianBlurAttack",)
_DEFAULTS: dict[str, dict[str, Any]] = {"VirtualAdversarialAttack": {"steps": 10}}

_LEFT_OUT = {
    "BinarizationRefinementAttack": "it only refines adversarial examples of another attack",
    "SpatialAttack": "it turns and shifts images, which no Lp threat bounds",
}


class FoolboxAttack(Peer):
    """Run without foolbox's own check of the result, whose forward would be for nothing."""

    engine: ClassVar[str] = "foolbox"

    def _rehearse(self) -> None:
        self.theirs(**self.params)

    def _run(self, oracle: Oracle, goal: Goal, threat: Threat, options: dict[str, Any]) -> Tensor:
        package = importlib.import_module("foolbox")
        known = inspect.signature(self.theirs.__init__).parameters
        if "distance" in known:
            options = {**options, "distance": getattr(package.distances, threat.norm)}
        if "constraint" in known:
            options = {**options, "constraint": threat.norm}
        attack = self.theirs(**options)
        unit = oracle.unit
        model = package.PyTorchModel(oracle.eval(), bounds=(0, 1), device=unit.device)
        if goal.targeted:
            criterion = package.TargetedMisclassification(goal.labels)
        else:
            criterion = package.Misclassification(goal.labels)
        if hasattr(attack, "feed"):  # it looks for its answers among the samples it has seen
            attack.feed(model, unit)
        limit = {} if self.minimal else {"epsilon": threat.eps}
        found: Tensor = attack.run(model, unit, criterion, **limit)
        return found

    @classmethod
    def _gave_up(cls, error: Exception) -> bool:
        # A start that is not adversarial is an error, or, in one attack, a bare assertion.
        words = ("init_attack failed", "are not adversarial", "Gradient vanished")
        bare = isinstance(error, AssertionError) and not str(error)
        return bare or any(word in str(error) for word in words) or super()._gave_up(error)


def catalogue() -> tuple[dict[str, tuple[Any, Facts]], dict[str, str], dict[str, str]]:
    """The classes that can be run with their facts, why others cannot, and further names."""
    attacks = importlib.import_module("foolbox.attacks")
    base = importlib.import_module("foolbox.attacks.base")
    usable: dict[str, tuple[Any, Facts]] = {}
    left_out, other_names = dict(_LEFT_OUT), {}
    for name, theirs in vars(attacks).items():
        if not (inspect.isclass(theirs) and issubclass(theirs, base.Attack)):
            continue
        if inspect.isabstract(theirs) or theirs.__name__ in left_out:
            continue
        if name != theirs.__name__:
            other_names[name] = theirs.__name__
            continue
        minimal = issubclass(theirs, base.MinimizationAttack)
        if not (minimal or issubclass(theirs, base.FixedEpsilonAttack)):
            left_out[name] = "it is of a kind that is not known here"
            continue
        file = theirs.__module__.rpartition(".")[2]
        if file == "brendel_bethge" and importlib.util.find_spec("numba") is None:
            left_out[name] = "it needs the package numba, which is not installed"
            continue
        usable[name] = (
            theirs,
            Facts(
                _NORMS.get(name) or _norms(theirs, base),
                _ACCESS.get(file, Access.GRADIENT),
                minimal=minimal,
                goals=_GOALS.get(name, "untargeted targeted"),
                images=name in _IMAGES,
                answers=_ANSWERS.get(name, "logits"),
                defaults=_DEFAULTS.get(name, {}),
            ),
        )
    return usable, left_out, other_names


def _norms(theirs: Any, base: Any) -> str:
    """A class measures one distance, or any that it is given."""
    if issubclass(theirs, base.FlexibleDistanceMinimizationAttack):
        return ALL_NORMS
    distance: Any = theirs.distance
    if isinstance(distance, property):
        distance = cast(Any, distance.fget)(None)
    return f"l{distance.p:g}"
