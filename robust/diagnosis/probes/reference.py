"""The attacks that a run is held against, and its own attacks on easier questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from robust.core.adaptive import Adaptive
from robust.core.attack import Attack
from robust.core.combinator import Combinator
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.threat import COUNTS, Threat
from robust.core.victim import Victim
from robust.diagnosis.subject import Subject, broken
from robust.registry import label, name_of, parse_attack

ONE_STEP = "fgsm"
# What a naive attacker runs: PGD with cross-entropy as published, or the usual attack on what eps
# counts. In L1 it misses corners of ball and box that even one step finds, on honest models too, so
# that another one goes on there.
PLAIN = {
    "linf": ("pgd",),
    "l2": ("pgd",),
    "l1": ("pgd", "pdpgd"),
    "l0": ("fmn",),
    "patch": ("patch",),
}
MARGIN = "pgd,loss=margin"
NOISE = "uniform-noise,samples=100"
RANDOM_SEARCH = "square,queries=300"
LARGER = 2  # times eps
# Of a random model a sample counts as left where in so many draws it was, and as broken where half
# of the draws are fooled: what is in between are the same sample's luckier draws.
_CLEARLY = 0.75
# A second opinion, by norm: the first of these that the run itself did not hold, and where it held
# all, the last with other random numbers.
_TARGETED, _DLR = "apgd-t,steps=30,targets=4", "apgd,steps=40,loss=dlr"
_STRONG: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(("linf", "l2"), (("auto",), (_TARGETED, _DLR))),
    "l1": (("pdpgd", "auto"), ("pdpgd", _TARGETED), ("auto",), (_TARGETED, _DLR)),
    "l0": (("sigma-zero",), ("fmn",), ("sigma-zero,restarts=3",)),
    "patch": (("patch",), ("patch,restarts=3",)),
}
# The same where the model answers at random, and so every attack is on the mean of its draws.
_STRONG_RANDOM = (
    ("apgd,steps=50,loss=margin",),
    ("apgd,steps=50,loss=dlr",),
    ("pgd,steps=50,loss=margin",),
)


def probe(subject: Subject) -> dict[str, Any]:
    """What other attacks break of the samples, and what the run's own break on easier questions.

    robust      places of the samples that the run left robust; of a random model clearly so
    attacks     by what is asked:
                "one-step"      FGSM with cross-entropy, on the deployed model
                "plain"         PGD with cross-entropy, likewise; see PLAIN
                "margin"        PGD with the margin, likewise, on what "plain" or the run left
                "noise"         uniform noise in the ball, on the same
                "random-search" Square, on the same
                "second"        another strong attack, adaptive where the model has defenses, on
                                what the run left robust
                "larger"        the run's attacks at LARGER eps, on what they left robust
                "unbounded"     the run's attacks without a bound, on what these left
                "plain-larger", "plain-unbounded"   the same of "plain", on what it left
    Of each: `labels` of the attacks, in order, each on what the former left; `eps`; `given` samples
    and `broken`, the places of those broken; or, where it does not answer the threat, `why` not.

    Raises RobustError where attackers do not have the model: they have neither its gradients nor
    its answers, and nothing here can be compared.
    """
    if not subject.white_box:
        raise RobustError(
            "attackers of this run search on other models, and have no answers of this one to "
            "compare"
        )
    bench = _Bench(subject)
    everything = torch.arange(len(subject), device=subject.x.device)
    robust = (subject.left > (_CLEARLY if subject.random else 0.5)).nonzero().squeeze(1)
    one, other, *plain = (
        _Patient(attack=attack) if subject.random else attack
        for attack in map(parse_attack, (ONE_STEP, MARGIN, *PLAIN[subject.threat.norm]))
    )
    bench.run("one-step", [one], everything)
    unbroken = bench.run("plain", plain, everything)
    rest = everything[torch.isin(everything, torch.cat([unbroken, robust]))]
    bench.run("margin", [other], rest)
    bench.run("noise", [parse_attack(NOISE)], rest)
    bench.run("random-search", [parse_attack(RANDOM_SEARCH)], rest)
    bench.run("second", _second(subject), robust)
    for name, attacks, left in (("", subject.attacks, robust), ("plain-", plain, unbroken)):
        for question, threat in _easier(subject).items():
            left = bench.run(f"{name}{question}", attacks, left, threat)
    return {"robust": robust.tolist(), "attacks": bench.found}


@dataclass(frozen=True, kw_only=True)
class _Patient(Combinator):
    """An attack that goes on after success, as published: on a model that answers at random it
    would end at the first lucky answer, which tells of chance and not of gradients.
    """

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        return self.attack.search(victim, x, replace(goal, persist=True), threat, rng)


class _Bench:
    """Runs attacks on parts of the samples, and keeps what they broke."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.found: dict[str, dict[str, Any]] = {}

    def run(
        self, name: str, attacks: Sequence[Attack], rows: Tensor, threat: Threat | None = None
    ) -> Tensor:
        """Each attack on what the former left of `rows`: what all of them leave, int64 (k,)."""
        subject, threat = self.subject, threat or self.subject.threat
        factor = threat.eps / subject.threat.eps if subject.threat.eps else 1.0
        given, ran, why = len(rows), list[str](), ""
        hits: list[int] = []
        for attack in attacks:
            try:
                found = subject.search(_scaled(attack, factor), rows, threat=threat, salt=name)
                gone = broken(found).to(rows.device)
            except RobustError as error:
                why = str(error)
                continue
            ran.append(label(attack))
            hits += gone.tolist()
            rows = rows[~torch.isin(rows, gone)]
        if ran:
            facts = {"labels": ran, "eps": threat.eps, "given": given, "broken": sorted(hits)}
            self.found[name] = facts
        elif why:
            self.found[name] = {"why": why}
        return rows


