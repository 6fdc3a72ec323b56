"""Gates of `robust attack`: --fail-under and --fail-if-worse-than; --junit tells of them."""

from pathlib import Path
from typing import Any

import click

from robust.core.errors import RobustError
from robust.core.files import write_text
from robust.core.outcome import RunSpec
from robust.reports import junit
from robust.reports.diff import Difference, conflicts
from robust.reports.gates import Gate, fail_if_worse_than, fail_under
from robust.reports.summary import Report

from .diff import figures_of


class Gating:
    """What must hold of a run, checked before it as far as that can be.

    options     fail_under, fail_if_worse_than, junit and quiet count
    out         the folder of the run to come; spec: what it asks

    Raises RobustError for a base that the run cannot be compared with, and for a --junit file that
    cannot be written.
    """

    def __init__(self, options: dict[str, Any], out: Path, spec: RunSpec) -> None:
        self._under: float | None = options["fail_under"]
        self._junit: Path | None = options["junit"]
        self._quiet: bool = options["quiet"]
        self._path: Path | None = options["fail_if_worse_than"]
        self._base: Report | None = None
        if self._path is not None:
            self._base = _base(self._path, out, spec)
        if self._junit is not None and not self._junit.absolute().parent.is_dir():
            raise RobustError(f"--junit {self._junit}: there is no folder {self._junit.parent}")

    def exit_code(self, report: Report) -> int:
        """1 if a gate does not hold, 0 else; a line on stderr for each, and one for each reason why
        that may not mean what it seems to.
        """
        gates = list[Gate]()
        if self._under is not None:
            gates.append(fail_under(report, self._under))
        if self._base is not None:
            difference = Difference(self._base, report)
            gates.append(fail_if_worse_than(difference, str(self._path)))
        if self._junit is not None:
            try:
                write_text(self._junit, junit.of(report, gates))
            except OSError as error:
                raise RobustError(f"cannot write {self._junit}: {error.strerror}") from error
        failed = [gate for gate in gates if not gate.passed]
        if not self._quiet:
            for gate in gates:
                click.echo(f"robust: {gate.told}", err=True)
            for caution in dict.fromkeys(caution for gate in gates for caution in gate.cautions):
                click.echo(f"robust: caution: {caution}", err=True)
        return 1 if failed else 0


def _base(path: Path, out: Path, spec: RunSpec) -> Report:
    if path.resolve() == out.resolve():
        raise RobustError(f"--fail-if-worse-than {path} is the run itself")
    base = figures_of(path)
    found = conflicts(base.spec, spec.to_dict())
    if not base.tallies:
        found = ["No attack ran there."]
    if found:
        raise RobustError(f"--fail-if-worse-than {path} cannot be compared. {' '.join(found)}")
    return base
