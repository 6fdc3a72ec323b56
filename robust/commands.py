"""What the commands of the CLI do, once their options are read."""

import dataclasses
import json
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import api, console
from .core.attack import Attack
from .core.errors import RobustError
from .core.oracle import Oracle, Remote
from .core.threat import THREATS
from .data import DataSpec, Source
from .evaluation import Evaluation
from .models import Loaded, load_model
from .opening import load_surrogate, open_model_and_data, threat_of
from .planning import as_oracle, asked_before, plan
from .preflight import choose_device
from .registry import ALIASES, find, names, parse_attack, parse_attacks, peers, shown
from .store import RunFolder, argv, choose_folder, find_unfinished
from .training import TrainDone, TrainSpec, describe_attack, parse_adv, train

INTERRUPTED = 130
PREFLIGHT = "preflight"


def run_attack(runs: Path, **options: Any) -> int:
    """`robust attack`: the exit code."""
    try:
        return _attack(runs, options)
    except KeyboardInterrupt:
        click.echo("robust: interrupted before anything was measured", err=True)
        return INTERRUPTED


def _attack(runs: Path, options: dict[str, Any]) -> int:
    price = options["price_per_1000"]
    if price is not None and not math.isfinite(price):
        raise RobustError(f"--price-per-1000 must be a finite number, not {price}")
    loaded, data, source = open_model_and_data(options)
    access = options["access"] or loaded.info.access
    loaded = as_oracle(loaded, access, (source.low, source.high))
    if price is not None and access == "gradient":
        raise RobustError("--price-per-1000 is for models that can only be asked: add --access")
    threat = threat_of(loaded, data, options["norm"], options["eps"])
    targeted = options["targeted"] is not None
    attacks = parse_attacks(options["attacks"], threat.norm, access, targeted=targeted)
    device = choose_device(options["device"])
    surrogates = [load_surrogate(text, source.shape, options) for text in options["surrogates"]]
    for one in (loaded, *surrogates):
        one.module.to(device)
    _recall(runs, loaded, options)
    size = options["batch_size"]
    if size == "auto" and options["resume"] and options["out"] is not None:
        size = _batch_size_of(options["out"])  # what memory was free then decided it
    spec = plan(
        loaded,
        source,
        data.to_dict(),
        threat,
        attacks,
        device=device,
        surrogates=surrogates,
        limit=options["limit"],
        targeted=options["targeted"],
        every=options["every"],
        shuffle=options["shuffle"],
        curve=options["curve"],
        batch_size=None if size == "auto" else size,
        seed=options["seed"],
        search=options["search"],
        access=access,
        queries=options["queries"],
        draws=options["draws"],
    )
    if not (options["shuffle"] or options["quiet"]):
        _warn_if_sorted(source, options["limit"])
    out = options["out"]
    if out is None and options["resume"]:
        out = find_unfinished(runs, lambda record: record["spec_hash"] == spec.hash)
    out = out or choose_folder(runs, "attack", Path(options["path"]).stem)
    folder = RunFolder.start(out, spec, argv(), resume=options["resume"])
    folder.record |= api.oracle_facts(loaded, price)
    _keep_preflight(folder, loaded)

    quiet = options["quiet"]
    stand_ins = [one.module for one in surrogates]
    asked = asked_before(loaded)
    run = Evaluation(spec, loaded.module, source, attacks, stand_ins, asked)
    _measure(run, folder, options["path"], quiet)
    report = api.conclude(folder)
    if options["as_json"]:
        print(json.dumps(report.to_json(), indent=1))
    elif not quiet:
        console.attack_results(report, str(folder.path / "report.html"))
    gate = options["fail_under"]
    if gate is not None and not report.robust_accuracy >= gate:  # NaN must not pass
        if not quiet:
            found = f"{report.robust_accuracy:.4g}"
            click.echo(f"robust: robust accuracy {found} is below --fail-under {gate:g}", err=True)
        return 1
    return 0


