"""A second opinion: a strong attack that the run did not hold, on what the run left robust."""

from typing import TYPE_CHECKING

from .. import text
from .check import Check
from .evidence import Question, Reference, weight_of

if TYPE_CHECKING:
    from ..summary import Report

SECOND = Question("second-opinion", "convergence", "A second opinion")


def checks(report: "Report") -> list[Check]:
    found = Reference.of(report)
    return [SECOND.without(found) if isinstance(found, str) else second_opinion(found)]


def second_opinion(found: Reference) -> Check:
    """Passed, too, where it breaks so few that the number may well be right to within a point."""
    name = "second"
    if not found.ran(name):
        return SECOND.without(found.why(name))
    given, more = found.given(name), len(found.broken(name))
    if not given:
        figure = f"none of {text.plural(found.n, 'sample')} is left"
        meaning = "The attacks of the run broke all of them: nobody can break more."
        return SECOND.passed(figure, meaning, 0.0)
    figure = (
        f"{found.labels(name)} breaks {more} of {text.plural(given, 'sample')} that the run "
        f"left, of {found.n}"
    )
    weight = weight_of(more, found.n)
    if weight:
        meaning = found.held(name, "Another strong attack")
        return SECOND.failed(figure, meaning, more / found.n, weight=weight)
    meaning = "Another strong attack finds no more than those of the run."
    if more:
        meaning = "Another strong attack finds hardly more: the number stands to within a point."
    return SECOND.passed(figure, meaning, more / found.n)
