"""How hard runs tried: whether the attacks of one are known to be weaker than those of another.

Attacks are ordered in part only. Where nothing is known of two sets of them, they are "other".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from robust.core.protocols import recognise

Relation = Literal["same", "weaker", "stronger", "other"]
Spec = Mapping[str, Any]
Asked = Mapping[str, Any]

# Fields that say how long an attack goes on: 1 where an attack has none of that name.
_EFFORT = frozenset(
    {
        *("steps", "restarts", "eot", "queries", "samples", "targets", "searches", "probes"),
        *("places", "placements", "max_iter", "max_eval"),
    }
)
_ONE_STEP = ("fgsm", "uniform-noise")
_GOES_ON = ("steps", "queries", "max_iter", "max_eval")

LEVELS = (
    "no attack",
    "attacks that know nothing of the model's defenses",
    "one step or random points",
    "attacks that go on from what they see",
    "an ensemble that is meant to leave nothing",
)


def level(spec: Spec) -> int:
    """The place in LEVELS of what a run with that spec tried; a higher one is stronger."""
    attacks: Sequence[Asked] = spec["attacks"]
    if not attacks:
        return 0
    if naive(spec):
        return 1
    if ensemble(spec) and spec.get("checks", 1) == 1:  # none is known to be that for random models
        return 4
    return 3 if any(_iterates(attack) for attack in attacks) else 2


def naive(spec: Spec) -> bool:
    """Whether the model has defenses, and no attack with gradients looks through them."""
    known = [attack["adaptive"] for attack in spec["attacks"] if "adaptive" in attack]
    return bool(known) and not any(known)


def ensemble(spec: Spec) -> str:
    """ "auto", or the version of AutoAttack that was run as published, aimed at any wrong class and
    on the model itself; "" where it was neither.
    """
    attacks: Sequence[Asked] = spec["attacks"]
    if any(attack["name"] == "auto" for attack in attacks):
        return "auto"
    found = recognise([label(attack) for attack in attacks], spec["threat"]["norm"])
    if found is None or spec.get("targeted") or spec.get("surrogates"):
        return ""
    return f"AutoAttack {found.version}"


def words(spec: Spec) -> str:
    """What was tried, in few words: "AutoAttack standard", "pgd,steps=100 + square"."""
    known = ensemble(spec)
    attacks: Sequence[Asked] = spec["attacks"]
    if known.startswith("AutoAttack"):
        found = recognise([label(attack) for attack in attacks], spec["threat"]["norm"])
        more = len(attacks) - len(found.stages) if found else 0
        return f"{known} + {more} more" if more else known
    return " + ".join(label(attack) for attack in attacks) or "none"


def label(attack: Asked) -> str:
    """The text that parses to an attack, as the run recorded it."""
    return str(attack.get("label") or attack["name"])


def compare(first: Spec, second: Spec) -> Relation:
    """Whether the first run's attacks are the second's, known to be weaker or stronger, or other.

    They are weaker where they are of a lower level, or where for each there is the same one in the
    second run that goes on for as long, or longer.
    """
    if _surrogates(first) != _surrogates(second):
        return "other"
    one, other = level(first), level(second)
    if one != other:
        return "weaker" if one < other else "stronger"
    within, holds = _within(first, second), _within(second, first)
    if within and holds:
        return "same"
    return "weaker" if within else "stronger" if holds else "other"


def _surrogates(spec: Spec) -> set[str]:
    return {str(one.get("sha256") or one.get("path")) for one in spec.get("surrogates") or []}


def _within(first: Spec, second: Spec) -> bool:
    return all(
        any(_covered(one, other, first, second) for other in second["attacks"])
        for one in first["attacks"]
    )


def _covered(one: Asked, other: Asked, first: Spec, second: Spec) -> bool:
    """Whether `other` does all that `one` does, and no less of it."""
    if one["name"] != other["name"] or bool(one.get("adaptive")) > bool(other.get("adaptive")):
        return False
    ours, theirs = _params(one, first), _params(other, second)
    for key in {*ours, *theirs}:
        if key in _EFFORT:
            if (ours.get(key) or 1) > (theirs.get(key) or 1):
                return False
        elif ours.get(key) != theirs.get(key):
            return False
    return True


def _params(attack: Asked, spec: Spec) -> dict[str, Any]:
    """Its parameters, with no more queries than the run allows."""
    params = dict(attack.get("params") or {})
    if spec.get("queries") is not None:
        params["queries"] = min(params.get("queries") or math.inf, spec["queries"])
    return params


def _iterates(attack: Asked) -> bool:
    """Whether it goes on from what it has seen, as far as is known."""
    params = attack.get("params") or {}
    given = [params[key] for key in _GOES_ON if params.get(key) is not None]
    return attack["name"] not in _ONE_STEP and (not given or max(given) > 1)