def _recall(runs: Path, loaded: Loaded, options: dict[str, Any]) -> None:
    """Let an oracle take over what it answered before the run that is to be resumed. Which one that
    is, is known only after it was asked; so without --out it is the newest on the same model.
    """
    if not (options["resume"] and isinstance(loaded.module, Oracle)):
        return
    out, digest = options["out"], loaded.info.sha256
    out = out or find_unfinished(runs, lambda run: run["spec"]["model"]["sha256"] == digest)
    if out is not None and (out / "run.json").exists():
        loaded.module.recall(RunFolder.open(out).journal(PREFLIGHT).read())


def _keep_preflight(folder: RunFolder, loaded: Loaded) -> None:
    """Keep what a service or function answered before the run."""
    oracle = loaded.module
    if not (isinstance(oracle, Oracle) and isinstance(oracle.model, Remote)):
        return
    journal = folder.journal(PREFLIGHT)
    there = journal.read()
    learned = {key: answer for key, answer in oracle.learned.items() if key not in there}
    if learned:
        journal.append(list(learned), np.stack([*learned.values()]))
    journal.close()


def _measure(run: Evaluation, folder: RunFolder, model: str, quiet: bool) -> None:
    """Run to the end; an interruption or error leaves a folder that says so, if any."""
    threat, data = run.spec.threat, run.spec.data
    title = f"{model} on {data['source']}  {threat['norm']} eps {threat['eps']:.4g}"
    progress = console.AttackProgress(title)
    try:
        if folder.begun():
            folder.save(status="running")
        for _ in console.follow(run.run(folder), progress, quiet=quiet):
            pass
    except KeyboardInterrupt:
        if not folder.begun():
            raise
        folder.save(status="interrupted")
        kept = f"{len(folder.done())} shards are kept"
        if isinstance(run.model, Oracle) and isinstance(run.model.model, Remote):
            kept += ", and what the model has answered since"
        click.echo(
            f"robust: interrupted; {kept}. To go on, repeat the command with --resume --out "
            f"{folder.path}",
            err=True,
        )
        sys.exit(INTERRUPTED)
    except RobustError as error:
        if not folder.begun():
            raise
        folder.save(status="failed")
        raise RobustError(
            f"{error} (what was learned is kept: repeat with --resume --out {folder.path})"
        ) from error


def _batch_size_of(out: Path) -> int | str:
    """The batch size of the run in `out`; auto if there is none."""
    if not (out / "run.json").exists():
        return "auto"
    found: int | str = RunFolder.open(out).record["spec"].get("batch_size", "auto")
    return found


def _warn_if_sorted(source: Source, limit: int | None) -> None:
    if limit is None or limit >= len(source):
        return
    labels = source.labels()
    taken, there = len(set(labels[:limit].tolist())), len(set(labels.tolist()))
    if taken < min(there, limit) / 2:
        click.echo(
            f"robust: the first {limit} samples have {taken} of the {there} classes; "
            "--shuffle takes them in random order",
            err=True,
        )


def run_train(runs: Path, **options: Any) -> int:
    """`robust train`: the exit code."""
    spec = _train_spec(options)
    folder: Path | None = options["folder"]
    if folder is None and options["resume"]:
        folder = _unfinished_training(runs, spec)
    folder = folder or choose_folder(runs, "train", options["out"].stem)
    quiet = options["quiet"]
    events = train(spec, folder=folder, out=options["out"], resume=options["resume"], argv=argv())
    title = f"training {spec.arch} on {options['data']} against {options['adv']}"
    if spec.eps_scale != 1:
        title += f" at {spec.eps_scale:g} × eps"
    done = None
    try:
        for event in console.follow(events, console.TrainProgress(title), quiet=quiet):
            if isinstance(event, TrainDone):
                done = event
    except KeyboardInterrupt:
        click.echo(
            "robust: interrupted; finished epochs are kept. To go on, repeat the command with "
            f"--resume --run {folder}",
            err=True,
        )
        return INTERRUPTED
    assert done is not None
    report = api.write_training_report(folder)
    if not quiet:
        console.training_results(done, str(options["out"]), str(report))
    return 0


