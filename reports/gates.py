"""Gates of a release: what must hold of a run so that a build goes on."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .diff import Difference, cautions_of
from .text import said_p

if TYPE_CHECKING:
    from .summary import Report

_THIS = "this run"


@dataclass(frozen=True)
class Gate:
    """A condition that somebody set, and whether it held.

    name    the option that set it, as it was typed
    passed  whether it held; what was not measured passes no gate
    told    a sentence on what was measured
    cautions    a sentence each on why that may not mean what it seems to; they decide nothing, as
                a gate that somebody set is to be predictable
    """

    name: str
    passed: bool
    told: str
    cautions: tuple[str, ...] = ()


def fail_under(report: "Report", bound: float) -> Gate:
    """Robust accuracy must be at least `bound`, a fraction in [0, 1]."""
    found = report.robust_accuracy
    if math.isnan(found):
        told = "robust accuracy was not measured"
    else:
        side = "below" if found < bound else "at least"
        told = f"robust accuracy {found:.4g} is {side} --fail-under {bound:g}"
    cautions = tuple(cautions_of(report, _THIS))
    return Gate(f"--fail-under {bound:g}", bool(found >= bound), told, cautions)


def fail_if_worse_than(difference: Difference, base: str) -> Gate:
    """Robust accuracy must not be significantly worse than that of the run `base`.

    Worse is what `Difference.worse` says: lower, and more so than chance explains, at a two-sided
    level of 5 %. Of pairs of equally good models at most 2.5 % fail.
    """
    name = f"--fail-if-worse-than {base}"
    cautions = tuple(difference.cautions_about(base, _THIS))
    found = difference.robust
    if found is None:
        told = f"robust accuracy was not measured here or in {base}"
        return Gate(name, False, told, cautions)
    low, high = found.interval
    side = "significantly worse than" if difference.worse else "not significantly worse than"
    told = (
        f"robust accuracy {found.after:.4g} is {side} the {found.before:.4g} of {base} "
        f"(difference {100 * found.difference:+.1f} points, 95% interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}, {said_p(found.p)}, {difference.pairing})"
    )
    return Gate(name, not difference.worse, told, cautions)
