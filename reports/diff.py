"""Two attack runs compared: what changed, and what chance cannot explain."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from robust.core.outcome import Bools, Floats, Ints

from . import statistics, strength, text
from .entry import Task
from .rates import Interval, plain, rate

if TYPE_CHECKING:
    from .summary import Report

_SETTINGS = ("limit", "shuffle", "every", "seed", "search", "queries", "draws", "checks")


@dataclass(frozen=True)
class Change:
    """A rate before and after, over `n` samples; where they are not the same ones, over those of
    the first run.

    difference  after less before, with its 95 % interval; p: of a difference as large, either way,
                between equally good models
    """

    before: float
    after: float
    n: int
    difference: float
    interval: Interval
    p: float

    @property
    def significant(self) -> bool:
        return self.p < 1 - statistics.LEVEL


@dataclass(frozen=True)
class ClassChange(Change):
    """The robust accuracy of one class; p holds for all classes at once (Holm 1979)."""

    name: str


@dataclass(frozen=True)
class Altered:
    """Something that the runs do not have in common, in words; None: one has nothing there."""

    what: str
    before: str | None
    after: str | None


class Difference:
    """What became of a model, or of its attacks, between two runs.

    before, after   their reports

    Samples are paired by their ids where both runs are on the same data; on other data, which
    `conflicts` names, the runs are compared as a whole.
    """

    def __init__(self, before: "Report", after: "Report") -> None:
        self.before, self.after = before, after
        tasks = Task.of(before.spec), Task.of(after.spec)
        self.tasks = tasks
        self._same_data = tasks[0].fingerprint == tasks[1].fingerprint
        mine, theirs = before.columns.ids, after.columns.ids
        nothing = np.zeros(0, dtype=np.int64)
        self.ids: Ints = nothing
        self._in_before: Ints = nothing
        self._in_after: Ints = nothing
        if self._same_data:
            found = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
            self.ids, self._in_before, self._in_after = found

    @cached_property
    def conflicts(self) -> list[str]:
        """Why the two figures are not figures of the same thing; empty where they are."""
        return conflicts(self.before.spec, self.after.spec)

    @property
    def paired(self) -> bool:
        """Whether there are samples that both runs measured."""
        return len(self.ids) > 0

    @property
    def pairing(self) -> str:
        """How they were compared, in words."""
        if not self.paired:
            return "other samples: Fisher's exact test"
        test = "McNemar's test"
        if self.before.random or self.after.random:
            test = "sign-flip test of the shares"
        return f"{test} on {text.plural(len(self.ids), 'sample')}"

    # Figures

    @cached_property
    def clean(self) -> Change | None:
        """Clean accuracy; None where one run has no sample."""
        return self._change(self.before.columns.right, self.after.columns.right)

    @cached_property
    def robust(self) -> Change | None:
        """Robust accuracy; None where one run has no sample, or no attack."""
        if not (self.before.tallies and self.after.tallies):
            return None
        return self._change(self.before.withstood, self.after.withstood)

    @property
    def worse(self) -> bool:
        """Whether robust accuracy fell, by more than chance explains."""
        return bool(self.robust and self.robust.significant and self.robust.difference < 0)

    @property
    def better(self) -> bool:
        """Whether it rose so."""
        return bool(self.robust and self.robust.significant and self.robust.difference > 0)

    def _change(self, before: Floats, after: Floats) -> Change | None:
        if not (len(before) and len(after)):
            return None
        if not self.paired:
            one, other = float(before.sum()), float(after.sum())
            apart = statistics.unpaired(other, len(after), one, len(before))
            n = len(before)
            ends = rate(one, n), rate(other, len(after))
            return Change(*ends, n, apart.difference, apart.interval, apart.p)
        return _paired(before[self._in_before], after[self._in_after])

    @cached_property
    def per_class(self) -> list[ClassChange]:
        """Robust accuracy by class over the samples in common, the largest change first."""
        if not (self.paired and self.robust):
            return []
        labels = self.before.columns.labels[self._in_before]
        one = self.before.withstood[self._in_before]
        other = self.after.withstood[self._in_after]
        found = [(int(k), _paired(one[labels == k], other[labels == k])) for k in np.unique(labels)]
        adjusted = _holm([change.p for _, change in found])
        rows = [
            ClassChange(**{**asdict(change), "p": p}, name=self.before.classes[k])
            for (k, change), p in zip(found, adjusted, strict=True)
        ]
        return sorted(rows, key=lambda row: -abs(row.difference))

    @cached_property
    def attacks(self) -> list[dict[str, Any]]:
        """One dict per attack of either run: attack, what it left (in a cascade: it and those
        before it) in each run, None where that one did not run it.
        """
        left = [
            {row["label"]: row["robust_accuracy"] for row in report.attacks}
            for report in (self.before, self.after)
        ]
        labels = list(dict.fromkeys([*left[0], *left[1]]))
        return [{"attack": k, "before": left[0].get(k), "after": left[1].get(k)} for k in labels]

    @cached_property
    def newly_broken(self) -> list[int]:
        """Ids of the samples that withstood before and do not now; of random models in most
        draws.
        """
        return self._turned(self.before, self.after)

    @cached_property
    def newly_robust(self) -> list[int]:
        """Ids of the samples that withstand now and did not."""
        return self._turned(self.after, self.before)

    def _turned(self, robust: "Report", broken: "Report") -> list[int]:
        if not self.robust:
            return []
        places = {id(self.before): self._in_before, id(self.after): self._in_after}
        held: Bools = robust.withstood[places[id(robust)]] > 0.5
        lost: Bools = broken.withstood[places[id(broken)]] <= 0.5
        ids: list[int] = self.ids[held & lost].tolist()
        return ids

    # What else there is to know

    @cached_property
    def changed(self) -> list[Altered]:
        """What differs between the runs: model, data, attacks, settings, versions."""
        return list(_changes(self.before, self.after))

    @cached_property
    def cautions(self) -> list[str]:
        """What makes the comparison say less than it seems to, a sentence each."""
        return self.cautions_about("the first run", "the second run")

    def cautions_about(self, before: str, after: str) -> list[str]:
        """The same, with other words for the two runs."""
        said = list(self.conflicts)
        relation = strength.compare(self.after.spec, self.before.spec)
        if relation in ("weaker", "stronger"):
            robust = "more" if relation == "weaker" else "less"
            said.append(
                f"The attacks of {after} are {relation} than those of {before}: it may only look "
                f"{robust} robust."
            )
        elif relation == "other":
            said.append("The runs used other attacks: which ones are stronger is not known.")
        for name, report in ((before, self.before), (after, self.after)):
            said += cautions_of(report, name)
        fewer = max(self.before.n, self.after.n)
        if self.paired and len(self.ids) < fewer:
            said.append(
                f"Only {text.plural(len(self.ids), 'sample')} of {self.before.n:,} and "
                f"{self.after.n:,} are in both runs: all differences are over these."
            )
        if self._same_data and not self.paired and self.before.n and self.after.n:
            said.append("No sample is in both runs.")
        return said

    def to_json(self) -> dict[str, Any]:
        """Everything, in JSON types; null for what was not measured."""
        found: dict[str, Any] = plain(
            {
                "n": len(self.ids),
                "conflicts": self.conflicts,
                "cautions": self.cautions,
                "clean": self.clean and _json(self.clean),
                "robust": self.robust and _json(self.robust),
                "worse": self.worse,
                "better": self.better,
                "pairing": self.pairing,
                "changed": [asdict(row) for row in self.changed],
                "attacks": self.attacks,
                "per_class": [_json(row) for row in self.per_class],
                "newly_broken": self.newly_broken,
                "newly_robust": self.newly_robust,
            }
        )
        return found


def conflicts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Why runs with these specs measure different things, a sentence each; empty where they do not.

    Paths and names do not matter: data are the same where their contents are.
    """
    one, other = Task.of(before), Task.of(after)
    found = []
    if one.fingerprint != other.fingerprint:
        found.append(
            f"The data differ: {one.data} ({one.fingerprint[:8]}) and {other.data} "
            f"({other.fingerprint[:8]})."
        )
    if (one.norm, one.eps) != (other.norm, other.eps):
        found.append(f"The threats differ: {one.threat} and {other.threat}.")
    if (one.low, one.high) != (other.low, other.high):
        found.append(
            f"The ranges of the data differ: [{one.low:g}, {one.high:g}] and "
            f"[{other.low:g}, {other.high:g}]."
        )
    if (one.targeted, one.access) != (other.targeted, other.access):
        found.append(f"The attackers differ: {one.conditions}; and {other.conditions}.")
    return found