def _train_spec(options: dict[str, Any]) -> TrainSpec:
    low, high = options["box"]

    def data(source: str | None, split: str | None = None) -> dict[str, Any] | None:
        return None if source is None else DataSpec(source, split, low=low, high=high).to_dict()

    digits = options["data"].partition(":")[0] == "digits"
    eps = options["eps"]
    if eps is None:
        if not digits:
            raise RobustError("say how far an attacker may go: --eps 8/255, say")
        eps = 0.1 * (high - low)
    # The embedded digits are few: training on a wider ball and stronger decay make up for it.
    eps_scale, weight_decay = options["eps_scale"], options["weight_decay"]
    if eps_scale is None:
        eps_scale = 1.25 if digits else 1.0
    if weight_decay is None:
        weight_decay = 2e-3 if digits else 5e-4
    lr = options["lr"]
    if lr is None:
        lr = 0.1 if options["optimizer"] == "sgd" else 1e-3
    normalise: Any = "auto"
    if options["mean"] or options["std"]:
        mean = options["mean"] or [0.0] * len(options["std"])
        normalise = {"mean": list(mean), "std": list(options["std"] or [1.0] * len(mean))}
    same = (
        "mix val_fraction epochs batch_size optimizer momentum schedule "
        "eps_warmup precision init class_weights patience val_limit seed"
    )
    return TrainSpec(
        data=data(options["data"]) or {},
        validation=data(options["validation"]),
        test=data(options["test"]),
        adv=parse_adv(options["adv"]),
        threat={"norm": options["norm"], "eps": eps, "low": low, "high": high},
        arch=options["arch"] or _arch_of(options["init"]) or "small-cnn",
        lr=lr,
        eps_scale=eps_scale,
        weight_decay=weight_decay,
        freeze=list(options["freeze"]),
        val_attack=describe_attack(parse_attack(options["val_attack"])),
        normalise=normalise,
        device=str(choose_device(options["device"])),
        **{name: options[name] for name in same.split()},
    )


def _arch_of(init: str | None) -> str | None:
    """The architecture that a checkpoint to start from names, if it names one."""
    if init is None:
        return None
    try:
        return load_model(init).info.arch
    except RobustError:  # no checkpoint of ours, or none at all: training says what is wrong
        return None


def _unfinished_training(runs: Path, spec: TrainSpec) -> Path | None:
    """The newest unfinished training below `runs` of these options, whatever the data hold."""
    wanted = {k: v for k, v in spec.to_dict().items() if k != "fingerprints"}
    return find_unfinished(runs, lambda record: wanted.items() <= record["spec"].items())


def rewrite_reports(runs: Sequence[Path]) -> None:
    """`robust report`."""
    for path in runs:
        folder = RunFolder.open(path)
        if folder.record["kind"] == "train":
            click.echo(api.write_training_report(path))
            continue
        report = api.write_report(folder)
        low, high = report.robust_accuracy_ci
        click.echo(
            f"{path / 'report.html'}  clean {report.clean_accuracy:.1%}  robust "
            f"{report.robust_accuracy:.1%} ({low:.1%} to {high:.1%})  n = {report.n}"
        )


def print_list(what: str, engine: str | None = None) -> None:
    """`robust list`."""
    if engine is not None and what != "attacks":
        raise RobustError("--engine is for `robust list attacks`")
    if what == "architectures":
        from .models import architectures

        for name, factory in architectures().items():
            _print_entry(name, _first_line(factory))
    elif what == "defenses":
        for name in names(what):
            cls = find(what, name)
            _print_entry(name, f"{getattr(cls, 'family', '')}, {cls.paper}", _first_line(cls))
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
