"""What `robust defend` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.models import parse_defense, save_defended
from robust.opening import open_file
from robust.registry import defense_label


def run_defend(**options: Any) -> None:
    """`robust defend`."""
    parse_around(options["defenses"])
    out: Path = options["out"]
    if out.is_dir() or not out.parent.is_dir():
        raise RobustError(f"{out} cannot be written: its folder must exist, and it be no folder")
    loaded = open_file(options)
    save_defended(out, loaded)
    if not options["quiet"]:
        shown_as = " → ".join(defense_label(one) for one in loaded.info.defenses)
        click.echo(f"{out}: {options['path']} behind {shown_as}")
        click.echo(f"What that gives: robust attack --model {out}")


def parse_around(texts: Sequence[str]) -> list[tuple[str, Defense]]:
    """What `--with` names, to be put around a finished model: names and defenses. RobustError where
    there is none, or one that works only in a model that was trained with it.
    """
    if not texts:
        raise RobustError("say with what: --with NAME,key=value; see `robust list defenses`")
    named = [parse_defense(text) for text in texts]
    for text, (name, defense) in zip(texts, named, strict=True):
        if defense.trained:
            raise RobustError(
                f"{name} works only in a model that was trained with it: "
                f"robust train --defense {text}"
            )
    return named