def cautions_of(report: "Report", name: str) -> list[str]:
    """What makes the figure of a run say less than it seems to, a sentence each.

    name    of the run in a sentence: "this run"
    """
    said = []
    if report.verdict is not None and report.verdict.status != "trustworthy":
        said.append(f"The figure of {name} is {report.verdict.status} by its own checks.")
    if report.damaged:
        said.append(f"{text.plural(len(report.damaged), 'file')} of {name} could not be read.")
    if not report.complete:
        said.append(f"Only {report.n:,} of {report.n_expected:,} samples of {name} were measured.")
    return said


def _json(change: Change) -> dict[str, Any]:
    return {**asdict(change), "significant": change.significant}


def _paired(before: Floats, after: Floats) -> Change:
    apart = statistics.paired(after, before)
    n = len(before)
    ends = rate(float(before.sum()), n), rate(float(after.sum()), n)
    return Change(*ends, n, apart.difference, apart.interval, apart.p)


def _holm(values: Sequence[float]) -> list[float]:
    """p of several tests, so that any one below a level means that level for all (Holm 1979)."""
    adjusted, highest = list(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def _changes(before: "Report", after: "Report") -> Iterator[Altered]:
    one, other = before.spec, after.spec
    for name, part, key in (
        ("model", "model", "path"),
        ("model sha256", "model", "sha256"),
        ("architecture", "model", "arch"),
        ("parameters", "model", "parameters"),
        ("data", "data", "source"),
        ("split", "data", "split"),
        ("data fingerprint", "data", "fingerprint"),
    ):
        yield from _altered(name, one[part].get(key), other[part].get(key))
    named = [
        ", ".join(str(d.get("label") or d["name"]) for d in report.defenses) or None
        for report in (before, after)
    ]
    yield from _altered("defenses", *named)
    tasks = Task.of(one), Task.of(other)
    yield from _altered("threat", tasks[0].threat, tasks[1].threat)
    yield from _altered("attacker", tasks[0].conditions, tasks[1].conditions)
    asked = [[str(a.get("label") or a["name"]) for a in spec["attacks"]] for spec in (one, other)]
    if asked[0] != asked[1]:
        yield Altered("attacks", "; ".join(asked[0]) or None, "; ".join(asked[1]) or None)
    for key in _SETTINGS:
        yield from _altered(key, one.get(key), other.get(key))
    yield from _altered("device", one.get("device"), other.get("device"))
    versions = [report.run.get("versions") or {} for report in (before, after)]
    for key in dict.fromkeys([*versions[0], *versions[1]]):
        yield from _altered(key, versions[0].get(key), versions[1].get(key))


def _altered(what: str, before: Any, after: Any) -> Iterator[Altered]:
    if before != after:
        yield Altered(what, *(None if v is None else str(v) for v in (before, after)))


__all__ = ["Change", "ClassChange", "Difference", "conflicts"]
