"""Where a tuning run stands, told by its events."""

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from robust import tuning
from robust.console import duration

_SHOWN = 8  # trials in the live display


class TuneProgress:
    """What `console.follow` shows of a tuning run."""

    def __init__(self, title: str, objective: str) -> None:
        self.title, self.objective = title, objective
        self.trials = self.earlier = 0
        self.rows: list[tuning.Row] = []
        self.running: tuning.TrialProgress | None = None
        self.began = time.monotonic()

    def on(self, event: tuning.Event) -> None:
        match event:
            case tuning.TuneStarted():
                self.trials, self.rows = event.trials, list(event.rows)
                self.earlier = len(event.rows)
            case tuning.TrialStarted():
                self.running = tuning.TrialProgress(event.number, 0.0)
            case tuning.TrialProgress():
                self.running = event
            case tuning.TrialDone():
                self.rows.append(event.row)
                self.running = None

    @property
    def best(self) -> tuning.Row | None:
        return tuning.best_of(self.rows)

    @property
    def left(self) -> float | None:
        """Seconds that the remaining trials will take at the pace so far."""
        done = len(self.rows) - self.earlier
        missing = self.trials - len(self.rows)
        return (time.monotonic() - self.began) / done * missing if done else None

    def worth_a_line(self, event: tuning.Event, since: float) -> bool:
        """Every trial gets a line."""
        return isinstance(event, tuning.TrialDone)

    def line(self) -> str:
        """One plain line."""
        left = f"  about {duration(self.left)} left" if self.left else ""
        return f"trial {len(self.rows)}/{self.trials}  {self._row(self.rows[-1])}{left}"

    def _row(self, row: tuning.Row) -> str:
        best = self.best
        star = "  best so far" if best is not None and best.number == row.number else ""
        return f"{_values(row)}  {_figures(row)}{star}"

    def __rich__(self) -> RenderableType:
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        left = f", about {duration(self.left)} left" if self.left else ""
        elapsed = duration(time.monotonic() - self.began)
        part = self.running.part if self.running else 0.0
        head.add_row(
            ProgressBar(total=max(1, self.trials), completed=len(self.rows) + part),
            f"{len(self.rows)}/{self.trials} trials  {elapsed}{left}",
        )
        parts: list[RenderableType] = [Text(self.title, style="bold", overflow="ellipsis"), head]
        best = self.best
        shown = self.rows[-_SHOWN:]
        if best is not None and best not in shown:
            shown = [best, *shown[1:]]
        for row in shown:
            style = "bold" if row == best else "yellow" if row.state == "failed" else "none"
            parts.append(Text(f"{row.number:4d}  {self._row(row)}", style=style))
        if self.running is not None:
            now = self.running
            far = f"{now.part:.0%}"
            if now.clean is not None and now.robust is not None:
                far += f"  clean {now.clean:.1%}, robust {now.robust:.1%}"
            parts.append(Text(f"{now.number:4d}  {far}", style="dim"))
        return Group(*parts)


def _values(row: tuning.Row) -> str:
    if row.baseline:
        return "without tuning"
    return " ".join(f"{name}={_short(value)}" for name, value in row.values.items())


def _figures(row: tuning.Row) -> str:
    if row.state == "failed":
        return f"failed: {row.error}"
    told = f"clean {row.clean:.1%}, robust {row.robust:.1%}"
    return f"given up at {told}" if row.state == "pruned" else told


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
