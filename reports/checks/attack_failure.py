"""Three of the six indicators of attack failure (Pintor et al., 2106.09947): gradients that are not
there, predictions that do not stay, and attacks that fail without a bound.

They are about the run's own attacks, and so about what those differentiate: what the defenses of
the model expose where an attack sees through them, else the model as it is deployed.
"""

from typing import TYPE_CHECKING, Any

from .. import text
from .check import Check, Weight
from .evidence import Question, Reference, facts_of, proven, soft

if TYPE_CHECKING:
    from ..summary import Report

_POINT = 0.01  # share of samples that may be without a gradient, or stand without a bound
_MISLED = 0.1  # share of samples whose gradient may be off: kinks of a network are rarer
_MUCH = 0.05  # share from which an attack has failed

GRADIENTS = Question("unavailable-gradients", "ioaf", "Unavailable gradients", masking=True)
PREDICTIONS = Question("unstable-predictions", "ioaf", "Unstable predictions")
UNCONSTRAINED = Question("unconstrained-failure", "ioaf", "Unconstrained attack failure")


def checks(report: "Report") -> list[Check]:
    gradients, answers = (facts_of(report, probe) for probe in ("gradients", "answers"))
    found = Reference.of(report)
    return [
        GRADIENTS.without(gradients)
        if isinstance(gradients, str)
        else unavailable_gradients(report, gradients),
        PREDICTIONS.without(answers)
        if isinstance(answers, str)
        else unstable_predictions(report, answers),
        UNCONSTRAINED.without(found) if isinstance(found, str) else unconstrained_failure(found),
    ]


def unavailable_gradients(report: "Report", facts: dict[str, Any]) -> Check:
    """Gradients of zero, or that are not finite, where the run's attacks look; and on the deployed
    model, besides, those that promise what the function does not do.

    An attack without gradients among those of the run, as `auto` has, can do without them.
    """
    asked = [attack for attack in report.spec["attacks"] if attack["access"] == "gradient"]
    if not asked:
        return GRADIENTS.without("None of the attacks asks for a gradient.")
    adaptive = any(attack.get("adaptive") for attack in asked)
    views, n = facts["views"], int(facts["n"])
    view = views["exposed" if adaptive and "exposed" in views else "deployed"]
    losses = {"ce" if attack["params"].get("loss") == "ce" else "margin" for attack in asked}
    gone = min(view["zero"][loss] for loss in losses) + view["not_finite"]
    naive = views["deployed"]
    off, compared = naive["misleading"], naive["asked"]
    masked = proven(naive["zero"]["margin"] + naive["not_finite"], n) > _POINT
    misled = proven(off, compared) > _MISLED
    figure = f"{gone} of {text.plural(n, 'sample')} without a gradient"
    if misled:
        figure += f"; the naive one is off for {off} of {compared}"
    if proven(gone, n) > _POINT:
        others = len(asked) < len(report.spec["attacks"])
        others |= any(attack["name"] == "auto" for attack in asked)
        weight: Weight = "broken" if proven(gone, n) > _MUCH and not others else "doubtful"
        meaning = (
            "The attacks have no direction to go where the gradient is zero or not finite, and "
            "leave such samples as they are."
        )
        if others:
            meaning = "There the attacks rest on random search, which needs many more queries."
        return GRADIENTS.failed(
            figure, meaning, gone / n, weight=soft(report, weight), masking=masked or misled
        )
    if misled:
        meaning = (
            "A small step up the gradient of the deployed model does not change the answer as the "
            "gradient says: it is masked."
        )
        return GRADIENTS.failed(figure, meaning, off / compared, masking=True)
    if masked:
        figure = f"{naive['zero']['margin']} of {text.plural(n, 'sample')}, naively"
        meaning = (
            "Whoever takes the deployed model as it is has no gradient; the attacks of the run "
            "see through that."
        )
        return GRADIENTS.failed(figure, meaning, naive["zero"]["margin"] / n, masking=True)
    meaning = "The attacks have a gradient everywhere, and the model does what it says."
    return GRADIENTS.passed(figure, meaning, gone / n)


def unstable_predictions(report: "Report", facts: dict[str, Any]) -> Check:
    """Classes that change from one answer to the next. A run that knows of it is passed, if its
    attacks average over draws.
    """
    n, flipping = int(facts["n"]), int(facts["flipping"])
    figure = f"{flipping} of {text.plural(n, 'sample')} in {facts['repeats']} answers"
    if not flipping:
        meaning = "The model predicts the same class whenever it is asked."
        return PREDICTIONS.passed(figure, meaning, 0.0)
    value = flipping / n
    if not report.random:
        return PREDICTIONS.failed(
            figure,
            "The model answers at random, and the run takes every answer for final: a lucky one "
            "ends a search, an unlucky one hides a success.",
            value,
            weight=soft(report),
        )
    draws = int(report.spec["model"].get("draws") or 1)
    if draws > 1 and any(attack.get("adaptive") for attack in report.spec["attacks"]):
        meaning = (
            f"The run knows: attacks average over {draws} draws, and every figure is a mean over "
            f"{report.spec['checks']}."
        )
        return PREDICTIONS.passed(figure, meaning, value)
    meaning = "Figures are means over draws, but no attack averages its gradient over them."
    return PREDICTIONS.failed(figure, meaning, value, weight=soft(report))


def unconstrained_failure(found: Reference) -> Check:
    """The run's own attacks, with every point of the box allowed, must break what they left."""
    name = "unbounded"
    if not found.ran(name):
        why = found.why(name) if found.attacks.get(name) else "No attack with gradients to repeat."
        return UNCONSTRAINED.without(why)
    before, stand = found.given("larger"), found.left(name)
    if not before:
        meaning = "The attacks broke all samples inside eps already."
        return UNCONSTRAINED.passed(f"none of {found.n} samples is left", meaning, 0.0)
    labels = found.labels(name)
    figure = f"{labels} breaks {before - stand} of {text.plural(before, 'sample')} left"
    if not stand:
        meaning = "Without a bound the attacks break everything: they do find what there is."
        return UNCONSTRAINED.passed(figure, meaning, 0.0)
    return UNCONSTRAINED.failed(
        figure,
        "The attacks of the run do not break everything even where every point is allowed, so "
        "that they fail for reasons of their own.",
        stand / before,
        weight="broken" if proven(stand, found.n) > _MUCH else "doubtful",
    )
