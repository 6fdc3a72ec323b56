"""What `robust list` does."""

import dataclasses
import textwrap
from typing import Any

import click

from robust.core.attack import Attack
from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.core.threat import THREATS
from robust.registry import (
    ALIASES,
    find,
    names,
    peers,
    shown,
)


def print_list(what: str, engine: str | None = None) -> None:
    """`robust list`."""
    if engine is not None and what == "architectures":
        raise RobustError("--engine is for `robust list attacks` and `robust list defenses`")
    if what == "architectures":
        from robust.models import architectures

        for name, factory in architectures().items():
            _print_entry(name, _first_line(factory))
    elif what == "defenses":
        if engine is None:
            found = {name: find(what, name) for name in names(what)}
        else:
            found = {f"{engine}:{name}": cls for name, cls in peers(engine, what).items()}
        for name, cls in found.items():
            _print_entry(name, *_defense_facts(cls))
    elif engine is not None:
        for name, cls in peers(engine).items():
            _print_entry(f"{engine}:{name}", *_facts(cls))
    else:
        for name in names(what):
            cls = find(what, name)
            facts, params = _facts(cls)
            paper = f", {cls.paper}" if cls.paper[:1].isdigit() else ""
            _print_entry(name, facts + paper, _first_line(cls), params)
        for name, meaning in ALIASES.items():
            _print_entry(name, meaning)
        _print_entry("autoattack", "the published cascade: version=standard, plus or rand")


def _defense_facts(cls: type[Defense]) -> tuple[str, ...]:
    """What a defense is, claims and is broken by, and its parameters with their defaults."""
    how = "trained" if cls.trained or not cls.place else f"around any model: {cls.place}"
    fields = dataclasses.fields(cls)
    reserved = getattr(cls, "reserved", {})
    given = [
        field.name
        if field.default is dataclasses.MISSING
        else f"{field.name}={shown(field.default)}"
        for field in fields
        if field.name not in reserved
    ]
    given += [f"{f.name}: {reserved[f.name]}" for f in fields if f.name in reserved]
    return (
        ", ".join(filter(None, (cls.family, how, cls.paper))),
        _first_line(cls),
        cls.claims and f"claims: {cls.claims}",
        f"broken by: {cls.broken_by or 'nothing known'}",
        ", ".join(given),
    )


def _facts(cls: type[Attack]) -> tuple[str, str]:
    """What an attack asks and answers, and its parameters with their defaults."""
    kind = "minimal" if cls.minimal else "budget"
    norms = " ".join(n for n in THREATS if n in cls.norms)
    goals = "" if len(cls.goals) > 1 else f", {next(iter(cls.goals))} only"
    given = [f"{field.name}={shown(field.default)}" for field in dataclasses.fields(cls)]
    return f"{cls.access}, {kind}, {norms}{goals}", ", ".join(given)


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


def _print_entry(name: str, *paragraphs: str) -> None:
    """A name, and what is to be said of it below, as wide as the terminal."""
    from rich.console import Console

    width, indent = Console().width, " " * 4
    click.echo(name)
    for text in filter(None, paragraphs):
        for line in textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent):
            click.echo(line)
