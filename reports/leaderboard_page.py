"""A leaderboard → one page: a table of all runs, and what to make of each comparison."""

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from . import strength, text
from .entry import Comparison, Entry
from .leaderboard import Group, Leaderboard, Standing
from .page import fill
from .scatter import Point, fine_percent, scatter, share_ticks

_TOLD = 12  # runs that a sentence names; the table has them all
VERDICTS = ("trustworthy", "doubtful", "broken", "not checked")


def render_leaderboard(board: Leaderboard) -> str:
    """The page of a leaderboard."""
    entries = [standing.entry for group in board.groups for standing in group.standings]
    return fill(
        "leaderboard.html.jinja",
        board=board,
        single=board.groups[0] if len(board.groups) == 1 else None,
        choices=_choices(entries),
        certified=any(entry.certified is not None for entry in entries),
        defended=any(entry.defenses for entry in entries),
        verdict_of=verdict_of,
        trade_off={group.label: _trade_off(group) for group in board.groups},
        remarks={group.label: _remarks(group) for group in board.groups},
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


def _choices(entries: Iterable[Entry]) -> list[tuple[str, str, list[str]]]:
    """What the table can be filtered by: (key, name, values), where there is a choice at all."""
    entries = list(entries)
    found = []
    for key, name, of in (
        ("data", "Data set", lambda e: e.task.data),
        ("threat", "Threat", lambda e: e.task.threat),
        ("goal", "Goal and access", lambda e: e.task.conditions),
        ("verdict", "Verdict", verdict_of),
    ):
        values = sorted({of(entry) for entry in entries})
        if len(values) > 1:
            found.append((key, name, values))
    return found


def _remarks(group: Group) -> list[tuple[str, str]]:
    """What to know of places in a group: (which runs, a sentence), the same said once."""
    said: dict[str, list[str]] = {}
    for standing in group.standings:
        for remark in [*standing.cautions, *([standing.why] if standing.why else [])]:
            said.setdefault(remark.words, []).append(standing.entry.name)
    return [(text.listed(_some(names)), words) for words, names in said.items()]


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
