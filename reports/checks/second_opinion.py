"""A second opinion: strong attacks that the run did not hold, on what the run left robust."""

from typing import TYPE_CHECKING

from .. import text
from .check import Check
from .evidence import Question, Reference, possible, weight_of

if TYPE_CHECKING:
    from ..summary import Report

_OTHERS = ("plain", "margin")  # that are there for other reasons, and may find something too

SECOND = Question("second-opinion", "convergence", "A second opinion")


def checks(report: "Report") -> list[Check]:
    found = Reference.of(report)
    return [SECOND.without(found) if isinstance(found, str) else second_opinion(found)]


def second_opinion(found: Reference) -> Check:
    """What other attacks by gradients break of what the run left: passed, too, where these are so
    few that they do not prove the number to be off by a point. How far it may be off is said.
    """
    name = "second"
    if not found.ran(name):
        return SECOND.without(found.why(name))
    left = len(found.robust)
    if not left:
        figure = f"none of {text.plural(found.n, 'sample')} is left"
        meaning = "The attacks of the run broke all of them: nobody can break more."
        return SECOND.passed(figure, meaning, 0.0)
    broken, who = found.broken(name) & found.robust, [found.labels(name)]
    for other in _OTHERS:
        more = found.broken(other) & found.robust - broken
        if more:
            broken |= more
            who.append(found.labels(other))
    k, value = len(broken), len(broken) / found.n
    breaks = "break" if len(who) > 1 else "breaks"
    figure = (
        f"{', then '.join(who)} {breaks} {k} of {text.plural(left, 'sample')} that the run left, "
        f"of {found.n}"
    )
    weight = weight_of(k, found.n)
    if weight:
        meaning = found.held(k, "Another strong attack")
        return SECOND.failed(figure, meaning, value, weight=weight)
    most = f"up to {100 * possible(k, found.n):.0f} points more cannot be excluded at 95 %."
    meaning = f"Another strong attack finds no more than those of the run; {most}"
    if k:
        meaning = (
            f"Another strong attack breaks {k} more, too few to prove that the number is off by a "
            f"point; {most}"
        )
    return SECOND.passed(figure, meaning, value)
