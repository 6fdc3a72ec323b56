"""The base of every attack: what turns a `search` into something that a user can call."""

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from .errors import RobustError
from .goal import Goal
from .losses import LOSSES
from .rng import generator
from .threat import CONVEX, COUNTS, THREATS, Threat
from .victim import Access, Model, Pool, Victim

# One vocabulary: a field of this name means the same in every attack, and so has one range. An
# attack that does nothing would leave a perfect robust accuracy behind.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps": (lambda v: v >= 1, "at least 1"),
    "restarts": (lambda v: v >= 1, "at least 1"),
    "eot": (lambda v: v >= 1, "at least 1"),
    "samples": (lambda v: v >= 1, "at least 1"),
    "targets": (lambda v: v >= 1, "at least 1"),
    "probes": (lambda v: v >= 1, "at least 1"),
    "places": (lambda v: v >= 1, "at least 1"),
    "placements": (lambda v: v >= 1, "at least 1"),
    "queries": (lambda v: v >= 1, "at least 1"),
    "p_init": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "step_size": (lambda v: math.isfinite(v) and v > 0, "a finite number above 0"),
    "decay": (lambda v: math.isfinite(v) and v >= 0, "a finite number, at least 0"),
    "diversity": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "translation": (lambda v: v == 0 or (v > 0 and v % 2 == 1), "0 or an odd number"),
    "scales": (lambda v: 1 <= v <= 16, "from 1 to 16"),
    "position": (
        lambda v: bool(re.fullmatch(r"best|random|\d+:\d+", v)),
        "best, random or row:column such as 0:3",
    ),
    "rho": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "alpha_max": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "eta": (lambda v: 1 <= v <= 2, "from 1 to 2"),
    "beta": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "candidates": (lambda v: v >= 2, "at least 2"),
    "gamma": (lambda v: 0 < v < 1, "above 0 and below 1"),
    "searches": (lambda v: v >= 1, "at least 1"),
    "constant": (lambda v: math.isfinite(v) and v > 0, "a finite number above 0"),
    "confidence": (lambda v: math.isfinite(v) and v >= 0, "a finite number, at least 0"),
    "sigma": (lambda v: math.isfinite(v) and v > 0, "a finite number above 0"),
    "threshold": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "sensitivity": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "overshoot": (lambda v: math.isfinite(v) and v >= 0, "a finite number, at least 0"),
    "alike": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "waves": (lambda v: v >= 1, "at least 1"),
    "basis": (lambda v: v in ("dct", "pixel"), "dct or pixel"),
    "loss": (lambda v: v in LOSSES, f"one of {', '.join(LOSSES)}"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One way to look for an adversarial example. Subclasses are frozen dataclasses.

    The fields are the configuration: the CLI's parameters, the JSON record and the resume hash come
    from them. A subclass states `access` (what it asks of the model), `norms` (the threats it
    answers), `goals` (untargeted, targeted or both; "label-sets", too, where loss and goal are all
    that it knows of labels), `images` (it needs samples of shape (channels, height, width)),
    `least_classes`, `minimal` (it looks for the smallest perturbation, whatever
    the threat's eps) and `paper` (arXiv id), and writes `search`.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(CONVEX)
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted"})
    images: ClassVar[bool] = False
    least_classes: ClassVar[int] = 2
    minimal: ClassVar[bool] = False
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            fits, words = _RANGES.get(field.name, (None, ""))
            value = getattr(self, field.name)
            if fits is not None and value is not None and not fits(value):
                raise RobustError(f"{field.name} must be {words}, not {value}")

    @abstractmethod
    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        """Look for points of the threat around x (n, …) that reach the goal: x_adv, same shape.

        Where none is found, the point of highest loss that was measured. A minimal attack returns
        the nearest success that it found, outside the threat's eps or not, and x where it found
        none. Called without gradient
        recording; `x` and the model stay as they are; all randomness comes from `rng`.
        """

    @property
    def measures(self) -> bool:
        """Whether it looks for the smallest perturbation to the end: from its distances accuracy
        can be read at any eps. `until_eps` among its fields ends that inside the threat's eps.
        """
        return self.minimal and not getattr(self, "until_eps", False)

    @property
    def params(self) -> dict[str, Any]:
        """The configuration, by field name."""
        return dataclasses.asdict(self)

    def check(
        self,
        threat: Threat,
        *,
        targeted: bool = False,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        """Raise RobustError if this attack does not answer that threat, that kind of goal, samples
        of that shape or that many classes, as far as they are known.
        """
        name = type(self).__name__
        if threat.norm not in self.norms:
            names = ", ".join(n for n in THREATS if n in self.norms)
            raise RobustError(f"{name} answers {names} threats, not {threat.norm}")
        if threat.norm in COUNTS and threat.eps != int(threat.eps):
            wanted = "1 or more" if threat.eps < 1 else "a whole number"
            raise RobustError(
                f"eps of a threat of norm {threat.norm} counts {COUNTS[threat.norm]}: "
                f"{wanted}, not {threat.eps:g}"
            )
        wanted = "targeted" if targeted else "untargeted"
        if wanted not in self.goals:
            has = ", ".join(sorted(self.goals))
            raise RobustError(f"{name} answers {has} goals only, not {wanted} ones")
        if shape is not None and len(shape) != 3 and (self.images or threat.norm == "patch"):
            what = name if self.images else "a patch threat"
            raise RobustError(
                f"{what} needs images of shape (channels, height, width), not samples of shape "
                f"{tuple(shape)}"
            )
        if classes is not None and classes < self.least_classes:
            raise RobustError(
                f"{name} needs a model of at least {self.least_classes} classes, not {classes}"
            )

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        threat: Threat,
        target: Tensor | int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Adversarial examples for the batch x: float (n, …), same shape, inside the threat.

        model   pixels in [threat.low, threat.high] to logits (n, K), or (n,) for a binary model;
                used in the mode (train or eval) that it is in
        y       int64 (n,), the true classes
        target  int64 (n,) or one class: arrive there, instead of merely leaving y

        Raises RobustError for a norm, a goal or a shape of samples that the attack does not
        support, x outside the box, or shapes that do not fit.
        """
        self.check(threat, targeted=target is not None, shape=x.shape[1:])
        check_batch(x, y, threat)
        labels = y
        if target is not None:
            labels = torch.as_tensor(target, dtype=torch.int64, device=x.device).expand(len(x))
        victim = Victim(model, len(x), self.access, x.device, pool=Pool(x, y))
        goal = Goal(labels, targeted=target is not None)
        with torch.no_grad():
            return self.search(victim, x, goal, threat, generator(seed, type(self).__name__))


def check_batch(x: Tensor, y: Tensor, threat: Threat) -> None:
    """Raise RobustError unless x is float (n, …) inside the box and y int (n,)."""
    if not x.is_floating_point() or x.dim() < 2:
        raise RobustError(f"x must be float of shape (n, …), not {x.dtype} {tuple(x.shape)}")
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise RobustError(f"y must be int of shape ({len(x)},), not {y.dtype} {tuple(y.shape)}")
    if len(x) and not bool(threat.in_box(x).all()):
        raise RobustError(
            f"x has values from {x.min():g} to {x.max():g}, outside the range "
            f"[{threat.low:g}, {threat.high:g}]"
        )
