"""What `robust report` does."""

from collections.abc import Sequence
from pathlib import Path

import click

from robust import api, certification
from robust.store import RunFolder


def rewrite_reports(runs: Sequence[Path]) -> None:
    """`robust report`."""
    for path in runs:
        folder = RunFolder.open(path)
        if folder.record["kind"] == "train":
            click.echo(api.write_training_report(path))
            continue
        if folder.record["kind"] == "tune":
            from robust.tuning import write_report  # Optuna takes a second to import

            click.echo(write_report(path))
            continue
        if folder.record["kind"] == certification.KIND:
            certified = certification.write_report(path)
            click.echo(
                f"{path / 'report.html'}  average certified radius {certified.average_radius:.3f}"
                f"  n = {certified.n}"
            )
            continue
        report = api.write_report(folder)
        low, high = report.robust_accuracy_ci
        click.echo(
            f"{path / 'report.html'}  clean {report.clean_accuracy:.1%}  robust "
            f"{report.robust_accuracy:.1%} ({low:.1%} to {high:.1%})  n = {report.n}"
        )
