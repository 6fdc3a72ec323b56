"""`robust defend`."""

from pathlib import Path
from typing import Any

import click

from .options import Numbers, model_options


@click.command()
@click.option(
    "--model", "path", required=True, metavar="FILE", help="The model to defend, in any format."
)
@click.option(
    "--data",
    metavar="DATA",
    help="Data of the shape that the model takes, where its file does not say it.",
)
@click.option("--split", metavar="NAME", help="The part of the data, where it has parts.")
@click.option(
    "--range",
    "box",
    type=Numbers(2),
    metavar="LOW,HIGH",
    help="The range of the samples. Default: the checkpoint's, else 0,1.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The defended model, ready for `robust attack`.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@model_options
def defend(**options: Any) -> None:
    """Put defenses around a model, in a file that holds both.

    A sample meets them in the order in which they are named. `robust attack` measures what they
    give, naively and by an attacker who knows of them.

    \b
    robust defend --model m.pt --with jpeg,quality=75 --with resize-pad \\
        --out defended.pt
    robust attack --model defended.pt
    """
    from robust.commands.defend import run_defend

    run_defend(**options)
