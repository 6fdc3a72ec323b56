"""`robust report`."""

from pathlib import Path

import click

FORMATS = ("html", "markdown", "csv", "card", "junit")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="html",
    show_default=True,
    help="html: pages; of one attack run also markdown, csv (a row per sample), card (a fragment "
    "of a Hugging Face model card) or junit (XML), on stdout or in --out FILE.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the leaderboard goes [default: leaderboard.html in the folder that holds the "
    "runs], or the text of another --format.",
)
@click.option(
    "--baseline",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="The run that the others on the leaderboard are measured against.",
)
@click.option(
    "--no-rewrite",
    is_flag=True,
    help="Make a leaderboard and leave the reports of the runs as they are.",
)
def report(
    runs: tuple[Path, ...], form: str, out: Path | None, baseline: Path | None, no_rewrite: bool
) -> None:
    """Write the reports of RUNS anew, from what is stored.

    A report is report.html and, for all runs but trainings, report.json. Two attack runs or more,
    as in robust report runs/*, come with a leaderboard: a page that ranks them, and a JSON file
    beside it.
    """
    from robust.commands.report import write_as, write_reports

    if form == "html":
        write_reports(runs, out=out, baseline=baseline, rewrite=not no_rewrite)
        return
    if baseline is not None or no_rewrite or len(runs) > 1:
        raise click.UsageError(
            f"--format {form} takes one run, and neither --baseline nor --no-rewrite"
        )
    write_as(runs[0], form, out)
