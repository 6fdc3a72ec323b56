"""Where a certification stands, told by its events."""

import time

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from robust import certification
from robust.console import duration

_PLAIN_INTERVAL = 5.0  # seconds between plain progress lines


class CertifyProgress:
    """What `console.follow` shows of a certification."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.total = self.earlier = 0
        self.rows: list[certification.Row] = []
        self.began = time.monotonic()

    def on(self, event: certification.Event) -> None:
        match event:
            case certification.Started():
                self.total, self.rows = event.total, list(event.rows)
                self.earlier = len(self.rows)
            case certification.SampleDone():
                self.rows.append(event.row)

    @property
    def left(self) -> float | None:
        """Seconds that the remaining samples will take at the pace so far."""
        done = len(self.rows) - self.earlier
        elapsed = time.monotonic() - self.began
        return elapsed / done * (self.total - len(self.rows)) if done else None

    def worth_a_line(self, event: certification.Event, since: float) -> bool:
        last = len(self.rows) == self.total
        return isinstance(event, certification.SampleDone) and (last or since >= _PLAIN_INTERVAL)

    def line(self) -> str:
        """One plain line."""
        parts = [f"{len(self.rows)}/{self.total} samples", self._figures]
        parts.append(duration(time.monotonic() - self.began))
        if self.left:
            parts.append(f"about {duration(self.left)} left")
        return "  ".join(part for part in parts if part)

    @property
    def _figures(self) -> str:
        if not self.rows:
            return ""
        right = [row for row in self.rows if row.prediction == row.label]
        mean = sum(row.radius for row in right) / len(self.rows)
        abstained = sum(row.prediction == certification.ABSTAIN for row in self.rows)
        return (
            f"right {len(right) / len(self.rows):.1%}, average radius {mean:.3f}, "
            f"abstained on {abstained}"
        )

    def __rich__(self) -> RenderableType:
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        left = f", about {duration(self.left)} left" if self.left else ""
        head.add_row(
            ProgressBar(total=max(1, self.total), completed=len(self.rows)),
            f"{len(self.rows)}/{self.total}  {duration(time.monotonic() - self.began)}{left}",
        )
        title = Text(self.title, style="bold", overflow="ellipsis")
        return Group(title, head, Text(self._figures))
