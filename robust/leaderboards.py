"""Runs on disk → a leaderboard: which folders are runs, what is certified of whom, two files."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from robust.reports.bracket import Bracket
from robust.reports.certification import Certificates
from robust.reports.entry import Entry
from robust.reports.leaderboard import Leaderboard
from robust.reports.leaderboard_page import render_leaderboard, to_json
from robust.reports.summary import Report

from . import api
from .core.errors import RobustError
from .core.files import write_text
from .store import RunFolder

NAME = "leaderboard.html"


def find_runs(paths: Sequence[Path], skip: Callable[[Path, str], object]) -> list[RunFolder]:
    """The runs in these folders, each once.

    Where there are several paths, as a glob gives them, what is no run is skipped: skip(path, why)
    is called of each folder that holds none this version can read, and files are passed over.
    RobustError for a path that is not there, for a single one that is no run, and where none is.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        if not path.exists():
            raise RobustError(f"{path} does not exist")
        if path.is_file() and len(paths) > 1:
            continue
        try:
            found.setdefault(path.resolve(), RunFolder.open(path))
        except RobustError as error:
            if len(paths) == 1:
                raise RobustError(_hint(path, str(error))) from error
            skip(path, str(error))
    if not found:
        raise RobustError("none of these folders holds a run")
    return list(found.values())


def _hint(path: Path, why: str) -> str:
    """A folder of runs is easily taken for one."""
    if path.is_dir() and next(path.glob("*/run.json"), None) is not None:
        return f"{path} holds several runs: name them, as in robust report {path}/*"
    return why


def read_report(folder: RunFolder) -> Report:
    """The figures of an attack run; no pictures are read, so that it has no examples."""
    return api.report_of(folder.record, folder, folder.shards(pixels=False))


def certified(folder: RunFolder, certificates: Iterable[Certificates]) -> Certificates | None:
    """Which of these certificates say something of what that attack run attacked: of the same
    weights and samples, in the norm of its threat; rather of the very same smoothed classifier,
    then of most samples, then the newest. None where none does.
    """
    sha256 = folder.record["spec"]["model"].get("sha256")
    of_it = [one for one in certificates if sha256 and one.spec["model"].get("sha256") == sha256]
    if not of_it or folder.record["spec"]["threat"]["norm"] != "l2":
        return None
    report = read_report(folder)
    fitting = [(Bracket(report, one), one) for one in of_it]
    return max(
        (pair for pair in fitting if not pair[0].why),
        key=lambda pair: (pair[0].same, pair[0].n, str(pair[1].record.get("created"))),
        default=(None, None),
    )[1]


def place(folders: Sequence[RunFolder]) -> Path:
    """Where their leaderboard goes, if nobody says so: in the folder that holds them all."""
    parents = [str(folder.path.resolve().parent) for folder in folders]
    try:
        return Path(os.path.commonpath(parents)) / NAME
    except ValueError as error:
        raise RobustError("these runs lie on different drives: add --out FILE") from error


def name_of(folder: RunFolder, root: Path) -> str:
    """Its path below the folder that holds all runs: a name that no other one has."""
    return _relative(folder.path, root)


def link_to(folder: RunFolder, page: Path) -> str | None:
    """The address of a run's report, seen from the page; None where it has none yet."""
    report = folder.path / "report.html"
    if not report.exists():
        return None
    # Quoted, so that neither a colon nor a quote in a name of a folder is more than that.
    return quote(_relative(report, page.parent), safe="/")


def _relative(path: Path, start: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return path.resolve().as_posix()


def write_leaderboard(
    entries: Sequence[Entry],
    page: Path,
    *,
    baseline: Entry | None = None,
    skipped: Sequence[str] = (),
) -> Leaderboard:
    """Write the leaderboard of these runs to `page`, and its figures to a JSON file beside it."""
    board = Leaderboard(entries, baseline)
    figures = json.dumps(to_json(board, skipped), indent=1) + "\n"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page.with_suffix(".json"), figures)
        write_text(page, render_leaderboard(board))
    except OSError as error:
        raise RobustError(f"cannot write to {page}: {error.strerror or error}") from error
    return board
