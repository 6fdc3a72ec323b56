"""The report of a tuning run, from its stored trials."""

import json
from pathlib import Path

from robust.core.files import write_text
from robust.reports.tuning import Trials, render_tuning

from .folder import read_run


def write_report(path: Path) -> Path:
    """Derive report.json and report.html of a tuning run from its study; the page's path."""
    record, rows = read_run(path)
    trials = Trials(record, [{**vars(row), "baseline": row.baseline} for row in rows])
    write_text(path / "report.json", json.dumps(trials.to_json(), indent=1) + "\n")
    write_text(path / "report.html", render_tuning(trials))
    return path / "report.html"
