"""A comparison of two runs as Markdown, for a pull request."""

import re

from . import md, text
from .diff import Altered, Change, Difference

_DIGEST = re.compile("[0-9a-f]{40,}")
_IDS, _CLASSES, _ROWS = 20, 10, 40


def of(difference: Difference, before: str = "before", after: str = "after") -> str:
    """What changed and whether it is significant; GitHub-flavoured Markdown ending in a newline.

    before, after   what the two runs are called
    """
    return md.document(
        [
            f"## Robustness: {headline(difference)}",
            f"{md.code(after)} against {md.code(before)}; {md.escape(difference.tasks[1].terms)}.",
            _table(difference),
            _said(difference),
            md.listed(difference.cautions),
            _samples(difference),
            _classes(difference),
            _attacks(difference),
            _changed(difference.changed),
        ]
    )


def headline(difference: Difference) -> str:
    """The outcome in a few words."""
    found = difference.robust
    if found is None:
        return "not measured in both runs"
    if difference.worse:
        return f"significantly worse ({_points(found.difference)})"
    if difference.better:
        return f"significantly better ({_points(found.difference)})"
    return f"no significant change ({_points(found.difference)})"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points".replace("-", "\u2212").replace("+0.0", "±0.0")


def _row(name: str, change: Change) -> tuple[str, ...]:
    low, high = (f"{100 * end:+.1f}".replace("-", "\u2212") for end in change.interval)
    return (
        name,
        text.percent(change.before, change.n),
        text.percent(change.after, change.n),
        _points(change.difference),
        f"{low} to {high}",
        f"{text.said_p(change.p)}{', significant' if change.significant else ''}",
    )


def _table(difference: Difference) -> str:
    found = (("robust accuracy", difference.robust), ("clean accuracy", difference.clean))
    rows = [_row(name, change) for name, change in found if change is not None]
    heads = ("", "before", "after", "difference", f"95{text.NARROW}% interval", "chance")
    return md.table(heads, rows) if rows else ""


def _said(difference: Difference) -> str:
    if difference.robust is None:
        return "Robust accuracy was not measured in both runs."
    return (
        f"Compared by {difference.pairing}; significant: p below 0.05, whichever way the "
        "difference goes."
    )


def _samples(difference: Difference) -> str:
    if not (difference.paired and difference.robust):
        return ""
    lines = []
    for name, ids in (
        ("Newly broken", difference.newly_broken),
        ("Newly robust", difference.newly_robust),
    ):
        shown = ", ".join(map(str, ids[:_IDS]))
        rest = f" and {len(ids) - _IDS:,} more" if len(ids) > _IDS else ""
        lines.append(f"- {name}: {len(ids):,}" + (f" (ids {shown}{rest})" if ids else ""))
    return "\n".join(lines)


def _classes(difference: Difference) -> str:
    moved = [row for row in difference.per_class if row.difference]
    if not moved or len(difference.per_class) < 2:
        return ""
    rows = [
        (md.code(row.name), f"{row.n:,}", *_row("", row)[1:4], *_row("", row)[5:])
        for row in moved[:_CLASSES]
    ]
    more = len(moved) - len(rows)
    rest = f"\n\n{text.plural(more, 'class', 'classes')} moved less." if more else ""
    heads = ("class", "samples", "before", "after", "difference", "chance (Holm)")
    return _folded("Robust accuracy by class", md.table(heads, rows) + rest)


def _attacks(difference: Difference) -> str:
    n = difference.before.n, difference.after.n
    rows = [
        (
            md.code(row["attack"]),
            text.percent(row["before"], n[0]),
            text.percent(row["after"], n[1]),
        )
        for row in difference.attacks[:_ROWS]
    ]
    heads = ("attack", "left before", "left after")
    return _folded("What each attack left", md.table(heads, rows)) if rows else ""


def _changed(changed: list[Altered]) -> str:
    if not changed:
        return "Model, data, attacks, settings and versions are the same."
    rows = [(md.escape(row.what), *map(_value, (row.before, row.after))) for row in changed[:_ROWS]]
    return _folded("What changed", md.table(("", "before", "after"), rows))


def _value(value: str | None) -> str:
    """A value as a code span; of a digest its beginning, which tells it from another."""
    if value is None:
        return "–"
    return md.code(f"{value[:12]}…" if _DIGEST.fullmatch(value) else value)


def _folded(title: str, body: str) -> str:
    """Under a line that is opened by a click, as GitHub and GitLab show it."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
