"""Published evaluations: the attacks that they are made of, and whether a cascade is one."""

from collections.abc import Sequence
from typing import NamedTuple

from .errors import RobustError

VERSIONS = ("standard", "plus", "rand")

# FAB looks for the smallest perturbation; here it is done with a sample once that is inside eps.
_FAB_T = "fab-t,until_eps=true"
_STANDARD = ("apgd", "apgd-t", _FAB_T, "square")
_STAGES = {
    # 2003.01690, and 2103.01208 for L1: five restarts with cross-entropy, then five classes.
    ("standard", "linf"): _STANDARD,
    ("standard", "l2"): _STANDARD,
    ("standard", "l1"): ("apgd,restarts=5", "apgd-t,targets=5", _FAB_T, "square"),
    **dict.fromkeys(
        [("plus", "linf"), ("plus", "l2")],
        (
            *("apgd,restarts=5", "apgd,loss=dlr,restarts=5"),
            # FAB's five runs: the first starts at the sample.
            *("fab,until_eps=true", "fab,random_start=true,until_eps=true,restarts=4"),
            *("square", "apgd-t", _FAB_T),
        ),
    ),
    **dict.fromkeys(
        [("rand", "linf"), ("rand", "l2"), ("rand", "l1")],
        ("apgd,eot=20", "apgd,loss=dlr,eot=20"),
    ),
}


def autoattack(version: str, norm: str) -> tuple[str, ...]:
    """The stages of AutoAttack in their order, each written as `label` writes an attack.

    Raises RobustError for a version that is not published, or not for that norm.
    """
    if version not in VERSIONS:
        raise RobustError(
            f"autoattack takes version={', '.join(VERSIONS[:-1])} or {VERSIONS[-1]}, "
            f"not version={version}"
        )
    if (version, norm) not in _STAGES:
        norms = ", ".join(other for name, other in _STAGES if name == version)
        raise RobustError(f"AutoAttack {version} is published for {norms}, not for {norm}")
    return _STAGES[version, norm]


class Protocol(NamedTuple):
    """A published cascade found among the attacks of a run: its version and its stages."""

    version: str
    stages: tuple[str, ...]


def recognise(labels: Sequence[str], norm: str) -> Protocol | None:
    """The version of AutoAttack whose stages these attacks hold, in order and next to each other.

    The longest, where they hold several.
    """
    found = None
    for version in VERSIONS:
        stages = _STAGES.get((version, norm), ())
        starts = range(len(labels) - len(stages) + 1)
        holds = any(tuple(labels[i : i + len(stages)]) == stages for i in starts)
        if stages and holds and (found is None or len(stages) > len(found.stages)):
            found = Protocol(version, stages)
    return found
