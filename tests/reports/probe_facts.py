"""Facts of probes made by hand, and the checks that they lead to."""

from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any

from synthetic import rows, run, shard

from robust.reports.checks import Check
from robust.reports.summary import Report

N = 32  # samples that the probes look at; the first of them are what the run left robust


def made(
    diagnosis: dict[str, dict[str, Any]],
    *,
    left: int = 40,
    attacks: Sequence[dict[str, Any]] = ({},),
    steps: float = 40,
    **spec: Any,
) -> Report:
    """The report of a diagnosed run on 100 samples: its first attack leaves `left`, others fail.

    attacks     what is recorded of each besides its name
    steps       gradients that each takes for a sample
    """
    names = [str(attack.get("name", f"pgd{i}" if i else "pgd")) for i, attack in enumerate(attacks)]
    record = run(names, n=100, **{"checks": 1, "access": "gradient", **spec})
    for asked, more in zip(record["spec"]["attacks"], attacks, strict=True):
        asked |= more
    record |= {"diagnosis": diagnosis, "diagnose": "subset"}
    hits = dict.fromkeys(range(left, 100), 1)
    found, given = [], range(100)
    for number, name in enumerate(names):
        row = rows(name, given, {} if number else hits)
        row.backwards[:] = round(steps)
        found.append(row)
        given = range(left)
    return Report(record, [shard([0] * 100, [0] * 100, found)])


def reference(robust: int = 16, **attacks: tuple[int, Collection[int]] | str) -> dict[str, Any]:
    """Facts of the probe `reference`: by attack (given, places broken), or why it did not run.

    Unless said otherwise naive PGD breaks what the run broke, and twice eps or no bound the rest.
    """
    broken = range(robust, N)
    usual: dict[str, tuple[int, Collection[int]] | str] = {
        "one_step": (N, range(robust + 3, N)),
        "plain": (N, broken),
        "noise": (robust, ()),
        "random_search": (robust, ()),
        "second": (robust, ()),
        "larger": (robust, range(4)),
        "unbounded": (robust - 4, range(4, robust)),
        "plain_larger": (robust, range(4)),
        "plain_unbounded": (robust - 4, range(4, robust)),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, facts in {**usual, **attacks}.items():
        key = name.replace("_", "-")
        eps = 0.2 if "larger" in key else 1.0 if "unbounded" in key else 0.1
        if isinstance(facts, str):
            found[key] = {"why": facts}
            continue
        given, places = facts
        found[key] = {"labels": [key], "eps": eps, "given": given, "broken": sorted(places)}
    return {"n": N, "robust": list(range(robust)), "attacks": found}


def view(**facts: Any) -> dict[str, Any]:
    """What a probe saw of the gradients of an honest model, but for these facts."""
    usual = {
        "zero": {"ce": 0, "margin": 0}, "not_finite": 0, "missing": False, "cosine": 1.0,
        "asked": N, "misleading": 0, "change": 1.0,
    }  # fmt: skip
    return usual | facts


def gradients(exposed: dict[str, Any] | None = None, **deployed: Any) -> dict[str, Any]:
    """Facts of the probe `gradients`."""
    views = {"deployed": view(**deployed)}
    if exposed is not None:
        views["exposed"] = view(**exposed)
    return {"n": N, "step": 0.03, "views": views}


def answers(**facts: Any) -> dict[str, Any]:
    """Facts of the probe `answers` on an honest model, but for these."""
    usual = {
        "n": N, "repeats": 8, "different": 0, "largest": 0.0, "scale": 10.0, "flipping": 0,
        "probabilities": False, "logarithms": False, "rounded": 0, "recording": 0, "backwards": 0,
    }  # fmt: skip
    return usual | facts


def check(module: ModuleType, key: str, report: Report) -> Check:
    (found,) = (one for one in module.checks(report) if one.key == key)
    return found


def outcome(found: Check) -> tuple[str, str, bool]:
    return found.status, found.weight, found.masking
