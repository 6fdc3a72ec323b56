"""What `robust tune` does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from robust import console, tuning
from robust.core.errors import RobustError
from robust.data import DataSpec, open_data
from robust.models import Loaded, describe_defense, parse_defense
from robust.opening import data_spec, is_function, is_service, open_file, threat_of
from robust.preflight import choose_device
from robust.registry import parse_attack, shown
from robust.store import argv, choose_folder, find_unfinished
from robust.training import describe_attack
from robust.tuning.subject import changed

from . import INTERRUPTED
from .defend import attack_on, parse_around
from .train import train_spec
from .tune_progress import TuneProgress

# The options that have a meaning where nothing is trained.
_AROUND = frozenset(
    [
        *("path", "around", "trust_pickle", "probabilities", "arch", "mean", "std"),
        *("data", "validation", "val_fraction", "val_limit", "val_attack", "box", "norm", "eps"),
        *("search", "trials", "objective", "prune", "seed", "device"),
        *("out", "folder", "resume", "quiet"),
    ]
)


def run_tune(runs: Path, given: frozenset[str], **options: Any) -> int:
    """`robust tune`: the exit code. `given`: the options that somebody typed."""
    subject = _around(given, options) if options["path"] else _recipe(given, options)
    axes = tuning.parse_axes(options["search"], subject)
    spec = tuning.TuneSpec.of(
        subject,
        axes,
        objective=options["objective"],
        prune=options["prune"],
        seed=options["seed"],
    )
    folder: Path | None = options["folder"]
    if folder is None and options["resume"]:
        folder = find_unfinished(runs, lambda record: record["spec_hash"] == spec.hash)
    folder = folder or choose_folder(runs, "tune", options["out"].stem)
    events = tuning.tune(
        subject,
        spec,
        trials=options["trials"],
        folder=folder,
        out=options["out"],
        resume=options["resume"],
        argv=argv(),
    )
    title = f"tuning {_what(options)}: {', '.join(axis.told() for axis in axes)}"
    progress, done = TuneProgress(title, options["objective"]), None
    try:
        for event in console.follow(events, progress, quiet=options["quiet"]):
            if isinstance(event, tuning.TuneDone):
                done = event
    except KeyboardInterrupt:
        click.echo(
            "robust: interrupted; finished trials are kept. To go on, repeat the command with "
            f"--resume --run {folder}",
            err=True,
        )
        return INTERRUPTED
    assert done is not None
    report = tuning.write_report(folder)
    if not options["quiet"]:
        texts = options["around"] if options["path"] else options["defenses"]
        records = [describe_defense(*parse_defense(text)) for text in texts]
        best = changed(records, {} if done.row.baseline else done.row.values)
        _results(done, spec.objective, str(report), attack_on(options["out"], best))
    return 0


def _what(options: Mapping[str, Any]) -> str:
    if options["path"]:
        return f"{' + '.join(options['around'])} around {options['path']}"
    return f"a training on {options['data']}"


def _recipe(given: frozenset[str], options: Mapping[str, Any]) -> tuning.Recipe:
    for name, flag in (
        ("around", "with"),
        ("trust_pickle", "trust-pickle"),
        ("probabilities", "probabilities"),
    ):
        if options[name]:
            raise RobustError(
                f"--{flag} is about a finished model: name it by --model FILE"
                + (", or train with a defense by --defense" if name == "around" else "")
            )
    return tuning.Recipe(train_spec(dict(options), given))


def _around(given: frozenset[str], options: Mapping[str, Any]) -> tuning.Around:
    """The defenses that --with names around the model that --model does."""
    path: str = options["path"]
    for name in sorted(given - _AROUND):
        flag = {"defenses": "defense"}.get(name, name).replace("_", "-")
        raise RobustError(f"--{flag} is for training, and with --model nothing is trained")
    if is_service(path) or is_function(path):
        raise RobustError(f"--model {path}: defenses are put around model files, not around that")
    defenses = parse_around(options["around"])

    def load(texts: Sequence[str]) -> Loaded:
        return open_file(
            {
                **{key: options[key] for key in ("path", "arch", "mean", "std", "trust_pickle")},
                "probabilities": options["probabilities"],
                "data": options["data"] if "data" in given else options["validation"],
                "split": None,
                "box": options["box"] if "box" in given else None,
                "defenses": list(texts),
            }
        )

    loaded = load(options["around"])
    data = _samples(given, options, loaded)
    attack = parse_attack(options["val_attack"])
    return tuning.Around(
        load,
        [describe_defense(name, defense) for name, defense in defenses],
        source=open_data(data),
        data=data.to_dict(),
        threat=threat_of(
            loaded, data, options["norm"] if "norm" in given else None, options["eps"]
        ),
        attack=attack,
        described=describe_attack(attack),
        limit=options["val_limit"],
        seed=options["seed"],
        device=choose_device(options["device"]),
    )


def _samples(given: frozenset[str], options: Mapping[str, Any], loaded: Loaded) -> DataSpec:
    """What trials are judged by: what is named, else the validation data of the training that made
    the checkpoint. Its test data are left for `robust attack`, whose figure shall not be that of
    the best of many tries."""
    info = loaded.info
    named = options["data"] if "data" in given else options["validation"]
    if named is None and info.extra.get("validation") is None:
        raise RobustError(
            f"{info.path} does not say which samples it was chosen by: say by which trials are to "
            "be judged, --data DATA, and leave those of `robust attack` out of them"
        )
    known = data_spec(loaded, named, None, options["box"] if "box" in given else None)
    return DataSpec.from_dict(info.extra["validation"]) if named is None else known


def _results(done: tuning.TuneDone, objective: str, report: str, following: str) -> None:
    """What a finished tuning has found, on stdout."""
    out = Console(highlight=False, markup=False)
    states = [row.state for row in done.rows]
    told = [f"{len(states)} trial{'s' * (len(states) != 1)}"]
    told += [
        f"{states.count(state)} {words}"
        for state, words in (("pruned", "given up early"), ("failed", "failed"))
        if state in states
    ]
    seconds = console.duration(sum(row.seconds for row in done.rows))
    out.print(f"{', '.join(told)} in {seconds}" + "; no other values are left" * done.exhausted)
    first, best = done.rows[0], done.row
    if first.state == "complete":
        out.print(f"without tuning: {_figures(first)}")
    if not best.baseline:
        values = ", ".join(f"{name} = {_short(value)}" for name, value in best.values.items())
        out.print(
            f"best is trial {best.number} of {len(states)}: {_figures(best)}, with {values}",
            soft_wrap=True,
        )
        out.print(f"as options: {done.options}", soft_wrap=True)
    elif len(states) > 1:
        out.print(f"no trial was better by {objective}: the options that were given are the best")
    out.print(f"model: {done.out}", soft_wrap=True)
    out.print(f"report: {report}", soft_wrap=True)
    out.print(f"next: {following}", soft_wrap=True)


def _figures(row: tuning.Row) -> str:
    return f"clean {row.clean:.1%}, robust {row.robust:.1%}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)
