"""A run as a leaderboard has it: its figures, and what became of each sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from robust.core.outcome import Floats, Ints

from . import statistics, strength, text
from .bracket import Bracket
from .checks import Verdict
from .rates import Interval, plain

if TYPE_CHECKING:
    from .certification import Certificates
    from .summary import Report


ANY = "any wrong class"


@dataclass(frozen=True)
class Task:
    """What runs must share for their figures to compare.

    data, fingerprint   name and split of the samples, and the digest of their contents
    norm, eps, low, high    the threat, in the units of the data
    targeted    the rule that chose the targets, None where any wrong class counts
    access      "gradient", "scores", "labels", or "transfer" where attacks saw surrogates alone
    """

    data: str
    fingerprint: str
    norm: str
    eps: float
    low: float
    high: float
    targeted: str | None
    access: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The task of a run with that spec."""
        data, threat = spec["data"], spec["threat"]
        name = str(data.get("source") or data.get("name") or "data")
        split = data.get("split")
        name = name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name
        return cls(
            data=f"{name}, {split}" if split else name,
            fingerprint=str(data.get("fingerprint") or data.get("source") or ""),
            norm=str(threat["norm"]),
            eps=float(f"{float(threat['eps']):.6g}"),
            low=float(threat.get("low", 0.0)),
            high=float(threat.get("high", 1.0)),
            targeted=None if spec.get("targeted") is None else str(spec["targeted"]),
            access="transfer" if spec.get("surrogates") else spec.get("access") or "gradient",
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides: the same samples may lie in another place."""
        return (
            *(self.fingerprint, self.norm, self.eps, self.low, self.high),
            *(self.targeted, self.access),
        )

    @property
    def threat(self) -> str:
        """ "L∞ ε = 8/255"."""
        return f"{text.norm(self.norm)} ε = {text.eps(self.eps)}"

    @property
    def conditions(self) -> str:
        """Goal and access: "any wrong class, access to labels"."""
        goal = ANY if self.targeted is None else f"targeted ({self.targeted})"
        if self.access == "transfer":
            return f"{goal}, attacked by surrogates"
        return goal if self.access == "gradient" else f"{goal}, access to {self.access}"

    @property
    def terms(self) -> str:
        """Threat, goal and access, as a heading says them."""
        return f"{self.threat}, {self.conditions}".replace(f", {ANY}", "")


@dataclass(frozen=True, eq=False)
class Entry:
    """A run, and of its samples no more than what comparisons take.

    name        of its folder
    href        where its report lies, seen from the leaderboard; None where there is none
    model, arch, parameters, defenses   of the model; None and "" where that is not known
    identity    what is the same for two runs of one model behind the same defenses
    clean, robust   accuracies in [0, 1], NaN where nothing was measured, with 95 % intervals
    certified   of an L2 certification of the same model: certified accuracy at the threat's eps
    diagnosed   whether it was asked if its number can be trusted; the verdict may still be None
    damaged     how many of its files could not be read
    ids, left   (n,): the samples; for each 1 where it withstood, else 0, of random models a share
    cost        forwards, backwards, queries, seconds
    """

    name: str
    href: str | None
    spec: dict[str, Any]
    status: str
    created: str
    model: str
    arch: str
    parameters: int | None
    defenses: str
    identity: tuple[str, ...]
    n: int
    n_expected: int | None
    clean: float
    clean_ci: Interval
    robust: float
    robust_ci: Interval
    certified: float | None
    certified_ci: Interval | None
    verdict: Verdict | None
    diagnosed: bool
    damaged: int
    ids: Ints
    left: Floats
    cost: dict[str, float]

    @classmethod
    def of(
        cls,
        report: "Report",
        *,
        name: str,
        href: str | None = None,
        certificates: "Certificates | None" = None,
    ) -> Self:
        """The entry of an attack run. certificates: those of the same model, where it has any."""
        model = report.spec["model"]
        path = str(model.get("path") or "").replace("\\", "/").rstrip("/")
        bracket = Bracket.of(report, certificates)
        attacks = report.attacks
        return cls(
            name=name,
            href=href,
            spec=report.spec,
            status=str(report.run.get("status") or ""),
            created=str(report.run.get("created") or ""),
            model=path.rpartition("/")[2] or str(model.get("kind") or "model"),
            arch=str(model.get("arch") or ""),
            parameters=int(model["parameters"]) if model.get("parameters") else None,
            defenses=" + ".join(str(one["name"]) for one in report.defenses),
            identity=identity(report.spec, name),
            n=report.n,
            n_expected=report.n_expected,
            clean=report.clean_accuracy,
            clean_ci=report.clean_accuracy_ci,
            robust=report.robust_accuracy,
            robust_ci=report.robust_accuracy_ci,
            certified=bracket.certified if bracket else None,
            certified_ci=bracket.certified_ci if bracket else None,
            verdict=report.verdict,
            diagnosed=report.run.get("diagnose", "off") != "off",
            damaged=len(report.damaged),
            ids=report.columns.ids,
            left=report.withstood,
            cost={
                "seconds": float(report.seconds),
                **{
                    key: float(sum(attack[key] for attack in attacks))
                    for key in ("forwards", "backwards", "queries")
                },
            },
        )

    @cached_property
    def task(self) -> Task:
        return Task.of(self.spec)

    @cached_property
    def attacks(self) -> str:
        """What was tried, in few words."""
        return strength.words(self.spec)

    @property
    def measured(self) -> bool:
        """Whether there is a robust accuracy."""
        return bool(self.n and self.spec["attacks"])

    @property
    def complete(self) -> bool:
        """Whether it came to its end."""
        return self.status == "done" and (self.n_expected is None or self.n >= self.n_expected)

    @property
    def date(self) -> str:
        """Day on which it was started, "" where that is not known."""
        return self.created[:10]

    @cached_property
    def samples(self) -> frozenset[int]:
        return frozenset(self.ids.tolist())

    def to_json(self) -> dict[str, Any]:
        """JSON types, null for what was not measured."""
        found: dict[str, Any] = plain(
            {
                "run": self.name,
                "href": self.href,
                "status": self.status,
                "complete": self.complete,
                "damaged_files": self.damaged,
                "created": self.created,
                "model": self.model,
                "sha256": self.spec["model"].get("sha256"),
                "arch": self.arch or None,
                "parameters": self.parameters,
                "defenses": self.defenses or None,
                "n": self.n,
                "n_expected": self.n_expected,
                "clean_accuracy": self.clean,
                "clean_accuracy_ci": self.clean_ci,
                "robust_accuracy": self.robust,
                "robust_accuracy_ci": self.robust_ci,
                "certified_accuracy": self.certified,
                "certified_accuracy_ci": self.certified_ci,
                "verdict": self.verdict and self.verdict.to_json(),
                "attacks": [strength.label(attack) for attack in self.spec["attacks"]],
                "strength": strength.LEVELS[strength.level(self.spec)],
                **self.cost,
            }
        )
        return found


def identity(spec: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The model of a run, and what it was attacked behind: equal for the same weights (or, without
    a file, the same address) and the same defenses. What has neither is known by its run alone.
    """
    model = spec["model"]
    defenses = model.get("defenses") or []
    told = [f"{one['name']} {sorted((one.get('params') or {}).items())}" for one in defenses]
    return (str(model.get("sha256") or model.get("path") or f"the model of {name}"), *told)


@dataclass(frozen=True)
class Comparison:
    """The robust accuracy of one run less that of another.

    kind        "paired": on n samples that both attacked; "independent": on others, or mostly
                others, by the intervals of both, n samples being common
    p           two-sided; `adjusted` for the number of comparisons of that kind in the table
    """

    kind: Literal["paired", "independent"]
    n: int
    difference: float
    interval: Interval
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        return self.adjusted < 1 - statistics.LEVEL

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = plain({**vars(self), "significant": self.significant})
        return found


def difference(first: Entry, second: Entry) -> Comparison:
    """First less second. They are paired where at least half the samples of the run that has fewer
    are common; fewer would throw away too much. As the samples of two runs are at worst alike, a
    test that takes them for independent is then careful rather than wrong.
    """
    common, at, its = np.intersect1d(first.ids, second.ids, return_indices=True)
    n = len(common)
    if 2 * n >= min(first.n, second.n):
        pair = statistics.paired(first.left[at], second.left[its])
        return Comparison("paired", n, pair.difference, pair.interval, pair.p, pair.p)
    apart = statistics.unpaired(
        float(first.left.sum()), first.n, float(second.left.sum()), second.n
    )
    return Comparison("independent", n, apart.difference, apart.interval, apart.p, apart.p)
