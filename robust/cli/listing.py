"""`robust list`."""

import click


@click.command("list")
@click.argument("what", type=click.Choice(["attacks", "defenses", "architectures"]))
@click.option("--engine", metavar="NAME", help="Those of another package: foolbox or art.")
def list_(what: str, engine: str | None) -> None:
    """List what there is: attacks, defenses or architectures."""
    from robust.commands.listing import print_list

    print_list(what, engine)
