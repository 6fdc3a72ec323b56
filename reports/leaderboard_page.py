"""A leaderboard → one page: a table of all runs, and what to make of each comparison."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from markupsafe import Markup

from . import strength, text
from .entry import ANY, Comparison, Entry
from .leaderboard import Group, Leaderboard, Remark, Standing
from .page import fill
from .scatter import Point, fine_percent, scatter, share_ticks

_TOLD = 12  # runs that a sentence names; the table has them all
VERDICTS = ("trustworthy", "doubtful", "broken", "not checked")


def render_leaderboard(board: Leaderboard) -> str:
    """The page of a leaderboard."""
    entries = [standing.entry for group in board.groups for standing in group.standings]
    choices = _choices(entries)
    return fill(
        "leaderboard.html.jinja",
        board=board,
        single=board.groups[0] if len(board.groups) == 1 else None,
        choices=[(key, name, values) for key, name, values, _ in choices],
        told_of=lambda entry: _told(entry, choices),
        certified=any(entry.certified is not None for entry in entries),
        verdict_of=verdict_of,
        trade_off={group.label: _trade_off(group) for group in board.groups},
        cautions=lambda group: _said((s.entry, r) for s in group.ranked for r in s.cautions),
        unranked=lambda group: _said((s.entry, s.why) for s in group.standings if s.why),
        pairs={group.label: _pairs(group) for group in board.groups},
        gap=gap,
        ends=ends,
        relation=relation,
        chance=chance,
        listed=lambda its: text.listed(_some([s.entry.name for s in its])),
    )


def verdict_of(entry: Entry) -> str:
    """One of VERDICTS."""
    return "not checked" if entry.verdict is None else entry.verdict.status


def gap(comparison: Comparison) -> str:
    """The difference of a comparison: "+3.2 points"; a minus sign where it is below zero."""
    value = comparison.difference
    if round(value, 4) == 0:
        return "0 points"
    return f"{'+' if value > 0 else '−'}{text.points(abs(value))}"


def ends(comparison: Comparison) -> str:
    """The interval of a difference, in points: "−0.4 to 6.8"."""
    low, high = (f"{100 * end:.1f}".replace("-", "−") for end in comparison.interval)
    return f"{low} to {high}"


def relation(one: Standing, other: Standing) -> str:
    """What tells the attacks of two neighbours apart: "the same", "weaker than the next"."""
    found = strength.compare(one.entry.spec, other.entry.spec)
    return {"same": "the same", "other": "others"}.get(found, f"{found} than those of the next")


def chance(p: float) -> str:
    """ "p = 0.031", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


_Of = Callable[[Entry], str]
_Choice = tuple[str, str, list[str], _Of]
_FILTERS: tuple[tuple[str, str, _Of], ...] = (
    ("data", "Data set", lambda entry: entry.task.data),
    ("threat", "Threat", lambda entry: entry.task.threat),
    ("goal", "Goal and access", lambda entry: entry.task.conditions),
    ("verdict", "Verdict", verdict_of),
)


def _choices(entries: Sequence[Entry]) -> list[_Choice]:
    """What the table can be filtered by, where there is a choice at all: key, name, values, and
    what is the value of a run.
    """
    found = []
    for key, name, of in _FILTERS:
        values = sorted({of(entry) for entry in entries})
        if len(values) > 1:
            found.append((key, name, values, of))
    return found


def _told(entry: Entry, choices: Sequence[_Choice]) -> str:
    """What a row says beneath the name of its run: what is not the same for all of the table."""
    told = [of(entry) for key, _, _, of in choices if key != "verdict"]
    told = [words.replace(f"{ANY}, ", "") for words in told if words != ANY]
    told += [] if entry.complete else [entry.status or "not finished"]
    return ", ".join(told)


def _said(remarks: Iterable[tuple[Entry, Remark]]) -> list[tuple[str, str]]:
    """Which runs, and what is said of them: the same said once."""
    found: dict[str, list[str]] = {}
    for entry, remark in remarks:
        found.setdefault(remark.words, []).append(entry.name)
    return [(text.listed(_some(names)), words) for words, names in found.items()]


def _some(names: list[str]) -> list[str]:
    more = len(names) - _TOLD
    return [*names[:_TOLD], f"{more} more"] if more > 0 else names


def _pairs(group: Group) -> list[tuple[Standing, Standing, Comparison]]:
    """Neighbours, and what is between them."""
    nexts = zip(group.ranked, group.ranked[1:], strict=False)
    return [(one, other, one.ahead) for one, other in nexts if one.ahead is not None]


def _trade_off(group: Group) -> Markup:
    """Clean against robust accuracy of the ranked runs."""
    if len(group.ranked) < 2:
        return Markup("")
    front = [(entry.clean, entry.robust) for entry in group.front]
    names = {entry.name for entry in group.front}
    says = "; ".join(
        f"{entry.name}, {text.percent(entry.clean, entry.n)} clean with "
        f"{text.percent(entry.robust, entry.n)} robust"
        for entry in group.front[:_TOLD]
    )
    # What lies at the same place is drawn in the order of its weight: the front last.
    order = sorted(group.ranked, key=lambda s: (s.baseline, s.entry.name in names, -(s.rank or 0)))
    entries = [standing.entry for standing in order]
    return scatter(
        [
            Point(
                standing.entry.clean,
                standing.entry.robust,
                _title(standing),
                colour=1 if standing.baseline else 0,
                hollow=standing.entry.name not in names,
                large=standing.rank == 1,
                mark=str(standing.rank),
            )
            for standing in order
        ],
        label=f"Clean against robust accuracy of {len(order)} runs; unexceeded: {says}",
        x_name="clean accuracy",
        y_name="robust accuracy",
        x_text=fine_percent,
        y_text=fine_percent,
        x_ticks=share_ticks([entry.clean for entry in entries]),
        y_ticks=share_ticks([entry.robust for entry in entries]),
        front=front,
        height=260,
    )


def _title(standing: Standing) -> str:
    """What a dot says: the run, its figures, and what speaks against them."""
    entry = standing.entry
    lines = [
        f"{standing.rank}: {entry.name}" + (" (baseline)" if standing.baseline else ""),
        f"clean {text.percent(entry.clean, entry.n)}, robust {text.percent(entry.robust, entry.n)}",
        *(remark.short for remark in standing.cautions),
    ]
    return "\n".join(lines)


def to_json(board: Leaderboard, skipped: Iterable[str] = ()) -> dict[str, Any]:
    """leaderboard.json: the figures of the page, and what was left out."""
    return {**board.to_json(), "skipped": list(skipped)}