def _scaled(attack: Attack, factor: float) -> Attack:
    """The attack with a step that was chosen for another eps grown along."""
    if isinstance(attack, Combinator):
        return replace(attack, attack=_scaled(attack.attack, factor))
    size = attack.params.get("step_size")
    if size is None:
        return attack
    changed: dict[str, Any] = {"step_size": size * factor}
    return replace(attack, **changed)


def _easier(subject: Subject) -> dict[str, Threat]:
    """The threats with a larger eps, and with one that all points of the box are within."""
    threat, shape = subject.threat, subject.x.shape[1:]
    span, d = threat.high - threat.low, shape.numel()
    whole = {
        "linf": span, "l2": span * d**0.5, "l1": span * d, "l0": d,
        "patch": max(shape[-2:]) if len(shape) > 1 else 1,
    }[threat.norm]  # fmt: skip
    if threat.norm not in COUNTS:
        whole *= 1 + 1e-6  # what is as far as it can be is within it, whatever the rounding
    larger = min(LARGER * threat.eps, whole)
    return {
        "larger": replace(threat, eps=larger),
        "unbounded": replace(threat, eps=whole),
    }


def _second(subject: Subject) -> list[Attack]:
    """Strong attacks that the run did not hold."""
    choices = _STRONG_RANDOM if subject.random else _STRONG[subject.threat.norm]
    held = {_known(attack) for attack in subject.run.attacks}
    chosen = next(
        (texts for texts in choices if not held & {_known(parse_attack(t)) for t in texts}),
        choices[-1],
    )
    attacks = [parse_attack(text) for text in chosen]
    if not subject.defended:
        return attacks
    return [Adaptive(attack=attack) for attack in attacks]


def _known(attack: Attack) -> str:
    """By what an attack is known again, whatever it is wrapped into: its name and loss."""
    while isinstance(attack, Combinator):
        attack = attack.attack
    return f"{name_of(attack)} {getattr(attack, 'loss', '')}"
