"""The probes: each measures one thing about a finished run, and judges nothing.

A probe is a function of a Subject that returns facts of JSON types; `reports.checks` makes checks
of them, and a verdict of these. Its random numbers come from torch's global generator, which the
engine has seeded, or from `generator(spec.seed, …)`; it raises RobustError where the question does
not make sense.
"""

from collections.abc import Callable
from typing import Any

from robust.diagnosis.subject import Subject

from . import answers, binarisation, convergence, gradients, reference, traces, transfer

Probe = Callable[[Subject], dict[str, Any]]

PROBES: dict[str, Probe] = {
    "answers": answers.probe,
    "gradients": gradients.probe,
    "reference": reference.probe,
    "traces": traces.probe,
    "convergence": convergence.probe,
    "binarisation": binarisation.probe,
    "transfer": transfer.probe,
}
