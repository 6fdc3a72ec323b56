"""Three more indicators of attack failure (Pintor et al., 2106.09947), of what searches saw on
their way: successes they did not return, successes that are none, and searches that ended early.
"""

from typing import TYPE_CHECKING, Any

from .. import text
from .check import Check, Weight
from .evidence import Question, facts_of, proven, soft, weight_of

if TYPE_CHECKING:
    from ..summary import Report

_POINT = 0.01  # share of samples, proven, from which a search of the wrong function matters
_RISING = 0.05  # of the whole rise, in the last tenth of a search: half of what an even rise brings

LONGER = frozenset({"n", "robust", "broken"})  # what is needed of the probe of convergence
TRACES = frozenset({"n", "silent_lost", "transferred_lost", "attacks"})
SILENT = Question("silent-success", "ioaf", "Silent success")
INCOMPLETE = Question("incomplete-optimisation", "ioaf", "Incomplete optimisation")
TRANSFER = Question("transfer-failure", "ioaf", "Transfer failure")


def checks(report: "Report") -> list[Check]:
    facts = known(report, "traces", TRACES)
    if not isinstance(facts, str) and not facts["attacks"]:
        facts = "None of the attacks is one with gradients that can be followed."
    if isinstance(facts, str):
        return [question.without(facts) for question in (SILENT, INCOMPLETE, TRANSFER)]
    if report.random:
        lucky = (
            "The model answers at random: one lucky answer on the way is no adversarial example."
        )
        return [
            SILENT.without(lucky),
            incomplete_optimisation(report, facts),
            TRANSFER.without(lucky),
        ]
    return [
        silent_success(facts),
        incomplete_optimisation(report, facts),
        transfer_failure(report, facts),
    ]


def silent_success(facts: dict[str, Any]) -> Check:
    """Points that an attack was shown, that break the model, and that it did not return.

    Every candidate is measured by the engine, so that nothing false is counted; but what an attack
    does not hand over is not measured. One sample that the run counts as robust for that is enough
    for a doubt, for it is known to be broken.
    """
    n, silent = int(facts["n"]), _most(facts, "silent")
    lost = int(facts["silent_lost"])
    figure = f"{silent} of {text.plural(n, 'sample')}"
    if lost:
        weight: Weight = weight_of(lost, n) or "doubtful"
        meaning = (
            f"The attacks found what breaks {text.plural(lost, 'sample')} and returned something "
            "else, so that they count as robust: the attack must keep its best point."
        )
        return SILENT.failed(figure, meaning, silent / n, weight=weight)
    if silent:
        meaning = "An attack loses what it has found, though others of the run broke these samples."
        return SILENT.failed(figure, meaning, silent / n)
    meaning = "Whatever the attacks found on their way they returned, and it was measured again."
    return SILENT.passed(figure, meaning, 0.0)


def transfer_failure(report: "Report", facts: dict[str, Any]) -> Check:
    """What a search took for a success, and the model itself does not.

    Searches may look at a faster copy, at what defenses expose, or at the mean of draws; none of
    their successes counts by that alone. Those that are lost there need not be broken: a doubt.
    """
    n, transferred = int(facts["n"]), _most(facts, "transferred")
    lost = int(facts["transferred_lost"])
    figure = f"{transferred} of {text.plural(n, 'sample')}"
    if proven(lost, n) > _POINT:
        meaning = (
            f"What the attacks looked at was fooled for {text.plural(lost, 'sample')} that the "
            "model itself gets right: they search on something else than they are measured on."
        )
        return TRANSFER.failed(figure, meaning, transferred / n, weight=soft(report))
    if transferred:
        meaning = (
            "Some successes on what a search looked at are none on the model itself; other attacks "
            "of the run broke these samples."
        )
        if lost:
            meaning = (
                "Some successes on what a search looked at are none on the model itself; those "
                "whose samples count as robust are too few to prove anything."
            )
        return TRANSFER.passed(figure, meaning, transferred / n)
    meaning = "Whatever fools what the attacks look at fools the model itself."
    return TRANSFER.passed(figure, meaning, 0.0)


def incomplete_optimisation(report: "Report", facts: dict[str, Any]) -> Check:
    """How much of its whole rise the best margin so far made in the last tenth of each search that
    failed: of half of the samples no more than a twentieth, for one of the attacks at least.

    A search that never left its first answer behind, for more than half of the samples, has not
    optimised anything, and the number says nothing.
    """
    if not report.eps:
        return INCOMPLETE.without("With an eps of 0 there is nothing to search for.")
    if nothing_left(facts):
        meaning = "An attack broke every sample that it was given: no search is left incomplete."
        return INCOMPLETE.passed("no search failed", meaning, 0.0)
    failed = [attack for attack in facts["attacks"] if attack["unbroken"]]
    if not failed:
        return INCOMPLETE.without("Every search met its goal on what it looked at.")
    attack = min(failed, key=_end)
    share, name, left = _end(attack), attack["attack"], int(attack["unbroken"])
    if share > 1:
        searches = text.plural(left, "failed search", "failed searches")
        figure = f"{attack['flat']} of {searches} of {name}"
        weight: Weight = "doubtful" if attack["minimal"] else "broken"
        meaning = (
            "They found nothing better than their first answer: the attack does not raise its "
            "loss, so that what it leaves says nothing."
        )
        return INCOMPLETE.failed(
            figure, meaning, attack["flat"] / left, weight=soft(report, weight)
        )
    figure = f"{text.percent(share)} of the rise in the last tenth of {name}, in the median"
    if share > _RISING:
        meaning = (
            "The searches that failed were still coming nearer to their goal when they ended: "
            "with more steps they would come further."
        )
        if _longer_found_nothing(report):
            meaning += " They were run again, longer, and broke hardly more."
            return INCOMPLETE.failed(figure, meaning, share)
        return INCOMPLETE.failed(figure, meaning, share, weight=soft(report))
    meaning = "The searches that failed had stopped coming nearer to their goal before they ended."
    return INCOMPLETE.passed(figure, meaning, share)


def known(report: "Report", probe: str, needed: frozenset[str]) -> dict[str, Any] | str:
    """What a probe found, if that is all that is `needed`, or a sentence on why there is not."""
    found = report.diagnosis.get(probe)
    if found is None or "error" in found:
        return facts_of(report, probe)
    if not found.keys() >= needed:
        return "Another version of robust diagnosed the run, and did not look at all of it."
    return found


def _longer_found_nothing(report: "Report") -> bool:
    """Whether searches of twice the steps were measured, and nothing came of it."""
    found = known(report, "convergence", LONGER)
    return not isinstance(found, str) and not weight_of(int(found["broken"]), int(found["n"]))


def nothing_left(facts: dict[str, Any]) -> bool:
    """Whether some attack broke all that was left when it came."""
    return any(attack["given"] == attack["broken"] for attack in facts["attacks"])


def _end(attack: dict[str, Any]) -> float:
    """The median share of the last tenth in the whole rise; 2 where most searches never rose."""
    if 2 * attack["flat"] > attack["unbroken"] or not attack["last_rise"]:
        return 2.0
    return float(attack["last_rise"][len(attack["last_rise"]) // 2])


def _most(facts: dict[str, Any], name: str) -> int:
    return max(int(attack[name]) for attack in facts["attacks"])
