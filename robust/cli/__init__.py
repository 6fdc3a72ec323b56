"""The command line, one file a command.

Heavy parts are imported inside the commands, so that --help is instant.
"""

from typing import Any

import click

from robust.core.errors import RobustError

from .attack import attack
from .certify import certify
from .defend import defend
from .diff import diff
from .listing import list_
from .report import report
from .train import train
from .tune import tune


class _Group(click.Group):
    """Turns bad input into one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RobustError, click.UsageError) as error:
            told = error.format_message() if isinstance(error, click.UsageError) else str(error)
            click.secho(f"robust: {told}", fg="red", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="robust", prog_name="robust")
def main() -> None:
    """How robust is your model really, and how to make it more so.

    \b
    robust train --adv pgd            train a robust model on the embedded digits → m.pt
    robust attack --model m.pt        attack it; the report is in runs/
    robust list attacks               what there is to attack with
    """


for _command in (attack, certify, train, tune, defend, report, diff, list_):
    main.add_command(_command)
