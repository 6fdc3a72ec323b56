"""Recipes: options of `robust train` that go well together, each with the reasons for it."""

from collections.abc import Collection, Mapping
from typing import Any

from robust.core.errors import RobustError

# By the names of the options, but for eps_warmup: a share of the epochs.
RECIPES: dict[str, Mapping[str, Any]] = {
    "fast": {
        "adv": "trades,beta=3,steps=2",
        "epochs": 6,
        "eps_warmup": 0.3,
        "eps_scale": 1.1,
        "optimizer": "adam",
        "lr": 0.005,
        "batch_size": 128,
        "weight_decay": 0.0,
        "ema": 0.998,
    },
    "strong": {
        "adv": "trades,beta=3,steps=3",
        "epochs": 15,
        "eps_warmup": 0.3,
        "eps_scale": 1.1,
        "optimizer": "adam",
        "lr": 0.005,
        "batch_size": 128,
        "weight_decay": 0.0,
        "ema": 0.998,
    },
}


def with_recipe(options: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The options of `robust train` with those of their recipe in place of defaults.

    given    names of the options that were given: they count before the recipe's
    """
    name = options["recipe"]
    if name not in RECIPES:
        raise RobustError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe = {key: value for key, value in RECIPES[name].items() if key not in given}
    made = {**options, **recipe}
    if "eps_warmup" in recipe:
        made["eps_warmup"] *= made["epochs"]
    return made
