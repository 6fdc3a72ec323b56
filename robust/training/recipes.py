"""Recipes: options of `robust train` that go well together, each with the reasons for it."""

from collections.abc import Collection, Mapping
from typing import Any

from robust.core.errors import RobustError

# What both have. Adam with a high rate for one cycle, and an average over the last few hundred
# updates: a short run ends where the average has forgotten its start. A warm-up, without which runs
# at large eps stay at chance; training on a little more than eps, which what is measured gains by.
# No weight decay: runs are too short to overfit. Figures: benchmarks/training.py.
_SHORT: dict[str, Any] = {
    "optimizer": "adam",
    "lr": 0.005,
    "batch_size": 128,
    "weight_decay": 0.0,
    "schedule": "one-cycle",
    "eps_warmup": 0.3,
}

# By the names of the options. Lengths hold for any data: eps_warmup is a share of the epochs, and
# step, the length of a step of the inner search, one of the eps that is trained on.
RECIPES: dict[str, Mapping[str, Any]] = {
    # TRADES with two steps costs half of an epoch of PGD-7, and keeps clean accuracy.
    "fast": {
        **_SHORT,
        "adv": "trades,beta=4,steps=2",
        "step": 0.7,
        "epochs": 6,
        "eps_scale": 1.15,
        "ema": 0.998,
    },
    # The same with a third step, more weight on what is robust, and more than twice the epochs.
    "strong": {
        **_SHORT,
        "adv": "trades,beta=6,steps=3",
        "step": 0.5,
        "epochs": 14,
        "eps_scale": 1.15,
        "ema": 0.999,
    },
}


def with_recipe(options: Mapping[str, Any], given: Collection[str], eps: float) -> dict[str, Any]:
    """The options of `robust train` with those of their recipe in place of defaults.

    given    names of the options that were given: they count before the recipe's
    eps      the radius of the threat

    RobustError where there is no such recipe.
    """
    name = options["recipe"]
    if name not in RECIPES:
        raise RobustError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe = {key: value for key, value in RECIPES[name].items() if key not in given}
    step = recipe.pop("step")
    made = {**options, **recipe}
    if "eps_warmup" in recipe:
        made["eps_warmup"] *= made["epochs"]
    if "adv" in recipe:
        made["adv"] += f",step_size={step * eps * (made['eps_scale'] or 1.0):.6g}"
    return made
