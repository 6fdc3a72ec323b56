"""What asking a model took that could only be asked, and what a reader must know of such a run."""

from typing import Any

from . import text
from .rates import ratio
from .rows import Whole


def record(run: dict[str, Any], whole: Whole, searched: int, seconds: float) -> dict[str, Any]:
    """The `oracle` of report.json; empty where attacks had the model itself.

    searched    queries of the attacks' searches; `own` is the rest: answers at the clean samples,
                checks of the candidates, and what was asked before the run. Both are None with
                `every`: each attack's queries are counted as if it ran alone, and an answer that
                several asked for was given once, so that they are no part of `asked`
    random      whether the model answers at random, as repeated queries found out before the run;
                None where nobody looked, for the number of draws was declared
    price       in the currency of price_per_1000; both are None where nobody gave one
    """
    spec = run["spec"]
    if spec.get("access", "gradient") == "gradient":
        return {}
    before = run.get("preflight") or {}
    asked = whole.asked + int(before.get("asked") or 0)
    draws, checks = int(spec.get("draws") or 1), int(spec.get("checks") or 1)
    # Older records do not say; one draw was then what was found, or declared as not random.
    random = before.get("random", None if draws > 1 else False)
    every = bool(spec.get("every"))
    price = run.get("price_per_1000")
    return {
        "access": spec["access"],
        "queries": spec.get("queries"),
        "asked": asked,
        "searched": None if every else searched,
        "own": None if every else max(0, asked - searched),
        "repeated": whole.repeated,
        "not_finite": whole.not_finite + int(before.get("not_finite", 0)),
        "draws": draws,
        "checks": checks,
        "random": random,
        "seconds": seconds,
        "queries_per_second": ratio(asked, seconds),
        "price_per_1000": price,
        "price": None if price is None else price * asked / 1000,
    }


def notes(
    oracle: dict[str, Any], model: dict[str, Any], fooled: float | None, *, transfer: bool
) -> list[str]:
    """Remarks on a run against a model that could only be asked; none for another.

    model       as the spec describes it
    fooled      the mean share of repeated checks that successes passed, where there were any
    transfer    the attacks searched on surrogates
    """
    if not oracle:
        return []
    said = []
    if not transfer:
        saw = "the class that the model predicts" if oracle["access"] == "labels" else "its scores"
        said.append(
            f"Black box: the attacks could only ask the model, and saw nothing but {saw}. An "
            "attacker who has the model itself, and with it gradients, can only do better."
        )
    if told := _draws(oracle, fooled):
        said.append(told)
    if model.get("eight_bit"):
        said.append(
            "The model was sent 8-bit images: every query and every adversarial example is rounded "
            "to 8 bits, and counts only so."
        )
    if oracle["not_finite"]:
        answers = text.plural(oracle["not_finite"], "answer was", "answers were")
        said.append(f"{answers} not finite (NaN); such an answer reaches no goal.")
    return said


def _draws(oracle: dict[str, Any], fooled: float | None) -> str:
    """How answers that differ from one time to the next, or may do so, were dealt with."""
    draws, checks, said = oracle["draws"], oracle["checks"], list[str]()
    how = "the vote" if oracle["access"] == "labels" else "the mean"
    cost = "which cost as many queries."
    if oracle["random"]:
        said.append("The model answers at random: the same question gets different answers.")
        if draws > 1:
            said.append(f"Each answer of the search is {how} of {draws} draws, {cost}")
    elif draws > 1:
        said.append(f"{draws} draws were declared: each answer of the search is {how} of so many,")
        said.append(f"{cost} Whether the model answers at random was not looked at.")
    if checks > 1:
        often = "" if fooled is None else f"; on average they fooled it in {text.percent(fooled)}"
        said.append(
            f"Each adversarial example was checked {checks} times again and counts where it "
            f"fooled the model in at least half of these checks{often}."
        )
    return " ".join(said)


def priced(oracle: dict[str, Any]) -> str:
    """ "at 1.5 per 1,000 queries: 12.34", in the user's currency; "" where no price was given."""
    if not oracle or oracle["price"] is None:
        return ""
    return f"at {oracle['price_per_1000']:,g} per 1,000 queries: {oracle['price']:,.2f}"
