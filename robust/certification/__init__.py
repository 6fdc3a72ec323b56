"""Randomized smoothing: radii in L2 that are proven for each sample (`robust certify`)."""

from .api import certify
from .cohen import ABSTAIN, Decision, decide, lower_bound
from .engine import Certifying, Event, MemoryRows, Row, SampleDone, Started
from .folder import KIND, CertifyFolder
from .report import conclude, write_report
from .spec import CertifySpec, behind_smoothing, plan

__all__ = [
    "ABSTAIN",
    "KIND",
    "CertifyFolder",
    "CertifySpec",
    "Certifying",
    "Decision",
    "Event",
    "MemoryRows",
    "Row",
    "SampleDone",
    "Started",
    "behind_smoothing",
    "certify",
    "conclude",
    "decide",
    "lower_bound",
    "plan",
    "write_report",
]
