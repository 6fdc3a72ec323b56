"""A report as Markdown: short enough for an issue or a pull request."""

from typing import TYPE_CHECKING

from . import classes, md, text
from .entry import Task

if TYPE_CHECKING:
    from .summary import Report

_ATTACKS = 30  # of a table


def of(report: "Report") -> str:
    """The figures that matter, the verdict and its reasons, what to know besides, and the command.

    GitHub-flavoured Markdown, in UTF-8, ending in a newline. Names that users chose are code spans
    or escaped. Where nothing was measured figures are dashes.
    """
    model = report.spec["model"]
    name = str(model.get("path") or model.get("arch") or "a model in memory")
    return md.document(
        [
            f"## Robustness of {md.code(name)}",
            figures(report),
            verdict(report),
            "### Attacks",
            attacks(report),
            _classes(report),
            _notes(report),
            _again(report),
        ]
    )


def figures(report: "Report") -> str:
    """Robust and clean accuracy with intervals, as a sentence or two."""
    task = Task.of(report.spec)
    n = report.n
    robust, clean = (
        text.percent(value, n) for value in (report.robust_accuracy, report.clean_accuracy)
    )
    told = (
        f"**Robust accuracy {robust}** (95{text.NARROW}% interval "
        f"{text.interval(report.robust_accuracy_ci, n)}), clean accuracy {clean} "
        f"({text.interval(report.clean_accuracy_ci, n)}), on {text.plural(n, 'sample')} of "
        f"{md.code(task.data)}; {md.escape(task.terms)}."
    )
    if report.naive_accuracy is not None:
        told += (
            f" Attacks that know of no defense leave {text.percent(report.naive_accuracy, n)} "
            f"({text.interval(report.naive_accuracy_ci or (0.0, 0.0), n)})."
        )
    if not report.complete and report.n_expected:
        told += f" **Incomplete: {n:,} of {report.n_expected:,} samples.**"
    return told


def verdict(report: "Report") -> str:
    """Whether to believe the figure, and why; "" where that was not looked at."""
    found = report.verdict
    if found is None:
        return ""
    return f"**Verdict: {found.status}.** {md.escape(found.basis)}\n\n{md.listed(found.reasons)}"


def attacks(report: "Report") -> str:
    """One line an attack."""
    n = report.n
    heads = ("attack", "given", "broken", "robust after it", "time")
    if report.every:
        heads = ("attack", "given", "broken", "robust to it", "time")
    rows = [
        (
            md.code(attack["label"]),
            f"{attack['given']:,}",
            f"{attack['successes']:,}",
            f"{text.percent(attack['robust_accuracy'], n)} "
            f"({text.interval(attack['robust_accuracy_ci'], n)})",
            text.seconds(attack["seconds"]),
        )
        for attack in report.attacks[:_ATTACKS]
    ]
    more = len(report.attacks) - len(rows)
    return md.table(heads, rows) + (f"\n\nAnd {text.plural(more, 'more')}." if more else "")


def _classes(report: "Report") -> str:
    return md.escape(" ".join(classes.sentences(report))) if report.tallies else ""


def _notes(report: "Report") -> str:
    return f"### To know besides\n\n{md.listed(report.notes)}" if report.notes else ""


def _again(report: "Report") -> str:
    argv = report.run.get("argv") or []
    version = (report.run.get("versions") or {}).get("robust", "?")
    told = f"Seed {report.spec.get('seed', 0)}, robust {md.escape(version)}."
    return f"{told}\n\n{md.block(text.command(argv))}" if argv else told
