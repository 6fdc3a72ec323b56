"""What `robust diff` does."""

import json
from pathlib import Path

import click

from robust.core.errors import RobustError
from robust.leaderboards import read_report
from robust.reports import diff_markdown
from robust.reports.diff import Difference
from robust.reports.summary import Report
from robust.store import RunFolder


def run_diff(before: Path, after: Path, *, force: bool, as_json: bool, fail_if_worse: bool) -> int:
    """`robust diff`: the exit code."""
    difference = Difference(figures_of(before), figures_of(after))
    if difference.conflicts and not force:
        raise RobustError(
            f"{before} and {after} cannot be compared. {' '.join(difference.conflicts)} "
            "--force compares them all the same"
        )
    if as_json:
        told = {"before": str(before), "after": str(after), **difference.to_json()}
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo(diff_markdown.of(difference, str(before), str(after)), nl=False)
    if fail_if_worse and difference.robust is None:
        raise RobustError("robust accuracy was not measured in both runs: --fail-if-worse fails")
    return 1 if fail_if_worse and difference.worse else 0


def figures_of(path: Path) -> Report:
    """The report of a stored attack run without its pictures: no sample itself is read.

    Raises RobustError where there is no such run, or nothing in it that can be read.
    """
    folder = RunFolder.open(path)
    kind = folder.record.get("kind")
    if kind != "attack":
        raise RobustError(f"{path} is a run of robust {kind}; only runs of robust attack compare")
    try:
        report = read_report(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise RobustError(f"{path} cannot be read: its run.json lacks {error}") from error
    if not report.n:
        why = f": {len(report.damaged)} files are damaged" if report.damaged else " yet"
        raise RobustError(f"{path} holds no sample that was measured{why}")
    return report
