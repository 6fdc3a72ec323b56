"""Runs side by side: which of them compete, in what order, and what tells neighbours apart.

Runs compete within one task: the same data, threat, goal and access. Elsewhere a higher figure says
nothing. A higher figure of a weaker attack says nothing either, so that every place carries what
speaks against it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from robust.core.outcome import SCHEMA_VERSION

from . import strength, text
from .entry import Comparison, Entry, Task, difference
from .scatter import unexceeded


@dataclass(frozen=True)
class Remark:
    """Something to know of a run's place: in two or three words, and as a sentence."""

    short: str
    words: str


@dataclass
class Standing:
    """The place of a run among those of its task.

    rank        1 for the highest robust accuracy, the same for equal ones; None where it has none
    why         why it has no rank; None where it has one
    cautions    what speaks against its place
    ahead       its robust accuracy less that of the next place; None where there is none
    gain        its robust accuracy less that of the baseline; None where there is none
    """

    entry: Entry
    rank: int | None = None
    why: Remark | None = None
    cautions: list[Remark] = field(default_factory=list)
    ahead: Comparison | None = None
    gain: Comparison | None = None
    baseline: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "unranked_because": self.why and self.why.words,
            "baseline": self.baseline,
            **self.entry.to_json(),
            "cautions": [remark.words for remark in self.cautions],
            "against_next": self.ahead and self.ahead.to_json(),
            "against_baseline": self.gain and self.gain.to_json(),
        }


class Group:
    """The runs of one task, ranked ones first, by falling robust accuracy.

    label       a letter, A for the first
    baseline    the run that the others are measured against, where it is of this task
    """

    def __init__(self, label: str, entries: Sequence[Entry], baseline: Entry | None = None) -> None:
        self.label = label
        self.task: Task = entries[0].task
        self.baseline = baseline if any(entry is baseline for entry in entries) else None
        because = _unranked(entries)
        order = sorted(entries, key=lambda e: (-e.robust if e.measured else 1.0, -e.n, e.name))
        standings = [Standing(e, why=because.get(e.name), baseline=e is baseline) for e in order]
        self.ranked = [standing for standing in standings if not standing.why]
        self.standings = [*self.ranked, *(standing for standing in standings if standing.why)]
        self._rank()
        self._compare()
        for standing in self.ranked:
            standing.cautions = _cautions(standing.entry, [s.entry for s in self.ranked])

    def _rank(self) -> None:
        for place, standing in enumerate(self.ranked):
            before = self.ranked[place - 1] if place else None
            same = before is not None and before.entry.robust == standing.entry.robust
            standing.rank = before.rank if before and same else place + 1

    def _compare(self) -> None:
        nexts = list(zip(self.ranked, self.ranked[1:], strict=False))
        found = _adjusted([difference(one.entry, other.entry) for one, other in nexts])
        for (standing, _), comparison in zip(nexts, found, strict=True):
            standing.ahead = comparison
        if self.baseline is None:
            return
        others = [s for s in self.standings if not s.baseline and s.entry.measured]
        if not self.baseline.measured:
            return
        gains = _adjusted([difference(s.entry, self.baseline) for s in others])
        for standing, comparison in zip(others, gains, strict=True):
            standing.gain = comparison

    @cached_property
    def front(self) -> list[Entry]:
        """The ranked runs that no other one exceeds in clean or robust accuracy without falling
        behind in the other (Pareto), by rising clean accuracy.
        """
        return unexceeded([s.entry for s in self.ranked], lambda e: (e.clean, e.robust))

    @property
    def first(self) -> Standing | None:
        """The first place; None where nothing is ranked."""
        return self.ranked[0] if self.ranked else None

    @property
    def sound(self) -> Standing | None:
        """The highest place that nothing speaks against; None where there is none."""
        return next((standing for standing in self.ranked if not standing.cautions), None)

    @cached_property
    def level(self) -> list[Standing]:
        """Those behind the first place whose robust accuracy cannot be told apart from it.

        The first one was chosen by the same samples, so that any pair might have been compared with
        it: each p counts for as many comparisons as there are pairs. Holm's method over the others
        alone tells ten equal models apart in one of eight leaderboards.
        """
        if not self.ranked:
            return []
        first, *others = self.ranked
        found = [difference(first.entry, other.entry) for other in others]
        pairs = len(self.ranked) * len(others) / 2
        raised = [replace(one, adjusted=min(1.0, pairs * one.p)) for one in found]
        return [o for o, one in zip(others, raised, strict=True) if not one.significant]

    def to_json(self) -> dict[str, Any]:
        task = self.task
        threat = {"norm": task.norm, "eps": task.eps, "low": task.low, "high": task.high}
        return {
            "group": self.label,
            "data": task.data,
            "fingerprint": task.fingerprint,
            "threat": threat,
            "targeted": task.targeted,
            "access": task.access,
            "baseline": self.baseline and self.baseline.name,
            "front": [entry.name for entry in self.front],
            "not_told_apart_from_first": [standing.entry.name for standing in self.level],
            "runs": [standing.to_json() for standing in self.standings],
        }


