"""Can the number be trusted? Facts of the diagnosis and rows of the run → checks → one verdict.

Each module here has a function `checks(report) → list[Check]`, pure.
"""

from .check import Check, not_applicable
from .verdict import GROUPS, Verdict, judge, of

__all__ = ["GROUPS", "Check", "Verdict", "judge", "not_applicable", "of"]
