"""The report of a certification, from its stored rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robust.core.files import write_text
from robust.reports.certification import Certificates, render_certification

from .engine import Row
from .folder import CertifyFolder


def certificates(record: dict[str, Any], rows: Sequence[Row]) -> Certificates:
    """The figures of a run from its record and rows."""
    return Certificates(record, [vars(row) for row in rows])


def conclude(folder: CertifyFolder) -> Certificates:
    """Mark a run as done and write report.json and report.html from its rows."""
    folder.save(status="done")
    return write_report(folder.path)


def write_report(path: Path) -> Certificates:
    """Derive report.json and report.html of a certification anew."""
    folder = CertifyFolder.open(path)
    rows = folder.read()
    found = certificates({**folder.record, "damage": folder.damage}, rows)
    write_text(path / "report.json", json.dumps(found.to_json(), indent=1) + "\n")
    write_text(path / "report.html", render_certification(found))
    return found
