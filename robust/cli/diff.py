"""`robust diff`."""

import sys
from pathlib import Path

import click


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--force",
    is_flag=True,
    help="Compare runs on other data, threats or attackers too; the difference is then not the "
    "model's alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, not Markdown.")
@click.option(
    "--fail-if-worse",
    is_flag=True,
    help="Exit with 1 if robust accuracy is significantly worse in AFTER.",
)
def diff(before: Path, after: Path, force: bool, as_json: bool, fail_if_worse: bool) -> None:
    """Compare two attack runs: what changed, and what is significant.

    Prints Markdown for a pull request. Samples are paired by their ids; a difference is
    significant where McNemar's test gives p < 0.05.

    \b
    robust diff runs/main runs/branch
    robust diff runs/main runs/branch --fail-if-worse > comment.md
    """
    from robust.commands.diff import run_diff

    sys.exit(run_diff(before, after, force=force, as_json=as_json, fail_if_worse=fail_if_worse))
