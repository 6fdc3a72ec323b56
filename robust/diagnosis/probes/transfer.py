"""Whether examples crafted on one model fool the others: the transfer matrix."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robust.chance import draw, reached
from robust.core.adaptive import Adaptive
from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.core.victim import Victim
from robust.diagnosis.subject import Subject
from robust.preflight import forward, frozen
from robust.registry import label


def probe(subject: Subject) -> dict[str, Any]:
    """The first attack of the run, searched on each surrogate alone and on the model under attack,
    through their defenses if they have any; what it found is shown to all of them.

    models      names of the surrogates, and last of the model under attack
    attack      label of the attack
    given       of each model: how many of the samples it classifies as labelled, unaltered
    broken      (crafted on, tested on): how many of these the examples then reach the goal with;
                a row is None where the model gives no gradient to search with
    why         a sentence on such a row; "" where there is none

    Raises RobustError where the run has no surrogates, or no attack with gradients.
    """
    run = subject.run
    if not run.surrogates:
        raise RobustError("no other model was given to craft on")
    if not subject.attacks:
        raise RobustError("no attack of the run can be searched again on single models")
    attack = subject.attacks[0]
    models = [*run.surrogates, subject.model]
    why = ""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(frozen(model))
        eligible = torch.stack([_right(subject, model) for model in models])
        broken: list[list[int] | None] = []
        for number, model in enumerate(models):
            try:
                x_adv = _craft(subject, model, attack, number)
            except RobustError as error:
                broken.append(None)
                why = f"{error}."
                continue
            hits = torch.stack([_reached(subject, other, x_adv) for other in models])
            broken.append((hits & eligible).sum(1).tolist())
    specs = [*subject.spec.surrogates, subject.spec.model]
    return {
        "models": _names(specs),
        "attack": label(attack),
        "given": eligible.sum(1).tolist(),
        "broken": broken,
        "why": why,
    }


def _craft(subject: Subject, model: nn.Module, attack: Attack, number: int) -> Tensor:
    """The last candidates of a search on this model alone, for nothing is known to be solved."""
    if isinstance(model, Defended) and not isinstance(attack, Adaptive):
        attack = Adaptive(attack=attack)
    found = []
    for part, rows in enumerate(subject.parts()):
        x, goal = subject.x[rows], replace(subject.goal[rows], persist=True)
        victim = Victim(model, len(rows), attack.access, x.device)
        rng = generator(subject.spec.seed, "diagnosis", "transfer", number, part)
        with torch.no_grad():
            found.append(attack.search(victim, x, goal, subject.threat, rng))
    return torch.cat(found)


def _answers(subject: Subject, model: nn.Module, x: Tensor) -> Tensor:
    """Logits (n, draws, K); of the model under attack several draws, if it answers at random."""
    several = model is subject.model and subject.random
    parts = [
        draw(model, x[rows], subject.spec.checks)
        if several
        else forward(model, x[rows]).unsqueeze(1)
        for rows in subject.parts()
    ]
    return torch.cat(parts)


def _right(subject: Subject, model: nn.Module) -> Tensor:
    """Which samples it classifies as labelled, and not as wanted of them: bool (n,)."""
    answers = _answers(subject, model, subject.x)
    right = (answers.argmax(2) == subject.y.unsqueeze(1)).double().mean(1) >= 0.5
    return right & (reached(subject.goal, answers).double().mean(1) < 0.5)


def _reached(subject: Subject, model: nn.Module, x_adv: Tensor) -> Tensor:
    """Which candidates reach the goal on it, bool (n,); in place of one outside ball or box stands
    the sample itself.
    """
    threat, x = subject.threat, subject.x
    safe = x_adv.flatten(1).isfinite().all(1) & threat.in_box(x_adv) & threat.in_ball(x, x_adv)
    shown = torch.where(safe.view(-1, *[1] * (x.dim() - 1)), x_adv, x)
    return reached(subject.goal, _answers(subject, model, shown)).double().mean(1) >= 0.5


def _names(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each model is called: its file, or what else is known; with a number where that is the
    same.
    """
    names = []
    for spec in specs:
        path = str(spec.get("path") or "").replace("\\", "/").rstrip("/")
        names.append(
            path.rpartition("/")[2] or str(spec.get("arch") or spec.get("kind") or "model")
        )
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
