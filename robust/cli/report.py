"""`robust report`."""

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def report(runs: tuple[Path, ...]) -> None:
    """Write report.html and report.json of RUNS anew from their stored outcomes."""
    from robust.commands.report import rewrite_reports

    rewrite_reports(runs)
