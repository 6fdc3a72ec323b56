"""Would more steps, queries or restarts change the number? Measured, and estimated from traces."""

from typing import TYPE_CHECKING, Any

from .. import text
from ..queries import at
from ..statistics import clopper_pearson
from .check import Check, Weight
from .evidence import Question, proven, soft, weight_of
from .search import LONGER, TRACES, known, nothing_left

if TYPE_CHECKING:
    from ..summary import Report

_POINT = 0.01  # share of samples, proven, that still broke late
_FIFTH = 0.8  # of the queries, where the last fifth begins

CONVERGENCE = Question("convergence", "convergence", "More steps and restarts")
ESTIMATE = Question("convergence-estimate", "convergence", "When samples broke")


def checks(report: "Report") -> list[Check]:
    measured, traces = known(report, "convergence", LONGER), known(report, "traces", TRACES)
    first = (
        CONVERGENCE.without(measured)
        if isinstance(measured, str)
        else convergence(report, measured)
    )
    if report.spec.get("access", "gradient") != "gradient":
        return [first, estimate_by_queries(report)]
    if isinstance(traces, str):
        return [first, ESTIMATE.without(traces)]
    return [first, estimate(report, traces, measured=first.status == "passed")]


def convergence(report: "Report", facts: dict[str, Any]) -> Check:
    """The attacks again on what the run left robust, with other random numbers and then twice the
    steps: how many samples more, and what that is of the number.
    """
    n, robust, broken = (int(facts[name]) for name in ("n", "robust", "broken"))
    if not robust:
        figure = f"none of {text.plural(n, 'sample')} is left"
        return CONVERGENCE.passed(figure, "The attacks broke all of them: nothing is left.", 0.0)
    # The samples stand for those that attacks could work on; the number is one of all samples.
    share = report.clean_accuracy
    low, high = (share * end for end in clopper_pearson(broken, n))
    points = text.points(share * broken / n)
    figure = (
        f"{broken} of {text.plural(robust, 'sample')} left robust: {points}"
        f", 95{text.NARROW}% interval {text.interval((low, high))}"
    )
    weight = weight_of(broken, n)
    if weight:
        meaning = (
            "The same attacks break more with twice the steps and restarts: the number is too high."
        )
        return CONVERGENCE.failed(figure, meaning, share * broken / n, weight=weight)
    meaning = (
        "Twice the steps and restarts find no more; more than the interval's upper end would have "
        "shown."
    )
    if broken:
        meaning = "Too few to prove that the number is too high by a point; the interval has more."
    return CONVERGENCE.passed(figure, meaning, share * broken / n)


def estimate(report: "Report", facts: dict[str, Any], *, measured: bool) -> Check:
    """How many samples broke in the second half of the last attack's searches: as the first half
    broke those that break early, as many again is the most that searches of twice the length should
    break. What is left at the end is left by the last attack, whatever the former ones missed, or
    where each had every sample by the one that broke most.

    It adds no doubt where that was `measured`, and came to nothing.
    """
    if not facts["attacks"]:
        return ESTIMATE.without("None of the attacks is one with gradients that can be followed.")
    last, n = facts["attacks"][-1], int(facts["n"])
    if report.every:  # each attack had every sample
        last = max(facts["attacks"], key=lambda attack: int(attack["broken"]))
    late, broken = int(last["late"]), int(last["broken"])
    if not broken:
        return ESTIMATE.without(f"{last['attack']} broke no sample that it was followed on.")
    which = text.plural(broken, "sample")
    figure = f"{late} of {which} broke in the second half of {last['attack']}"
    if proven(late, n) > _POINT and not nothing_left(facts):
        meaning = "At that rate more samples would break if the searches were longer."
        if measured:
            meaning += " They were run again, longer where they can be, and did not."
        weight: Weight = "" if measured else soft(report)
        return ESTIMATE.failed(figure, meaning, late / n, weight=weight)
    meaning = "What breaks breaks early, so that longer searches should find hardly more."
    return ESTIMATE.passed(figure, meaning, late / n)


def estimate_by_queries(report: "Report") -> Check:
    """The same of attacks that only ask: what broke in the last fifth of the queries."""
    traced = [tally for tally in report.tallies if tally.economy.traced]
    if not traced:
        return ESTIMATE.without("No success was followed query by query.")
    late = broken = 0
    for tally in traced:
        curve = tally.economy.success()
        ended = at(curve, tally.economy.most)
        broken += round(ended * tally.given)
        late += round((ended - at(curve, _FIFTH * tally.economy.most)) * tally.given)
    n = int(report.columns.correct.sum())
    figure = f"{late} of {text.plural(broken, 'sample')} broke in the last fifth of the queries"
    if proven(late, n) > _POINT and report.robust_accuracy > 0:
        meaning = "Samples were still breaking when the queries were spent: more would break more."
        return ESTIMATE.failed(figure, meaning, late / n, weight=soft(report))
    meaning = "Hardly any sample broke at the end, so that more queries should find hardly more."
    return ESTIMATE.passed(figure, meaning, late / n)
