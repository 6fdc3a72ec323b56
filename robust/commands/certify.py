"""What `robust certify` does."""

import json
import math
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from robust import certification, console
from robust.core.errors import RobustError
from robust.data import DataSpec, Source, open_data
from robust.models import Loaded
from robust.opening import is_function, is_service, open_asked, open_file_and_data
from robust.preflight import choose_device
from robust.store import argv, choose_folder, find_unfinished

from . import INTERRUPTED
from .attack import warn_if_sorted
from .certify_progress import CertifyProgress


def run_certify(runs: Path, **options: Any) -> int:
    """`robust certify`: the exit code."""
    path, quiet = options["path"], options["quiet"]
    loaded, data, source = _open(options)
    model, own = certification.behind_smoothing(loaded.module)
    sigma = options["sigma"] if options["sigma"] is not None else own
    if sigma is None:
        raise RobustError("say how much noise: --sigma 0.25, in the units of the data")
    if own is not None and not math.isclose(sigma, own) and not quiet:
        click.echo(
            f"note: --sigma {sigma:g} is not the noise of the smoothing that the model has, "
            f"{own:g}: what is certified is another model than the one that is deployed",
            err=True,
        )
    device = choose_device(options["device"])
    loaded = Loaded(model.to(device), loaded.info)
    size = options["batch_size"]
    spec = certification.plan(
        loaded,
        source,
        data.to_dict(),
        sigma=sigma,
        n0=options["n0"],
        n=options["n"],
        alpha=options["alpha"],
        device=device,
        limit=options["limit"],
        shuffle=options["shuffle"],
        batch_size=None if size == "auto" else size,
        seed=options["seed"],
    )
    if not (options["shuffle"] or quiet):
        warn_if_sorted(source, options["limit"])
    out = options["out"]
    if out is None and options["resume"]:
        out = find_unfinished(runs, lambda record: record["spec_hash"] == spec.hash)
    out = out or choose_folder(runs, "certify", Path(path).stem)
    folder = certification.CertifyFolder.start(out, spec, argv(), resume=options["resume"])
    progress = CertifyProgress(f"{path} on {data.source}  sigma {sigma:.4g}, n = {spec.n:,}")
    try:
        if folder.begun():
            folder.save(status="running")
        events = certification.Certifying(spec, model, source).run(folder)
        for _ in console.follow(events, progress, quiet=quiet):
            pass
    except KeyboardInterrupt:
        if not folder.begun():
            click.echo("robust: interrupted before anything was certified", err=True)
            return INTERRUPTED
        folder.save(status="interrupted")
        click.echo(
            f"robust: interrupted; {len(folder.read())} samples are kept. To go on, repeat the "
            f"command with --resume --out {folder.path}",
            err=True,
        )
        return INTERRUPTED
    found = certification.conclude(folder)
    if options["as_json"]:
        print(json.dumps(found.to_json(), indent=1))
    elif not quiet:
        _results(found, str(folder.path / "report.html"))
    return 0


def _open(options: dict[str, Any]) -> tuple[Loaded, DataSpec, Source]:
    """The model and the data. A service is refused: it would be asked thousands of times about
    each sample."""
    path = options["path"]
    if is_service(path) or "://" in path:
        raise RobustError(
            f"{path} is a service, and certify asks {options['n0'] + options['n']:,} times about "
            "each sample: name a model file, or a file.py:function"
        )
    if not is_function(path):
        if options["access"]:
            raise RobustError(f"--access is for functions, and {path} is none")
        return open_file_and_data(options)
    low, high = options["box"] or (0.0, 1.0)
    data = DataSpec(options["data"] or "digits", options["split"], low=low, high=high)
    source = open_data(data)
    return open_asked(options, source), data, source


def _results(found: Any, where: str) -> None:
    """The figures of a finished certification, on stdout."""
    out = Console(highlight=False, markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("radius (L2)", "certified accuracy", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for radius in found.marks:
        low, high = found.certified_accuracy_ci(radius)
        accuracy = f"{found.certified_accuracy(radius):.1%}"
        table.add_row(f"{radius:.4g}", accuracy, f"{low:.1%} to {high:.1%}")
    out.print(table)
    out.print(
        f"average certified radius {found.average_radius:.3f}; clean accuracy "
        f"{found.accuracy:.1%} smoothed, {found.bare_accuracy:.1%} bare; abstained on "
        f"{found.counts['abstained']} of {found.n}"
    )
    for note in found.notes:
        out.print(f"note: {console.plain(note)}", style="yellow")
    out.print(f"report: {where}", soft_wrap=True)
