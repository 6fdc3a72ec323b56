"""Can the number be trusted? Probes measure what a verdict needs to know (`--diagnose`)."""

from .engine import AMOUNTS, Diagnosing, Event, ProbeDone, ProbeStarted
from .subject import Subject, Trial

__all__ = ["AMOUNTS", "Diagnosing", "Event", "ProbeDone", "ProbeStarted", "Subject", "Trial"]