class Leaderboard:
    """All runs, in the groups in which they compete: the largest first.

    entries     one a run, with names of their own
    baseline    one of them, or None
    """

    def __init__(self, entries: Iterable[Entry], baseline: Entry | None = None) -> None:
        self.baseline = baseline
        by_task: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in entries:
            by_task.setdefault(entry.task.key, []).append(entry)
        found = sorted(by_task.values(), key=lambda its: (-len(its), its[0].task.terms))
        self.groups = [Group(letter(i), its, baseline) for i, its in enumerate(found)]

    @property
    def n(self) -> int:
        """Number of runs."""
        return sum(len(group.standings) for group in self.groups)

    @cached_property
    def apart(self) -> list[str]:
        """What keeps each group from being compared with the largest one, a sentence each."""
        first, *others = self.groups
        return [
            f"Runs of {first.label} and {group.label} do not compare: "
            f"{text.listed(_apart(first.task, group.task))}."
            for group in others
        ]

    def to_json(self) -> dict[str, Any]:
        """leaderboard.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "leaderboard",
            "baseline": self.baseline and self.baseline.name,
            "groups": [group.to_json() for group in self.groups],
        }


def letter(index: int) -> str:
    """0 → "A", 25 → "Z", 26 → "AA"."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def _unranked(entries: Sequence[Entry]) -> dict[str, Remark]:
    """By name, why a run has no rank."""
    why = {entry.name: remark for entry in entries if (remark := _unmeasured(entry))}
    models: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.name not in why:
            models.setdefault(entry.identity, []).append(entry)
    for its in models.values():
        kept = _counts(its)
        for entry in its:
            if entry is not kept:
                does = "leaves no more" if entry.samples == kept.samples else "tells more"
                why[entry.name] = Remark("same model", f"{kept.name} {does} of the same model.")
        if kept.verdict is not None and kept.verdict.status == "broken":
            why[kept.name] = Remark("broken", "Its checks found that the number is not to be used.")
    return why


def _unmeasured(entry: Entry) -> Remark | None:
    """Why a run tells nothing yet of all its samples."""
    of = f" of {entry.n_expected:,}" if entry.n_expected is not None else ""
    if not entry.spec["attacks"]:
        return Remark("no attack", "No attack ran.")
    if entry.damaged:
        return Remark("damaged", f"Files of it are damaged: {entry.n:,}{of} samples are left.")
    if not entry.complete:
        return Remark("unfinished", f"Not finished: {entry.n:,}{of} samples so far.")
    return None


def _counts(entries: Sequence[Entry]) -> Entry:
    """Which of several runs of one model tells how robust it is: on the same samples the one that
    leaves least, for what it found is there. On others, the one that is not broken, then that of
    the strongest attack, then that of most samples.
    """
    least: dict[frozenset[int], Entry] = {}
    for entry in sorted(entries, key=lambda e: (e.robust, -strength.level(e.spec), e.name)):
        least.setdefault(entry.samples, entry)

    def worth(entry: Entry) -> tuple[bool, int, int]:
        broken = entry.verdict is not None and entry.verdict.status == "broken"
        return not broken, strength.level(entry.spec), entry.n

    return max(least.values(), key=worth)


def _cautions(entry: Entry, ranked: Sequence[Entry]) -> list[Remark]:
    """What speaks against the place of a run among those that are ranked."""
    found = []
    if entry.verdict is None:
        words = "Nobody has looked whether its number can be trusted: it was not diagnosed."
        if entry.diagnosed:
            words = "Of the checks whether its number can be trusted, none applies to such a run."
        found.append(Remark("not checked", words))
    elif entry.verdict.status == "doubtful":
        words = "Its verdict is doubtful: the number may well be too high."
        found.append(Remark("doubtful", words))
    if strength.naive(entry.spec):
        found.append(Remark("naive attack", "No attack looked through its defenses."))
    harder = [
        f"{other.name} ({other.attacks})"
        for other in ranked
        if other.robust <= entry.robust and strength.compare(entry.spec, other.spec) == "weaker"
    ]
    if harder:
        names = text.listed([*harder[:3], *([f"{len(harder) - 3} more"] if harder[3:] else [])])
        words = f"{entry.attacks} is weaker than what ran on {names}: the rank may be owed to that."
        found.append(Remark("weaker attack", words))
    return found


def _adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Their p by Holm's method (1979, Scandinavian Journal of Statistics 6:65): as many
    comparisons find something by chance now as one did.
    """
    order = sorted(range(len(comparisons)), key=lambda i: comparisons[i].p)
    found, largest = list(comparisons), 0.0
    for done, i in enumerate(order):
        largest = max(largest, min(1.0, (len(comparisons) - done) * comparisons[i].p))
        found[i] = replace(comparisons[i], adjusted=largest)
    return found


_DIFFERENCES: tuple[tuple[str, Callable[[Task], str]], ...] = (
    ("the data are others", lambda task: task.data),
    ("the norm is another", lambda task: text.norm(task.norm)),
    ("ε is another", lambda task: text.eps(task.eps)),
    ("the range of the data is another", lambda task: f"[{task.low:g}, {task.high:g}]"),
    ("the goal is another", lambda task: task.targeted or "any wrong class"),
    ("the attacker sees something else", lambda task: task.access),
)


def _apart(one: Task, other: Task) -> list[str]:
    """In what two tasks differ: "ε is another (8/255, 4/255)"."""
    found = []
    for words, of in _DIFFERENCES:
        ours, theirs = of(one), of(other)
        if ours != theirs:
            found.append(f"{words} ({ours} against {theirs})")
    if one.fingerprint != other.fingerprint and one.data == other.data:
        found.insert(0, f"the data, {one.data}, have other contents")
    elif one.fingerprint == other.fingerprint and one.data != other.data:
        found = found[1:]  # the same contents, in another place
    return found
