"""`robust report`."""

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def report(runs: tuple[Path, ...]) -> None:
    """Write the reports of RUNS anew, from what is stored.

    A report is report.html and, for all runs but trainings, report.json.
    """
    from robust.commands.report import rewrite_reports

    rewrite_reports(runs)
