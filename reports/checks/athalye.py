"""The signs of masked gradients of Athalye et al., 1802.00420: one each of their list.

They are signs of the model, so that they come from naive attacks of the probe `reference`, PGD with
cross-entropy on the deployed model, whatever the run's own attacks were. What those broke that the
run had left is evidence against the run besides.

Random search may find a little more than gradients on an honest model, as on MNIST at 0.3: kinks
and saturated values cost a first-order attack some samples. A masked gradient is no direction at
all, and then random search breaks most of what gradients leave. Between the two lies a tenth.
"""

from typing import TYPE_CHECKING

from robust.core.threat import COUNTS

from .. import text
from .check import Check
from .evidence import Question, Reference, more_often, proven, soft, weight_of

if TYPE_CHECKING:
    from ..summary import Report

# Of what gradients left: the share that is proven to break, and the fewest samples, for luck breaks
# one of a few.
_SEARCH = 0.1, 3  # by random search
_NOISE = 0.01, 2  # by noise, which does not search at all
_UNBOUNDED = 0.01  # of the samples, that stand without a bound
_ITERATIVE = 2  # gradients for a sample, from which an attack iterates
_MANY = 2  # samples that stand at any eps: one may be a matter of luck

ONE_STEP = Question("one-step", "athalye", "One step against many", masking=True)
BLACK_BOX = Question("black-box", "athalye", "Random search against gradients", masking=True)
UNBOUNDED = Question("unbounded", "athalye", "Naive gradients without a bound", masking=True)
SAMPLING = Question("random-sampling", "athalye", "Noise against gradients", masking=True)
LARGER = Question("larger-eps", "athalye", "A larger eps", masking=True)


def checks(report: "Report") -> list[Check]:
    found = Reference.of(report)
    if isinstance(found, str):
        return [q.without(found) for q in (ONE_STEP, BLACK_BOX, UNBOUNDED, SAMPLING, LARGER)]
    return [
        one_step(found, report),
        _against(found, BLACK_BOX, "random-search", "Random search", _SEARCH),
        unbounded(found),
        _against(found, SAMPLING, "noise", "Noise", _NOISE),
        larger_eps(found, report),
    ]


def one_step(found: Reference, report: "Report") -> Check:
    """FGSM against PGD, both naive and with cross-entropy: the sign test on samples that one of
    them alone breaks. A run whose attacks by gradients end after a step or so has failed it: that
    many steps go further was never tried, and what one step leaves is no robust accuracy.
    """
    taken = _steps(report)
    if taken is not None and taken < _ITERATIVE and (weight := soft(report, "broken")):
        figure = f"{taken:.1f} gradient steps a sample"
        meaning = "The run has no iterative attack, and what a single step leaves is not robust."
        return ONE_STEP.failed(figure, meaning, taken, weight=weight)
    for name in ("one-step", "plain"):
        if not found.ran(name):
            return ONE_STEP.without(found.why(name))
    one, many = found.broken("one-step"), found.broken("plain")
    masked = more_often(len(one - many), len(many - one))
    fine = (
        "Many steps break no less than a single one, as where gradients lead."
        if len(one) <= len(many)
        else "The difference is one that chance makes."
    )
    return _judged(
        ONE_STEP, found, "one-step",
        figure=f"{found.labels('one-step')} breaks {len(one)} of {found.n} samples, "
        f"{found.labels('plain')} {len(many)}",
        value=(len(one) - len(many)) / found.n,
        who="A single step", masked=masked, fine=fine,
        sign="A single step goes further than many, so that gradients lead nowhere after it.",
    )  # fmt: skip


def _steps(report: "Report") -> float | None:
    """How many gradients the run's most patient attack took for a sample, in the mean over what it
    was given; None where none of its attacks by gradients worked on samples one by one, or where
    others iterate without gradients.
    """
    if any(attack["access"] in ("scores", "labels") for attack in report.attacks):
        return None
    draws = int(report.spec["model"].get("draws") or 1)
    taken = [
        attack["backwards_per_sample"]
        / (attack["params"].get("eot") or (draws if attack["adaptive"] else 1))
        for attack in report.attacks
        if attack["access"] == "gradient" and attack["given"] and not attack["crafting"]
    ]
    return max(taken) if taken else None


