"""The binarisation test (Zimmermann et al., 2206.13991): problems that a sound attack solves."""

from typing import TYPE_CHECKING, Any

from .. import text
from .check import Check, Weight
from .evidence import Question, proven, soft
from .search import known

if TYPE_CHECKING:
    from ..summary import Report

_MISSED = 0.05  # share of problems that a sound attack may miss
_FEW = 5  # problems: fewer prove nothing either way
_MOST = 0.5  # share from which an attack as good as fails, or chance as good as solves

_NEEDED = frozenset(
    {"samples", "solved", "by_chance", "hard", "hard_solved", "hard_by_chance", "attacks"}
)
TEST = Question("binarisation", "binarisation", "Problems with a known solution")


def checks(report: "Report") -> list[Check]:
    facts = known(report, "binarisation", _NEEDED)
    return [TEST.without(facts) if isinstance(facts, str) else binarisation(report, facts)]


def binarisation(report: "Report", facts: dict[str, Any]) -> Check:
    """Failed where the problems that the attacks missed prove that they miss more than one in
    twenty: of 16 problems 3.

    Of the paper's own problems that is "broken" where they miss more than half, or solve no more
    than random points do, else "doubtful"; of the harder ones "doubtful". A test that random points
    pass says nothing, unless the attacks fail it, and neither do fewer than five problems.
    """
    n, solved, chance = (int(facts[name]) for name in ("samples", "solved", "by_chance"))
    if all(attack["refused"] for attack in facts["attacks"]):
        return TEST.without("None of the attacks takes a problem of two classes.")
    if not n:
        return TEST.without("No readout of the network's features could make such a problem.")
    hard, hard_solved = int(facts["hard"]), int(facts["hard_solved"])
    figure = f"{solved} of {text.plural(n, 'problem')} solved, by random points {chance}"
    if hard:
        figure += (
            f"; of {hard} harder ones {hard_solved}, by random points {facts['hard_by_chance']}"
        )
    missed = n - solved
    if proven(missed, n) > _MISSED:
        worst = proven(missed, n) > _MOST or solved <= chance
        weight: Weight = "broken" if worst else "doubtful"
        meaning = (
            "The attacks do not find adversarial examples that are known to be there, so that what "
            "they leave of the model says little."
        )
        return TEST.failed(figure, meaning, solved / n, weight=soft(report, weight))
    if hard and proven(hard - hard_solved, hard) > _MISSED:
        meaning = (
            "The attacks find examples that are easy to find, but not those that a search of 50 "
            "steps reaches with room to spare: they stop short of what the model allows."
        )
        return TEST.failed(figure, meaning, hard_solved / hard, weight=soft(report))
    lucky, of = (int(facts["hard_by_chance"]), hard) if hard else (chance, n)
    if lucky > _MOST * of:
        return TEST.without(
            f"Random points solve {lucky} of {text.plural(of, 'problem')}, too many for a test."
        )
    if n < _FEW:
        return TEST.without(
            f"Only {text.plural(n, 'such problem')} could be made, too few to tell."
        )
    meaning = "The attacks find adversarial examples wherever some are known to be."
    return TEST.passed(figure, meaning, solved / n)
