"""Which attacks are known to be weaker than others, and where nothing is known."""

from typing import Any

import pytest

from robust.core.protocols import autoattack
from robust.reports import strength


def attack(name: str, **params: Any) -> dict[str, Any]:
    label = ",".join([name, *(f"{key}={value}" for key, value in params.items())])
    return {"name": name, "label": label, "params": params, "access": "gradient"}


def spec(*attacks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"attacks": list(attacks), "threat": {"norm": "linf"}, **more}


PUBLISHED = [
    {"name": label.split(",")[0], "label": label, "params": {"steps": 100}}
    for label in autoattack("standard", "linf")
]
PGD = attack("pgd", steps=40)


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        (spec(), spec(attack("fgsm"))),
        (spec(attack("fgsm")), spec(PGD)),
        (spec(attack("uniform-noise", samples=20)), spec(attack("square", queries=5000))),
        (spec(attack("pgd", steps=1)), spec(PGD)),
        (spec(PGD), spec(attack("auto"))),
        (spec(PGD), spec(*PUBLISHED)),
        (spec(attack("pgd", steps=10)), spec(PGD)),
        (spec(PGD), spec(attack("pgd", steps=40, restarts=5))),
        (spec(PGD), spec(PGD, attack("square", queries=5000))),
        (
            spec(attack("square", queries=5000), queries=100),
            spec(attack("square", queries=5000), queries=1000),
        ),
        (
            spec(attack("auto") | {"adaptive": False}),
            spec(PGD | {"adaptive": True}),
        ),
    ],
)
def test_what_is_weaker(weak: dict[str, Any], strong: dict[str, Any]) -> None:
    assert strength.compare(weak, strong) == "weaker"
    assert strength.compare(strong, weak) == "stronger"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (spec(PGD), spec(attack("apgd", steps=100))),
        (spec(attack("pgd", steps=40, loss="ce")), spec(attack("pgd", steps=40, loss="margin"))),
        (spec(attack("pgd", steps=80)), spec(attack("pgd", steps=40, restarts=5))),
        (spec(attack("auto")), spec(*PUBLISHED)),
        (
            spec(PGD, surrogates=[{"sha256": "a"}]),
            spec(attack("pgd", steps=80), surrogates=[{"sha256": "b"}]),
        ),
        # No ensemble is known to be one for models that answer at random.
        (spec(attack("apgd", steps=50), checks=20), spec(attack("auto"), checks=20)),
    ],
)
def test_where_nothing_is_known(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert strength.compare(one, other) == strength.compare(other, one) == "other"


def test_the_same() -> None:
    assert strength.compare(spec(PGD), spec(dict(PGD))) == "same"
    free = spec(attack("square", queries=5000), queries=100)
    assert strength.compare(free, spec(attack("square", queries=100), queries=100)) == "same"


def test_words() -> None:
    assert strength.words(spec(*PUBLISHED)) == "AutoAttack standard"
    assert strength.words(spec(*PUBLISHED, PGD)) == "AutoAttack standard + 1 more"
    assert strength.words(spec(PGD, attack("fgsm"))) == "pgd,steps=40 + fgsm"
    assert strength.words(spec()) == "none"
    # Aimed at chosen classes, or by surrogates, it is not what was published.
    assert strength.words(spec(*PUBLISHED, targeted="next")).startswith("apgd + ")
    assert strength.level(spec(*PUBLISHED, surrogates=[{"sha256": "a"}])) == 3
