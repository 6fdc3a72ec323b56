"""The flags of AutoAttack (Croce & Hein, 2003.01690): what makes an evaluation by standard attacks
unreliable, each as its code warns of it.
"""

from typing import TYPE_CHECKING, Any

from .. import text
from .check import Check
from .evidence import Question, Reference, facts_of, proven, soft

if TYPE_CHECKING:
    from ..summary import Report

_NOISE = 1e-4  # of the largest logit: what answers may differ by for reasons of floating point
_ROUNDED = 0.1  # share of samples whose softmax may be saturated
_ZERO = 0.01  # share of samples that may be without a gradient of cross-entropy
_POINTS, _LUCK = 0.002, 1  # of the samples, and samples, that random search may gain
_SEARCHES = ("square", "guided-square")
_STAGES = ("probe for masked gradients", "escalation")  # of auto, where gradients had given up

RANDOMNESS = Question("randomness", "autoattack", "Random answers")
SOFTMAX = Question("softmax", "autoattack", "Probabilities instead of logits", masking=True)
ZERO = Question("zero-gradients", "autoattack", "Zero gradients", masking=True)
OPTIMISATION = Question("inference-optimisation", "autoattack", "Optimisation at inference")
SQUARE = Question("square-gain", "autoattack", "Gain of random search")


def checks(report: "Report") -> list[Check]:
    answers, gradients = (facts_of(report, probe) for probe in ("answers", "gradients"))
    if isinstance(answers, str):
        first = [RANDOMNESS.without(answers), SOFTMAX.without(answers)]
        last = OPTIMISATION.without(answers)
    else:
        first = [randomness(report, answers), softmax(report, answers)]
        last = inference_optimisation(report, answers)
    zero = ZERO.without(gradients) if isinstance(gradients, str) else zero_gradients(gradients)
    return [*first, zero, last, square_gain(report)]


def randomness(report: "Report", facts: dict[str, Any]) -> Check:
    """The same question, several answers: bad unless the run takes account of it."""
    n, largest, scale = int(facts["n"]), float(facts["largest"]), float(facts["scale"])
    figure = f"{facts['different']} of {text.plural(n, 'sample')} in {facts['repeats']} answers"
    if facts["different"]:
        figure += f", logits apart by up to {largest:.2g}"
    if not facts["different"]:
        meaning = "The model gives the same answer, to the last bit, whenever it is asked."
        return RANDOMNESS.passed(figure, meaning, 0.0)
    if largest <= _NOISE * max(1.0, scale):
        meaning = "The answers differ by rounding alone."
        return RANDOMNESS.passed(figure, meaning, largest)
    if report.random:
        meaning = "The model answers at random, and the run measures it as such."
        return RANDOMNESS.passed(figure, meaning, largest)
    meaning = "The model answers at random, and the run does not know: figures are one draw each."
    return RANDOMNESS.failed(figure, meaning, largest, weight=soft(report))


def softmax(report: "Report", facts: dict[str, Any]) -> Check:
    """Probabilities lose the gradient where they round to 0 and 1; so do their logarithms."""
    n = int(facts["n"])
    if facts["probabilities"]:
        meaning = "A saturated softmax hides the gradient: remove it, and attack the logits."
        return SOFTMAX.failed(
            "answers in [0, 1] with a sum of 1", meaning, 1.0, weight=soft(report), masking=True
        )
    if not facts["logarithms"]:
        return SOFTMAX.passed("logits", "The attacks see logits, which hide no gradient.", 0.0)
    rounded = int(facts["rounded"])
    figure = f"logarithms of probabilities, {rounded} of {text.plural(n, 'sample')} saturated"
    if proven(rounded, n) > _ROUNDED:
        meaning = (
            "The model rounds its probabilities to 0 and 1 before their logarithm is taken, and "
            "no gradient is left: attack the logits."
        )
        return SOFTMAX.failed(figure, meaning, rounded / n, weight=soft(report), masking=True)
    meaning = "The probabilities are exact enough for their logarithms to keep the gradient."
    return SOFTMAX.passed(figure, meaning, rounded / n)


def zero_gradients(facts: dict[str, Any]) -> Check:
    """Cross-entropy on the deployed model, as a naive attacker differentiates it."""
    view, n = facts["views"]["deployed"], int(facts["n"])
    zero = int(view["zero"]["ce"])
    figure = f"{zero} of {text.plural(n, 'sample')}"
    if proven(zero, n) <= _ZERO:
        meaning = "The gradient of cross-entropy is there for naive attacks, too."
        return ZERO.passed(figure, meaning, zero / n)
    meaning = (
        "The deployed model has no gradient of cross-entropy there, neither at the sample nor at "
        "a random point of its ball: plain PGD does not move."
    )
    if view["missing"]:
        meaning = "The answers of the deployed model do not depend on its input by any gradient."
    return ZERO.failed(figure, meaning, zero / n, masking=True)


def inference_optimisation(report: "Report", facts: dict[str, Any]) -> Check:
    """A model that optimises while it answers, as purifiers do."""
    if facts["recording"] is None:
        return OPTIMISATION.without("The model does not run while its operations are watched.")
    steps = int(facts["recording"])
    if not steps and not facts["backwards"]:
        meaning = "The model answers without differentiating anything itself."
        return OPTIMISATION.passed("no operation records gradients", meaning, 0.0)
    figure = f"{text.plural(steps, 'operation')} of a forward record gradients"
    meaning = (
        "The model optimises while it answers: attacks must differentiate through that, and what "
        "they see may be far from what the answers do."
    )
    return OPTIMISATION.failed(figure, meaning, float(steps), weight=soft(report))


def square_gain(report: "Report") -> Check:
    """Random search that gains more than 0.2 points over gradients, and more than one sample.

    Read off the run itself where random search came after gradients there, as a stage of `auto` or
    an attack of its own; else from the probe, whose random search is held against the whole run.
    """
    if not any(attack["access"] == "gradient" for attack in report.attacks):
        return SQUARE.without("The run has no attack with gradients to gain anything over.")
    gained, n, where = _gained(report)
    if n == 0:
        found = Reference.of(report)
        if isinstance(found, str):
            return SQUARE.without(found)
        if not found.ran("random-search"):
            return SQUARE.without(found.why("random-search"))
        gained, n, where = found.missed("random-search"), found.n, "beyond the run"
    figure = f"{gained} of {text.plural(n, 'sample')} {where}"
    value = gained / n
    if value <= _POINTS or gained <= _LUCK:
        meaning = "Random search gains next to nothing over gradients."
        if gained:
            meaning = "What random search gains over gradients is no more than luck may be."
        return SQUARE.passed(figure, meaning, value)
    meaning = (
        f"Random search breaks {100 * value:.1f} points of what gradients had left, and more "
        "slowly than they would: there may be more to be found."
    )
    return SQUARE.failed(figure, meaning, value, weight=soft(report))


def _gained(report: "Report") -> tuple[int, int, str]:
    """Samples that random search broke in the run after gradients had left them, of how many, and
    where; (0, 0, "") where there was none.
    """
    if report.every or report.random:
        return 0, 0, ""
    gained, held, seen, last = 0, False, False, ""
    for attack in report.attacks:
        if attack["name"] in _SEARCHES:
            if seen:
                gained, held, last = gained + attack["successes"], True, attack["label"]
            continue
        seen |= attack["access"] == "gradient"
        late = [stage for stage in attack["stages"] if stage["name"] in _STAGES]
        if late:
            gained += sum(stage["broken"] for stage in late)
            held, last = True, f"late stages of {attack['label']}"
    return (gained, report.n, f"by {last}") if held else (0, 0, "")
