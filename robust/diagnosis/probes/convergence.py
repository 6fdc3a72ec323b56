"""Probe: would more steps, more queries or more restarts have found more?"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robust.core.attack import Attack
from robust.core.combinator import Combinator
from robust.core.errors import RobustError
from robust.core.fitted import Fitted
from robust.diagnosis.subject import Subject, Trial
from robust.registry import label

# Fields that say how long a search goes on, ours and those of the peers: the first there is counts.
_LENGTHS = ("steps", "max_iter", "iterations", "queries", "max_queries", "nb_iter")
_CLEARLY = 0.75  # share of draws that a random model withstands, of a sample to be looked at
_FOOLED = 0.65  # share of draws that must be fooled then: of 40, where half are is no proof


def probe(subject: Subject) -> dict[str, Any]:
    """Run the attacks again on what the run left robust, longer and with other random numbers.

    First each attack as it is with other random numbers, which doubles the restarts; then, on what
    is left, with twice the steps, or the queries where an attack has no steps; one that has neither
    is restarted once more. That is three times what the run spent on these samples.

    robust      samples that the run left robust; of a random model those that withstand three
                quarters of the draws, so that chance alone breaks none
    attacks     for each: its label; how many it broke "again"; as what it was run "longer", and how
                many more it broke then ("more")
    broken      all of these together; of a random model a sample is broken where clearly more than
                half of the draws are fooled

    Raises RobustError where attacks searched on surrogates, and where all craft one thing for all
    samples.
    """
    if not subject.white_box:
        raise RobustError("the attacks searched on surrogates, where nothing counts as found")
    attacks = [attack for attack in subject.run.attacks if not isinstance(attack, Fitted)]
    if not attacks:
        raise RobustError("no attack of the run can be repeated on other samples")
    bar = _CLEARLY if subject.random else 0.5
    rows = (subject.left > bar).nonzero().squeeze(1)
    robust = len(rows)
    plain = [_Stage(attack, "again") for attack in attacks]
    more = [_Stage(longer(attack) or attack, "longer") for attack in attacks]
    for stage in [*plain, *more]:
        if len(rows):
            rows = stage.run(subject, rows)
    found = [
        {
            "attack": label(first.attack),
            "again": first.broken,
            "longer": label(second.attack),
            "more": second.broken,
        }
        for first, second in zip(plain, more, strict=True)
    ]
    return {"robust": robust, "broken": robust - len(rows), "attacks": found}


def longer(attack: Attack) -> Attack | None:
    """The same attack with twice the steps or queries; None where it has neither."""
    if isinstance(attack, Combinator):
        inner = longer(attack.attack)
        return None if inner is None else replace(attack, attack=inner)
    for name in _LENGTHS:
        value = getattr(attack, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            changed: Attack = replace(attack, **{name: 2 * value})
            return changed
    return None


@dataclass
class _Stage:
    """One attack on what is left; how many samples it broke."""

    attack: Attack
    salt: str
    broken: int = 0

    def run(self, subject: Subject, rows: Tensor) -> Tensor:
        """What it leaves of the samples `rows`."""
        trials = subject.search(self.attack, rows, salt=f"convergence {self.salt}")
        broken = torch.cat([_broken(trial) for trial in trials])
        self.broken = int(broken.sum())
        return rows[~broken]


def _broken(trial: Trial) -> Tensor:
    its = trial.success
    if len(trial.outcome.trial):
        share = torch.from_numpy(trial.outcome.trial + trial.outcome.fooled) / 2
        its = its & (share >= _FOOLED).to(its.device)
    return its
