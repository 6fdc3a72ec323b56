"""Probe: do the attacks of the run solve problems that have a solution by construction?"""

from typing import Any

import torch

from robust.core.attack import Attack
from robust.core.errors import RobustError
from robust.core.fitted import Fitted
from robust.core.threat import COUNTS
from robust.diagnosis.problems import Problems
from robust.diagnosis.subject import Subject
from robust.registry import label

_SAMPLES = {"subset": 16, "full": 32}
_POINTS, _FEWER, _LARGE = 1000, 200, 2**15  # in each ball; of samples with so many values fewer


def probe(subject: Subject) -> dict[str, Any]:
    """Binarisation, Zimmermann et al., 2206.13991: the run's attacks on binary problems.

    For each of 16 samples (32 of a full diagnosis) 999 points inside the ball of 0.95 eps, the
    sample among them, and one on the surface of that of eps, a corner for L∞, are told apart by a
    logistic regression of what the last linear layer reads. Its boundary is moved up to the point
    on the surface, which so is an adversarial example of the network with that readout: attacks
    that do not find any fail for reasons of their own, or of the network's gradients. Departures:

    - the readout is scaled so that the sample's margin is what its logits had, for what saturates
      behind them (a softmax, float32) is part of the test; it answers in two logits, and what the
      network does to its logits it does to these
    - a second round is harder: the boundary is moved on to 0.9 of what APGD on the margin reaches
      in 50 steps, through defenses, so that a search that only begins well does not solve it; there
      is none of a random model or where eps is a count. Where the solution is the furthest point
      that is known, as in few dimensions, the boundary is at 0.9 of the way in both rounds, for
      nobody needs to find a single point
    - of samples with more than 32,768 values, 200 points in all
    - a random model draws anew for each point; three quarters of the draws of the solution lie
      behind the boundary, and half of the draws decide

    features            what the readouts read: "last linear layer", or "logits" where no such layer
                        can be seen
    samples, left_out   problems that were made, and samples of which none could be made
    points              drawn at random on the surface, for each problem
    by_chance, solved   problems that some of those points solve, and that the attacks solve, one
                        after the other on what is left
    hard, hard_by_chance, hard_solved   the same of the harder round
    attacks             for each: its label, and of both rounds "given", "solved", "hard_given",
                        "hard_solved"; "refused", why it does not take binary problems, or None

    Raises RobustError where a ball has no room for points inside, or where attacks searched on
    surrogates.
    """
    if not subject.white_box:
        raise RobustError("the attacks searched on surrogates, not on the model")
    if not subject.threat.eps or (subject.threat.norm in COUNTS and subject.threat.eps < 2):
        raise RobustError("the ball has no room for points inside of it")
    n = min(len(subject), _SAMPLES[subject.amount])
    rows = torch.linspace(0, len(subject) - 1, n, device=subject.x.device).round().long()
    points = _POINTS if subject.x[0].numel() <= _LARGE else _FEWER
    attacks = [attack for attack in subject.run.attacks if not isinstance(attack, Fitted)]
    facts = [dict[str, Any](attack=label(attack), refused=None) for attack in attacks]
    problems, hard = Problems.of(subject, rows, points).rounds()
    return {
        "features": "logits" if problems.network.head is None else "last linear layer",
        "samples": len(problems),
        "left_out": problems.left_out,
        "points": points,
        "by_chance": int(problems.by_chance().sum()),
        "solved": _solved(problems, attacks, facts, ""),
        "hard": len(hard),
        "hard_by_chance": int(hard.by_chance().sum()),
        "hard_solved": _solved(hard, attacks, facts, "hard_"),
        "attacks": facts,
    }


def _solved(
    problems: Problems, attacks: list[Attack], facts: list[dict[str, Any]], prefix: str
) -> int:
    """How many the attacks solve, each on what the former ones left."""
    left = problems
    for attack, its in zip(attacks, facts, strict=True):
        its |= {f"{prefix}given": 0, f"{prefix}solved": 0}
        if not len(left):
            continue
        try:
            solved = left.attacked(attack)
        except RobustError as error:
            its["refused"] = str(error)
            continue
        its |= {f"{prefix}given": len(left), f"{prefix}solved": int(solved.sum())}
        left = left[(~solved).nonzero().squeeze(1)]
    return len(problems) - len(left)
