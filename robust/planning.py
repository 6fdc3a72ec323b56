"""Everything that is checked and decided before the first step of an attack run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import evaluation as engine
from .asking import refuse_tiny_budget
from .core.adaptive import Adaptive
from .core.attack import Attack
from .core.defended import GUESSED_DRAWS, Defended
from .core.defense import Frame
from .core.errors import RobustError
from .core.oracle import Oracle
from .core.outcome import RunSpec
from .core.rng import seeded
from .core.threat import Threat
from .core.victim import Access
from .data import Source
from .models import Loaded, answers_differ
from .models.defending import is_file_defense
from .models.info import hash_file
from .preflight import auto_batch_size, examine, frozen, guarded
from .probing import CHECKS, DRAWS, answers_at_random
from .registry import black_box, label, name_of
from .searching import SEARCHES

LEVELS = ("labels", "scores", "gradient")
_ASKED_FIRST = 8  # samples that a model is asked about before a run
_ORACLE_BATCH = 64


def as_oracle(loaded: Loaded, access: str, box: tuple[float, float] | None = None) -> Loaded:
    """The model as attackers with that access have it: an Oracle, unless they have gradients.

    box     the range of the data

    Raises RobustError where the model itself gives less.
    """
    if access not in LEVELS:
        raise RobustError(f"access must be one of {', '.join(LEVELS)}, not {access!r}")
    own = loaded.info.access
    if LEVELS.index(access) > LEVELS.index(own):
        why = loaded.info.extra.get("gradient")
        why = f" ({why})" if why and access == "gradient" else ""
        raise RobustError(f"the model gives {own} only, not {access}{why}: say --access {own}")
    if access == "gradient":
        return loaded
    scores = own != "labels"
    oracle = Oracle(
        loaded.module,
        labels=access == "labels",
        scores=scores,
        box=box if loaded.info.eight_bit else None,
    )
    return Loaded(oracle, loaded.info)


def check_attacks(
    attacks: Sequence[Attack], threat: Threat, source: Source, *, targeted: bool
) -> None:
    """Raise RobustError, before anything is asked, where these attacks do not answer the threat."""
    for attack in attacks:
        attack.check(threat, targeted=targeted, shape=source.shape)


def with_chance(loaded: Loaded, source: Source, device: torch.device, access: str) -> Loaded:
    """The same; but a model that attackers have themselves, and that nobody declared to answer at
    random, is asked the same a few times, and where the answers differ it is attacked as random:
    a `Defended` whose draws were guessed.
    """
    module = loaded.module
    declared = isinstance(module, Defended) and module.draws > 1
    if access != "gradient" or declared:
        return loaded
    x = source.batch(source.ids[:_ASKED_FIRST]).x.to(device)
    frame = Frame(source.shape, 0, source.low, source.high)
    with frozen(module), guarded(x):
        if not answers_differ(module, frame, x):
            return loaded
    facts: dict[str, Any] = {"draws": GUESSED_DRAWS, "guessed": True, "frame": frame}
    if not isinstance(module, Defended):
        return replace(loaded, module=Defended(module, module, **facts))
    facts |= {"records": module.records, "parts": module.parts, "behind": module.behind}
    return replace(loaded, module=Defended(module.model, module.exposed, **facts))


def asked_before(loaded: Loaded) -> int:
    """How many answers an oracle gave before the run."""
    return loaded.module.asked if isinstance(loaded.module, Oracle) else 0


def plan(
    loaded: Loaded,
    source: Source,
    data: dict[str, Any],
    threat: Threat,
    attacks: Sequence[Attack],
    *,
    device: torch.device,
    surrogates: Sequence[Loaded] = (),
    limit: int | None = None,
    targeted: str | None = None,
    every: bool = False,
    shuffle: bool = False,
    curve: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
    search: str = "auto",
    access: str = "gradient",
    queries: int | None = None,
    draws: int | None = None,
) -> RunSpec:
    """Everything checked and decided before the first step: the spec of a run.

    loaded      the model as `as_oracle` gives it for this access
    draws       of an oracle; None: a few repeated queries tell whether it answers at random

    Raises RobustError where model, data, threat and attacks do not fit each other.
    """
    if not attacks:
        raise RobustError("no attack was named; see `robust list attacks`")
    for attack in attacks:
        attack.check(threat, targeted=targeted is not None, shape=source.shape)
        if surrogates and attack.minimal:
            raise RobustError(
                f"{label(attack)} looks for the smallest perturbation, which fools a surrogate "
                "and hardly anything else: use an attack that spends all of eps, such as transfer"
            )
        if not surrogates and LEVELS.index(str(attack.access)) > LEVELS.index(access):
            others = ", ".join(black_box(threat.norm, access)) or "none of this norm"
            why = loaded.info.extra.get("gradient")
            why = f" ({why})" if why else ""
            raise RobustError(
                f"{label(attack)} needs {attack.access}, and attackers have access to {access} "
                f"only{why}; there is {others}"
            )
    if limit is not None and limit < 1:
        raise RobustError(f"--limit must be at least 1, not {limit}")
    if batch_size is not None and batch_size < 1:
        raise RobustError(f"--batch-size must be at least 1, not {batch_size}")
    for name, value in (("--queries", queries), ("--draws", draws)):
        if value is not None and value < 1:
            raise RobustError(f"{name} must be at least 1, not {value}")
    if access == "gradient" and (queries or draws):
        raise RobustError(
            "--queries and --draws are for models that can only be asked: add --access scores or "
            "--access labels"
        )
    own = 1 + (draws or 1) * (2 if source.image and not loaded.info.eight_bit else 1)
    if queries is not None and queries <= own:  # told before anything is asked
        raise RobustError(
            f"--queries {queries} leaves nothing to search with: {own} of them go into the clean "
            "sample and checks of what is found"
        )
    if search not in SEARCHES:
        raise RobustError(f"search must be one of {', '.join(SEARCHES)}, not {search!r}")
    gradient = any(attack.access == Access.GRADIENT for attack in attacks)
    asked = gradient and not surrogates
    oracle = loaded.module if isinstance(loaded.module, Oracle) else None
    defended = loaded.module if isinstance(loaded.module, Defended) else None
    random = defended is not None and defended.draws > 1
    ids = None
    if oracle is not None:  # about samples that the run asks about anyway
        ids = engine.order_of(source, shuffle, seed)[: min(limit or _ASKED_FIRST, _ASKED_FIRST)]
        if targeted == "least-likely" and not oracle.scores:
            raise RobustError("--targeted least-likely needs scores, and the model gives labels")
    with seeded(seed, "preflight"):
        classes = examine(loaded.module, source, device, targeted, gradient=asked, ids=ids)
        if oracle is not None and ids is not None:
            oracle.draws = draws or _draws(oracle, source.batch(ids).x.to(device))
    for attack in attacks:
        attack.check(threat, targeted=targeted is not None, shape=source.shape, classes=classes)
    for number, surrogate in enumerate(surrogates, start=1):
        _examine_surrogate(surrogate, number, source, device, classes, gradient=gradient)
    if batch_size is None and oracle is not None:
        batch_size = _ORACLE_BATCH
    elif batch_size is None:
        networks = [_searched(one.module) for one in (loaded, *surrogates)]
        batch_size = min(auto_batch_size(network, source, device) for network in networks)
    curve = curve and gradient and not (surrogates or random) and engine.has_curve(threat)
    views = defended is not None and not surrogates
    spec = RunSpec(
        model=_model_record(loaded, classes),
        surrogates=[_model_record(surrogate, classes) for surrogate in surrogates],
        data={
            **data,
            "fingerprint": source.fingerprint(),
            "n": len(source),
            "shape": list(source.shape),
            "image": source.image,
            "classes": None if source.classes is None else list(source.classes),
        },
        threat={"norm": threat.norm, "eps": threat.eps, "low": threat.low, "high": threat.high},
        attacks=[
            {
                "name": name_of(attack),
                "label": label(attack),
                "params": attack.params,
                "access": "transfer" if surrogates else str(attack.access),
                "measures": attack.measures,
                "minimal": attack.minimal,
                **({"adaptive": isinstance(attack, Adaptive)} if views else {}),
            }
            for attack in attacks
        ],
        batch_size=batch_size,
        limit=limit,
        targeted=targeted,
        every=every,
        shuffle=shuffle,
        curve=list(engine.CURVE) if curve else [],
        seed=seed,
        search=search,
        access=access,
        queries=queries,
        draws=1 if oracle is None else oracle.draws,
        checks=CHECKS if random or (oracle is not None and oracle.draws > 1) else 1,
        device=str(device),
    )
    refuse_tiny_budget(spec, asked_before(loaded))
    return spec


def _draws(oracle: Oracle, x: Tensor) -> int:
    with frozen(oracle):
        oracle.random = answers_at_random(oracle, x)
    return DRAWS if oracle.random else 1


def _searched(module: torch.nn.Module) -> torch.nn.Module:
    """What the most expensive search differentiates."""
    return module.exposed if isinstance(module, Defended) else module


def _examine_surrogate(
    surrogate: Loaded,
    number: int,
    source: Source,
    device: torch.device,
    classes: int,
    *,
    gradient: bool,
) -> None:
    name = f"surrogate {surrogate.info.path or number}"
    try:
        found = examine(surrogate.module, source, device, gradient=gradient)
    except RobustError as error:
        raise RobustError(f"{name}: {error}") from error
    if found != classes:
        raise RobustError(f"{name} has {found} classes, and the model has {classes}")


def _model_record(loaded: Loaded, classes: int) -> dict[str, Any]:
    """What a run records about a model file."""
    facts = loaded.info.to_dict()
    special = {"access": "gradient", "eight_bit": False}  # what few models are
    few = {key: facts[key] for key, usual in special.items() if facts[key] != usual}
    module = loaded.module.model if isinstance(loaded.module, Oracle) else loaded.module
    if isinstance(module, Defended):
        few["defenses"] = [_defense_record(record) for record in module.records]
        few |= {"draws": module.draws, "guessed": module.guessed}
    return {
        **few,
        **{key: facts[key] for key in ("path", "kind", "sha256", "arch", "parameters")},
        "num_classes": classes,
        "classes": facts["classes"],
        "mean": facts["mean"],
        "std": facts["std"],
    }


def _defense_record(record: dict[str, Any]) -> dict[str, Any]:
    """A defense as a run records it; one of the user's own file with the hash of that."""
    if not is_file_defense(record["name"]):
        return record
    path = Path(record["name"].rpartition(":")[0]).expanduser()
    return {**record, "sha256": hash_file(path)}