def _against(
    found: Reference, question: Question, name: str, who: str, bar: tuple[float, int]
) -> Check:
    """What does without gradients, on what naive gradients left.

    bar     the share that must be proven for masking, and the fewest samples
    """
    much, least = bar
    for needed in (name, "plain"):
        if not found.ran(needed):
            return question.without(found.why(needed))
    plain, gained, left = found.labels("plain"), found.found(name), found.unbroken
    figure = f"{plain} leaves none of {text.plural(found.n, 'sample')}"
    if left:
        figure = (
            f"{found.labels(name)} breaks {gained} of {text.plural(left, 'sample')} that {plain} "
            "leaves"
        )
    fine = f"{who} finds nothing that gradients miss."
    if gained:
        fine = f"{who} finds little that gradients miss: not so much as where they are masked."
    return _judged(
        question, found, name, figure=figure, value=gained / left if left else 0.0, who=who,
        masked=gained >= least and proven(gained, left) > much, fine=fine,
        sign=f"{who} breaks {_measure(much)} of what gradients leave, so that they do not lead "
        "where they should.",
    )  # fmt: skip


def _measure(much: float) -> str:
    """More than `much` of them, in words: noise that breaks a few says as much as a search that
    breaks many.
    """
    return "much" if much >= _SEARCH[0] else "some"


def unbounded(found: Reference) -> Check:
    """Naive PGD with every point of the box allowed must break everything, but for one sample in a
    hundred.
    """
    if not found.ran("plain-unbounded"):
        return UNBOUNDED.without(found.why("plain-unbounded"))
    stand = found.left("plain-unbounded")
    plain = found.labels("plain-unbounded")
    value = stand / found.n
    if proven(stand, found.n) > _UNBOUNDED:
        return UNBOUNDED.failed(
            f"{plain} leaves {stand} of {text.plural(found.n, 'sample')}",
            "Every point is allowed, and still gradients do not lead to one of another class.",
            value,
            masking=True,
        )
    figure = f"{plain} breaks {found.n - stand} of {text.plural(found.n, 'sample')}"
    meaning = "Once every point is allowed, gradients lead to another class, as they must."
    return UNBOUNDED.passed(figure, meaning, value)


def larger_eps(found: Reference, report: "Report") -> Check:
    """Twice the eps must break more, unless the radius is larger still: then no bound at all must.

    Of the run's own attacks, and of naive PGD, each on what it left.
    """
    asked = found.attacks.get("larger") or found.attacks.get("plain-larger") or {}
    if "eps" not in asked:
        return LARGER.without(found.why("larger"))
    if float(asked["eps"]) <= report.eps:
        spans = "No larger eps makes a difference: this one spans the whole range."
        return LARGER.without(spans if report.eps else "Twice an eps of 0 is no larger.")
    eps = float(asked["eps"])
    shown = f"{eps:g}" if report.threat["norm"] in COUNTS else text.eps(eps)
    stuck = _stuck(found, "")
    masked = _stuck(found, "plain-") >= _MANY
    name = "larger" if found.given("larger") and not (masked and not stuck) else "plain-larger"
    given, more = found.given(name), len(found.broken(name))
    figure, value = "no sample is left", None
    if given:
        value = more / given
        figure = f"{more} of {text.plural(given, 'sample')} left break at eps {shown}"
    if stuck:
        return LARGER.failed(
            figure,
            f"Twice the eps breaks nothing more, and neither does any other: {stuck} of them "
            "stand whatever is allowed, so that the attacks of the run do not work.",
            value,
            weight="broken" if stuck >= _MANY else "doubtful",
            masking=masked,
        )
    if masked:
        meaning = "Neither twice the eps nor any other breaks more: gradients lead nowhere."
        return LARGER.failed(figure, meaning, value, masking=True)
    meaning = "There is nothing left that it could break."
    if more:
        meaning = "Who may go further breaks more, as where attacks make use of what is allowed."
    elif given:
        meaning = "The samples are robust beyond it, and fall when everything is allowed."
    return LARGER.passed(figure, meaning, value)


def _stuck(found: Reference, prefix: str) -> int:
    """How many samples stand whatever is allowed, if twice the eps broke nothing more; else 0."""
    name = f"{prefix}unbounded"
    if not found.given(f"{prefix}larger") or found.broken(f"{prefix}larger"):
        return 0
    return found.left(name)


def _judged(
    question: Question,
    found: Reference,
    name: str,
    *,
    figure: str,
    value: float,
    who: str,
    masked: bool,
    sign: str,
    fine: str,
) -> Check:
    """Failed where an attack broke what the run had left, or where it tells of masking."""
    missed = found.missed(name)
    weight = weight_of(missed, found.n)
    if weight:
        robust = text.plural(len(found.robust), "sample")
        figure = f"{found.labels(name)} breaks {missed} of {robust} that the run left"
        meaning = found.held(missed, who)
        return question.failed(figure, meaning, value, weight=weight, masking=masked)
    if masked:
        return question.failed(figure, sign, value, masking=True)
    return question.passed(figure, fine, value)
