"""What `robust report` does."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from robust import api, certification, leaderboards
from robust.certification.report import certificates as certificates_of
from robust.core.errors import RobustError
from robust.core.files import write_whole
from robust.reports import card, junit, markdown, samples, text
from robust.reports.certification import Certificates
from robust.reports.entry import Entry
from robust.reports.summary import Report
from robust.store import RunFolder

T = TypeVar("T")

_TEXTS: dict[str, Callable[[Report], str]] = {
    "markdown": markdown.of,
    "card": card.of,
    "junit": junit.of,
}


def write_reports(
    paths: Sequence[Path], *, out: Path | None, baseline: Path | None, rewrite: bool
) -> None:
    """`robust report`: the pages of runs, and of two attack runs or more a leaderboard."""
    skipped: list[str] = []

    def skip(path: Path, why: str) -> None:
        if len(paths) == 1:
            raise RobustError(why)
        skipped.append(why)
        click.echo(f"skipped: {why}", err=True)

    folders = leaderboards.find_runs(paths, skip)
    attacks = [folder for folder in folders if _kind(folder) == "attack"]
    base = _baseline(baseline, attacks)
    board = attacks if base is None or base in attacks else [base, *attacks]
    if len(board) < 2:
        _refuse_board(len(folders), out=out, baseline=baseline, rewrite=rewrite)
    if out is not None and out.suffix == ".json":
        raise RobustError(
            f"--out {out} names a page: the JSON file beside it gets its name as well"
        )
    page = out or leaderboards.place(board or folders)
    root = leaderboards.place(board or folders).parent

    certified = [folder for folder in folders if _kind(folder) == certification.KIND]
    proofs = dict(_each(certified, partial(_certificates, rewrite=rewrite), skip)).values()
    if rewrite:
        others = [folder for folder in folders if folder not in [*attacks, *certified]]
        for _ in _each(others, _write_other, skip):
            pass

    def entry(folder: RunFolder) -> Entry:
        proven = leaderboards.certified(folder, proofs)
        anew = rewrite and folder in attacks
        report = _write(folder, proven) if anew else leaderboards.read_report(folder)
        name, href = leaderboards.name_of(folder, root), leaderboards.link_to(folder, page)
        return Entry.of(report, name=name, href=href, certificates=proven)

    entries = dict(_each(board, entry, skip))
    if len(board) > 1:
        _write_board(entries, page, base, skipped)


def _each(
    folders: Iterable[RunFolder],
    make: Callable[[RunFolder], T],
    skip: Callable[[Path, str], object],
) -> Iterator[tuple[RunFolder, T]]:
    """Each run and what is made of it. One that cannot be read is skipped, and the rest goes on."""
    for folder in folders:
        try:
            made = make(folder)
        except RobustError as error:
            skip(folder.path, str(error))
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"{folder.path} cannot be read ({type(error).__name__}: {error})"
            skip(folder.path, why)
        else:
            yield folder, made


def _write_board(
    entries: Mapping[RunFolder, Entry], page: Path, base: RunFolder | None, skipped: list[str]
) -> None:
    if base is not None and base not in entries:
        raise RobustError(f"the baseline {base.path} cannot be read: there is no leaderboard")
    if not entries:
        raise RobustError("none of these runs can be read: there is no leaderboard")
    found = leaderboards.write_leaderboard(
        list(entries.values()),
        page,
        baseline=None if base is None else entries[base],
        skipped=skipped,
    )
    told = text.plural(found.n, "run")
    if len(found.groups) > 1:
        told += f" in {len(found.groups)} comparisons"
    elif (first := found.groups[0].first) is not None:
        told += f", first {first.entry.name} {first.entry.robust:.1%}"
        told += "".join(f" ({remark.short})" for remark in first.cautions)
    click.echo(f"{page}  {told}")


def write_as(path: Path, form: str, out: Path | None) -> None:
    """`robust report --format`: one attack run as text, to stdout or a file."""
    (folder,) = leaderboards.find_runs([path], lambda *_: None)
    if _kind(folder) != "attack":
        raise RobustError(
            f"--format {form} is for attack runs, and {path} is of robust {_kind(folder)}: its "
            "report is a page, robust report without --format"
        )
    lines = _lines(folder, form)
    if out is None:
        for line in lines:
            click.echo(line, nl=False)
        return

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, write)
    except OSError as error:
        raise RobustError(f"cannot write to {out}: {error.strerror or error}") from error


def _lines(folder: RunFolder, form: str) -> Iterable[str]:
    report = leaderboards.read_report(folder)
    if form != "csv":
        return [_TEXTS[form](report)]
    lines: Iterable[str] = samples.lines(report, folder.shards(pixels=False))  # there may be many
    return lines


def _kind(folder: RunFolder) -> str:
    return str(folder.record.get("kind", "attack"))


def _baseline(path: Path | None, attacks: Sequence[RunFolder]) -> RunFolder | None:
    """The run that others are measured against, which need not be among them."""
    if path is None:
        return None
    (found,) = leaderboards.find_runs([path], lambda *_: None)
    if _kind(found) != "attack":
        raise RobustError(f"--baseline takes an attack run, and {path} is of robust {_kind(found)}")
    same = [folder for folder in attacks if folder.path.resolve() == path.resolve()]
    return same[0] if same else found


def _refuse_board(runs: int, *, out: Path | None, baseline: Path | None, rewrite: bool) -> None:
    """Options of leaderboards do nothing without one."""
    given = {"--out": out, "--baseline": baseline, "--no-rewrite": None if rewrite else True}
    for name, value in given.items():
        if value is not None:
            told = "one run" if runs == 1 else "fewer than two attack runs"
            raise RobustError(f"{name} is for a leaderboard, and there is none of {told}")


def _certificates(folder: RunFolder, rewrite: bool) -> Certificates:
    """Those of a certification, whose page is written anew besides."""
    if rewrite:
        return _write_certification(folder.path)
    opened = certification.CertifyFolder.open(folder.path)
    return certificates_of(opened.record, opened.read())


def _write_certification(path: Path) -> Certificates:
    found = certification.write_report(path)
    click.echo(
        f"{path / 'report.html'}  average certified radius {found.average_radius:.3f}"
        f"  n = {found.n}"
    )
    return found


def _write_other(folder: RunFolder) -> None:
    """The page of a training or tuning."""
    if _kind(folder) == "train":
        click.echo(api.write_training_report(folder.path))
    elif _kind(folder) == "tune":
        from robust.tuning import write_report  # Optuna takes a second to import

        click.echo(write_report(folder.path))
    else:
        raise RobustError(
            f"{folder.path} is of robust {_kind(folder)}, which this version knows no report of"
        )


def _write(folder: RunFolder, proven: Certificates | None) -> Report:
    report = api.write_report(folder, proven)
    told = "nothing was measured"
    if report.n:
        low, high = report.robust_accuracy_ci
        of = "" if report.complete else f" of {report.n_expected}"
        told = (
            f"clean {report.clean_accuracy:.1%}  robust {report.robust_accuracy:.1%} ({low:.1%} to "
            f"{high:.1%})  n = {report.n}{of}"
        )
    if report.verdict is not None:
        told += f"  {report.verdict.status}"
    click.echo(f"{folder.path / 'report.html'}  {told}")
    for one in report.damaged:
        click.echo(
            f"robust: {folder.path / one['file']}: {one['why']}; repeat the run with --resume, and "
            "it is made again",
            err=True,
        )
    return report
