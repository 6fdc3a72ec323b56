"""What `robust attack` does."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from robust import api, console
from robust.core.errors import RobustError
from robust.core.oracle import Oracle, Remote
from robust.data import Source
from robust.diagnosis import Diagnosing
from robust.evaluation import Evaluation
from robust.models import Loaded
from robust.opening import load_surrogate, open_model_and_data, threat_of
from robust.planning import as_oracle, asked_before, check_attacks, plan, with_chance
from robust.preflight import choose_device
from robust.registry import (
    parse_attacks,
)
from robust.store import RunFolder, argv, choose_folder, find_unfinished
from robust.views import attacks_for

from . import INTERRUPTED
from .gating import Gating

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
    api.check_sample_rate(options["sample_rate"], source.shape)
    targeted = options["targeted"] is not None
    named = parse_attacks(options["attacks"], threat.norm, access, targeted=targeted)
    device = choose_device(options["device"])
    surrogates = [load_surrogate(text, source.shape, options) for text in options["surrogates"]]
    for one in (loaded, *surrogates):
        one.module.to(device)
    check_attacks(named, threat, source, targeted=targeted)
    loaded = with_chance(loaded, source, device, access)
    white_box = access == "gradient" and not surrogates
    attacks = attacks_for(loaded.module, named, options["view"], white_box=white_box)
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
        warn_if_sorted(source, options["limit"])
    out = options["out"]
    if out is None and options["resume"]:
        out = find_unfinished(runs, lambda record: record["spec_hash"] == spec.hash)
    out = out or choose_folder(runs, "attack", Path(options["path"]).stem)
    gated = Gating(options, out, spec)
    folder = RunFolder.start(out, spec, argv(), resume=options["resume"])
    folder.record |= api.run_facts(loaded, price)
    folder.record |= {key: options[key] for key in ("diagnose", "sample_rate")}
    _keep_preflight(folder, loaded)

    quiet = options["quiet"]
    stand_ins = [one.module for one in surrogates]
    asked = asked_before(loaded)
    run = Evaluation(spec, loaded.module, source, attacks, stand_ins, asked)
    _measure(run, Diagnosing(run, options["diagnose"]), folder, options["path"], quiet)
    report = api.conclude(folder)
    if options["as_json"]:
        print(json.dumps(report.to_json(), indent=1))
    elif not quiet:
        console.attack_results(report, str(folder.path / "report.html"))
    return gated.exit_code(report)


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


def _measure(
    run: Evaluation, diagnosing: Diagnosing, folder: RunFolder, model: str, quiet: bool
) -> None:
    """Run to the end and diagnose; an interruption or error leaves a folder that says so."""
    threat, data = run.spec.threat, run.spec.data
    title = f"{model} on {data['source']}  {threat['norm']} eps {threat['eps']:.4g}"
    progress = console.AttackProgress(title)
    try:
        if folder.begun():
            folder.save(status="running")
        events = api.measuring(run, diagnosing, folder, folder.record)
        for _ in console.follow(events, progress, quiet=quiet):
            pass
    except KeyboardInterrupt:
        if not folder.begun():
            raise
        folder.save(status="interrupted")
        kept = f"{folder.kept()} shards are kept"
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


def warn_if_sorted(source: Source, limit: int | None) -> None:
    """Say where the first samples leave out most of the classes."""
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
