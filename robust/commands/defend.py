"""What `robust defend` does."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.models import is_file_defense, parse_defense, save_defended
from robust.opening import open_file
from robust.registry import defense_label
from robust.training import training_option


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
        click.echo(f"What that gives: {attack_on(out, loaded.info.defenses)}")


def attack_on(out: Path, defenses: Sequence[Mapping[str, Any]]) -> str:
    """The command that attacks a checkpoint with these defenses, as it has to be typed: one from a
    file of somebody's own runs only where he names it."""
    words = ["robust", "attack", "--model", str(out)]
    for one in defenses:
        if is_file_defense(one["name"]):
            words += ["--with", defense_label(one)]
    return shlex.join(words)


def parse_around(texts: Sequence[str]) -> list[tuple[str, Defense]]:
    """What `--with` names, to be put around a finished model: names and defenses. RobustError where
    there is none, or one that works only in a model that was trained with it.
    """
    if not texts:
        raise RobustError("say with what: --with NAME,key=value; see `robust list defenses`")
    for text in texts:
        _refuse_training(text.partition(",")[0].strip())
    named = [parse_defense(text) for text in texts]
    for text, (name, defense) in zip(texts, named, strict=True):
        if defense.trained:
            raise RobustError(
                f"{name} works only in a model that was trained with it: "
                f"robust train --defense {text}"
            )
    return named


def _refuse_training(name: str) -> None:
    """RobustError for ways to train that leave nothing around a model: it says what to type."""
    typed = training_option(name)
    if typed:
        raise RobustError(
            f"{name} is a way to train, and puts nothing around a finished model: "
            f"robust train {typed}"
        )
