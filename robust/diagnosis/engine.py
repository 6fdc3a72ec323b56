"""The stage after the attacks: probe by probe, each kept as soon as it is measured."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from robust.core.errors import RobustError
from robust.core.oracle import Oracle
from robust.core.outcome import DIAGNOSIS_VERSION
from robust.core.rng import seeded
from robust.evaluation import Evaluation
from robust.preflight import frozen
from robust.store import Store

from .probes import PROBES, Probe
from .subject import Subject

AMOUNTS = ("subset", "full", "off")


@dataclass(frozen=True)
class ProbeStarted:
    """A probe begins, the `number`-th of so many, on so many samples."""

    probe: str
    number: int
    total: int
    samples: int


@dataclass(frozen=True)
class ProbeDone:
    """It is measured and stored."""

    probe: str
    seconds: float


Event = ProbeStarted | ProbeDone


class Diagnosing:
    """The diagnosis of a finished run.

    amount      "subset": on an eighth of the attackable samples, 32 to 64 of them; "full": on all
                of them; "off": not at all

    Raises RobustError for another amount. A model that can only be asked is asked nothing more: its
    answers are counted, and may cost money.
    """

    def __init__(self, run: Evaluation, amount: str) -> None:
        if amount not in AMOUNTS:
            raise RobustError(f"--diagnose must be one of {', '.join(AMOUNTS)}, not {amount}")
        self.evaluation, self.amount = run, amount

    def run(self, store: Store) -> Iterator[Event]:
        """Measure every probe that the store does not have yet."""
        run = self.evaluation
        if self.amount == "off" or isinstance(run.model, Oracle):
            return
        subject = Subject(run, store, self.amount)
        if not len(subject):
            return
        there = store.diagnosis()
        with frozen(run.model):
            run.searching.prepare(run.attacks, run.source)
            for number, (name, probe) in enumerate(PROBES.items(), start=1):
                asked = {
                    "version": DIAGNOSIS_VERSION,
                    "amount": self.amount,
                    "n": len(subject),
                }
                known = there.get(name, {})
                if asked.items() <= known.items() and not known.get("failed"):
                    continue
                yield ProbeStarted(name, number, len(PROBES), len(subject))
                began = time.perf_counter()
                with seeded(run.spec.seed, "diagnosis", name):
                    facts = _measured(probe, subject)
                seconds = time.perf_counter() - began
                more = {"of": subject.total, "seconds": seconds}
                store.write_diagnosis(name, {**asked, **more, **facts})
                yield ProbeDone(name, seconds)


def _measured(probe: Probe, subject: Subject) -> dict[str, Any]:
    """What a probe finds, or why it does not. The attacks are over, and what they found stands: not
    even what nobody foresaw, as memory that runs out, may cost the run its report.
    """
    try:
        return probe(subject)
    except RobustError as error:  # the question makes no sense here
        return {"error": str(error)}
    except (RuntimeError, ValueError, MemoryError) as error:
        line = (str(error).strip().splitlines() or [""])[0]
        return {"error": f"{type(error).__name__}: {line}", "failed": True}
