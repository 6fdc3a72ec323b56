"""Naive and adaptive: the attacks that a model with defenses meets.

A naive attacker takes the deployed model for a plain one; an adaptive one sees through its defenses
(`core.adaptive`). The difference between what they leave is false security.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from .core.adaptive import Adaptive
from .core.attack import Attack
from .core.combinator import Combinator
from .core.defended import Defended
from .core.eot import EOT
from .core.errors import RobustError
from .core.fitted import Fitted
from .core.victim import Access
from .registry import label, name_of, parse_attack

VIEWS = ("both", "naive", "adaptive")
NAIVE = "pgd"  # what is commonly reported; `auto` would adapt by itself
# What `auto` is against a random model. The rand version of AutoAttack takes 100 steps and DLR for
# the second loss: that reaches no further, and costs twice as much.
RANDOM = ("apgd,steps=50,loss=margin", "apgd,steps=50")


def attacks_for(
    model: nn.Module, attacks: Sequence[Attack], view: str, *, white_box: bool
) -> list[Attack]:
    """What these attacks come to on this model: on one with defenses each with gradients runs
    naively, and then adaptively on what is left.

    view        "both", "naive" or "adaptive"
    white_box   attackers have the model itself; else there is nothing to see through

    `auto` is naively PGD, and on a random model adaptively APGD, twice, on the mean of its draws.
    What was asked to be adaptive is not doubled; what only asks the model, or makes one thing for
    all samples, runs as it is. Raises RobustError where there is no such view.
    """
    if view not in VIEWS:
        raise RobustError(f"--view must be one of {', '.join(VIEWS)}, not {view}")
    if not (isinstance(model, Defended) and white_box):
        if view != "both":
            raise RobustError(
                f"--view {view} is for models with defenses that are attacked by gradients: "
                "there is one view of this one"
            )
        return list(attacks)
    naive, adaptive = list[Attack](), list[Attack]()
    for attack in attacks:
        if isinstance(attack, Adaptive):
            adaptive += _informed(attack.attack, model.draws)
        elif attack.access < Access.GRADIENT or isinstance(attack, Fitted):
            naive.append(attack)
        else:
            if view != "adaptive":
                naive.append(_with(attack, NAIVE))
            adaptive += _informed(attack, model.draws)
    chosen = naive if view == "naive" else [*naive, *adaptive]
    if not chosen:
        raise RobustError(f"--view {view} leaves no attack: those named are all adaptive")
    return list({label(attack): attack for attack in chosen}.values())


def _informed(attack: Attack, draws: int) -> list[Attack]:
    """An attack with gradients as an adaptive attacker runs it on a model of so many draws."""
    if draws == 1:
        return [Adaptive(attack=attack)]
    made = list[Attack]()
    for text in RANDOM if _is_auto(attack) else ("",):
        seen = _with(attack, text)
        averaged = seen if isinstance(seen, EOT) else EOT(attack=seen, eot=draws)
        made.append(Adaptive(attack=averaged))
    return made


def _is_auto(attack: Attack) -> bool:
    return name_of(attack) == "auto"


def _with(attack: Attack, text: str) -> Attack:
    """The attack with that of `text` where `auto` is inside."""
    if not _is_auto(attack):
        return attack
    if isinstance(attack, Combinator):
        return replace(attack, attack=_with(attack.attack, text))
    return parse_attack(text)
