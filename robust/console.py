"""Events → what people see: a live display in a terminal, plain lines elsewhere.

Progress goes to stderr; results go to stdout.
"""

import itertools
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from . import diagnosis, training
from . import evaluation as engine
from .core.outcome import Shard
from .core.victim import Ledger

_PLAIN_INTERVAL = 5.0  # seconds between plain progress lines
_SILENCE = 10.0  # seconds after which what happens within a shard gets a line, too


def duration(seconds: float) -> str:
    """4.2 s, 1 min 20 s, 3 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain(note: str) -> str:
    """A note of a report, its shares written as all others on the console: "95.0%"."""
    return note.replace("\u202f%", "%")


def folded(label: str, width: int = 30) -> str:
    """An attack's label on lines of about that width, broken between parameters."""
    lines = textwrap.wrap(label.replace(",", ", "), width, break_long_words=False)
    return "\n".join(line.replace(", ", ",") for line in lines)


@dataclass
class _Tally:
    given: int = 0
    broken: int = 0
    seconds: float = 0.0


class AttackProgress:
    """Where an attack run stands, told by its events."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.total = self.measured = self.earlier = 0
        self.correct = self.robust = 0.0
        self.tallies: dict[str, _Tally] = {}
        self.running: tuple[str, int, Ledger] | None = None
        self.happened = ""  # within the shard that is not measured yet
        self.probing = ""  # what the diagnosis is at
        self.began = time.monotonic()

    def on(self, event: engine.Event | diagnosis.Event) -> None:
        match event:
            case engine.Started():
                self.total, self.earlier = event.total, event.done
                self.tallies = {name: _Tally() for name in event.attacks}
            case engine.AttackStarted():
                self.running = (event.attack, event.given, event.ledger)
                self.happened = f"{event.attack} begins on {_samples(event.given)}"
            case engine.AttackDone():
                self.running = None
                self.happened = (
                    f"{event.attack} broke {event.broken} of {_samples(event.given)} "
                    f"in {duration(event.seconds)}"
                )
                if event.attack in self.tallies:
                    tally = self.tallies[event.attack]
                    tally.given += event.given
                    tally.broken += event.broken
                    tally.seconds += event.seconds
            case engine.ShardDone():
                self._count(event.shard)
                self.happened = ""
            case diagnosis.ProbeStarted():
                self.probing = (
                    f"diagnosis {event.number}/{event.total} on {_samples(event.samples)}: "
                    f"{event.probe}"
                )
                self.happened = self.probing
            case diagnosis.ProbeDone():
                self.happened = f"diagnosis: {event.probe} took {duration(event.seconds)}"

    def _count(self, shard: Shard) -> None:
        self.measured += len(shard)
        self.correct += float(shard.withstood([]).sum())
        self.robust += float(shard.withstood(shard.attacks).sum())

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds that the remaining samples will take at the pace so far."""
        if not self.measured:
            return None
        missing = self.total - self.earlier - self.measured
        return self.elapsed / self.measured * missing

    @property
    def _since(self) -> str:
        """What figures cover: a resumed run tells those of its new samples only."""
        return "new samples: " if self.earlier else "so far: "

    def worth_a_line(self, event: engine.Event | diagnosis.Event, since: float) -> bool:
        """Whether a log that last had a line `since` seconds ago should get one now."""
        last = self.earlier + self.measured == self.total
        if isinstance(event, engine.ShardDone):
            return last or since >= _PLAIN_INTERVAL
        steps = engine.AttackStarted | engine.AttackDone | diagnosis.ProbeStarted
        within = isinstance(event, steps)
        return within and since >= _SILENCE

    def line(self) -> str:
        """One plain line."""
        parts = [f"{self.earlier + self.measured}/{self.total} samples"]
        if self.measured:
            parts += [
                f"{self._since}clean {self.correct / self.measured:.1%}",
                f"robust {self.robust / self.measured:.1%}",
            ]
        if self.happened:
            parts.append(self.happened)
        parts.append(duration(self.elapsed))
        if self.left:
            parts.append(f"about {duration(self.left)} left")
        return "  ".join(parts)

    def __rich__(self) -> RenderableType:
        done = self.earlier + self.measured
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        left = f", about {duration(self.left)} left" if self.left else ""
        head.add_row(
            ProgressBar(total=max(1, self.total), completed=done),
            f"{done}/{self.total}  {duration(self.elapsed)}{left}",
        )
        parts: list[RenderableType] = [Text(self.title, style="bold", overflow="ellipsis"), head]
        if self.measured:
            parts.append(
                Text(
                    f"{self._since}clean {self.correct / self.measured:.1%}, "
                    f"robust {self.robust / self.measured:.1%} of {self.measured}"
                )
            )
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("attack", overflow="fold")
        for name in ("given", "broken", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, tally in self.tallies.items():
            table.add_row(name, str(tally.given), str(tally.broken), duration(tally.seconds))
        parts.append(table)
        if self.probing:
            parts.append(Text(self.probing, style="dim"))
        elif self.running:
            name, given, ledger = self.running
            # What asks for no gradient is told by what it pays for; surrogates are paid nothing.
            asks = bool(ledger.queries.any()) and not bool(ledger.backwards.any())
            spent = int((ledger.queries if asks else ledger.forwards).sum()) / max(1, given)
            unit = "queries" if asks else "forwards"
            parts.append(Text(f"{name} on {given} samples: {spent:,.0f} {unit} each", style="dim"))
        return Group(*parts)


def _samples(count: int) -> str:
    return f"{count} sample{'s' * (count != 1)}"


class TrainProgress:
    """Where a training run stands, told by its events."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.epochs = self.earlier = 0
        self.rows: list[dict[str, Any]] = []
        self.alarms: list[str] = []
        self.step, self.steps = 0, 1
        self.began = time.monotonic()

    def on(self, event: training.Event) -> None:
        match event:
            case training.TrainStarted():
                self.epochs, self.earlier = event.spec.epochs, len(event.rows)
                self.rows = list(event.rows)
            case training.Progress():
                self.step, self.steps = event.step, event.steps
            case training.EpochDone():
                self.rows.append(event.row)
                self.step = 0
            case training.Alarm():
                self.alarms.append(event.text)

    @property
    def left(self) -> float | None:
        """Seconds that the remaining epochs will take at the pace so far."""
        done = len(self.rows) - self.earlier + self.step / self.steps
        missing = self.epochs - len(self.rows) - self.step / self.steps
        return (time.monotonic() - self.began) / done * missing if done else None

    def worth_a_line(self, event: training.Event, since: float) -> bool:
        """Every epoch gets a line, and every alarm."""
        return isinstance(event, training.EpochDone | training.Alarm)

    def line(self) -> str:
        """One plain line."""
        if self.alarms:
            return f"warning: {self.alarms.pop()}"
        row = self.rows[-1]
        left = f"  about {duration(self.left)} left" if self.left else ""
        return f"epoch {row['epoch']}/{self.epochs}  {_figures(row)}{left}"

    def __rich__(self) -> RenderableType:
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        left = f", about {duration(self.left)} left" if self.left else ""
        elapsed = duration(time.monotonic() - self.began)
        completed = len(self.rows) + self.step / self.steps
        head.add_row(
            ProgressBar(total=max(1, self.epochs), completed=completed),
            f"{len(self.rows)}/{self.epochs} epochs  {elapsed}{left}",
        )
        parts: list[RenderableType] = [Text(self.title, style="bold", overflow="ellipsis"), head]
        parts += [Text(f"epoch {row['epoch']:3d}  {_figures(row)}") for row in self.rows[-5:]]
        parts += [Text(f"warning: {text}", style="yellow") for text in self.alarms[-2:]]
        return Group(*parts)


def _figures(row: dict[str, Any]) -> str:
    if "val_jaccard" in row:
        return (
            f"loss {row['train_loss']:.3f}  validation Jaccard: clean {row['val_jaccard']:.1%}, "
            f"robust {row['val_robust_jaccard']:.1%}; Hamming: {row['val_hamming']:.1%}, "
            f"{row['val_robust_hamming']:.1%}"
        )
    return (
        f"loss {row['train_loss']:.3f}  validation: clean {row['val_accuracy']:.1%}, "
        f"robust {row['val_robust_accuracy']:.1%}"
    )


@contextmanager
def showing(progress: Any, *, quiet: bool) -> Iterator[None]:
    """Keep `progress` on the screen while the body feeds it; nothing where `quiet`."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with Live(progress, console=console, refresh_per_second=4, transient=True):
        yield


def follow(events: Iterable[Any], progress: Any, *, quiet: bool) -> Iterator[Any]:
    """Pass events on, shown by `progress` (its `on`, `line` and `__rich__`) on the way.

    Nothing is shown before the first event: bad input is told without a word before it.
    """
    events = iter(events)
    first = list(itertools.islice(events, 1))
    plain = not quiet and not Console(stderr=True).is_terminal
    if plain and first:
        print(progress.title, file=sys.stderr, flush=True)
    told = time.monotonic()
    with showing(progress, quiet=quiet):
        for event in itertools.chain(first, events):
            progress.on(event)
            if plain and progress.worth_a_line(event, time.monotonic() - told):
                print(progress.line(), file=sys.stderr, flush=True)
                told = time.monotonic()
            yield event


class _Results(Console):
    """What is told on stdout at the end. A terminal has lines of its width; a log keeps each thing
    that is said on one line, to be searched.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False)

    def say(self, words: str | Text, *, style: str | None = None, wrap: bool = True) -> None:
        """One line; `wrap` says whether a terminal may break it."""
        self.print(words, style=style, soft_wrap=not (wrap and self.is_terminal))


def training_results(
    done: training.TrainDone, out: str, report: str, following: str, note: str | None = None
) -> None:
    """What a finished training run has made, on stdout, what is to be said of it, and the command
    that comes next."""
    console = _Results()
    row = done.row
    early = ", stopped early" if done.stopped_early else ""
    sets = "val_jaccard" in row
    if sets:
        figures = (
            f"validation Jaccard index {row['val_jaccard']:.1%}, robust "
            f"{row['val_robust_jaccard']:.1%}; Hamming loss {row['val_hamming']:.1%}, robust "
            f"{row['val_robust_hamming']:.1%}; whole sets right {row['val_accuracy']:.1%}, robust "
            f"{row['val_robust_accuracy']:.1%}"
        )
    else:
        figures = (
            f"validation accuracy {row['val_accuracy']:.1%}, robust "
            f"{row['val_robust_accuracy']:.1%}"
        )
    console.say(
        f"{done.epochs} epochs in {duration(done.seconds)}{early}; best is epoch {row['epoch']}: "
        + figures
    )
    if note:
        console.say(f"note: {plain(note)}", style="bold yellow")
    console.say(f"model: {out}", wrap=False)
    console.say(f"report: {report}", wrap=False)
    if not sets:
        console.say(f"next: {following}", wrap=False)


def attack_results(report: Any, where: str | None) -> None:
    """The figures of a finished attack run, on stdout."""
    console = _Results()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("attack", overflow="fold")
    oracle = report.oracle
    spending = "queries of a success (mean / median)" if oracle else "f / b per sample"
    for name in ("given", "broken", "robust", spending, "time"):
        table.add_column(name, justify="right", no_wrap=name != spending)
    for attack in report.attacks:
        spent = "–"
        if oracle and attack["successes"]:
            spent = f"{attack['queries_mean']:,.0f} / {attack['queries_median']:,.0f}"
        elif attack["given"] and not oracle:
            spent = f"{attack['forwards_per_sample']:.0f} / {attack['backwards_per_sample']:.0f}"
        table.add_row(
            folded(attack["label"]),
            str(attack["given"]),
            str(attack["successes"]),
            f"{attack['robust_accuracy']:.1%}",
            spent,
            duration(attack["seconds"]),
        )
    console.print(table)
    low, high = report.robust_accuracy_ci
    draws = f", means over {report.spec['checks']} draws" if report.random else ""
    console.say(
        Text.assemble(
            f"clean accuracy {report.clean_accuracy:.1%}, ",
            (f"robust accuracy {report.robust_accuracy:.1%}", "bold"),
            f" (95% interval {low:.1%} to {high:.1%}), n = {report.n}{draws}",
        )
    )
    if report.naive_accuracy is not None:
        low, high = report.naive_accuracy_ci
        console.say(
            f"naive accuracy {report.naive_accuracy:.1%} (95% interval {low:.1%} to {high:.1%}): "
            "what attacks leave that know of no defense"
        )
    if oracle:
        known = f" ({oracle['repeated']:,} answers were known)" if oracle["repeated"] else ""
        price = f", {report.priced}" if report.priced else ""
        console.say(f"asked the model {oracle['asked']:,} times in all{known}{price}")
    _verdict(console, report.verdict)
    for note in report.notes:
        style = "bold yellow" if note == report.false_security_words else "yellow"
        console.say(f"note: {plain(note)}", style=style)
    if where:
        console.say(f"report: {where}", wrap=False)


_STYLES = {"trustworthy": "green", "doubtful": "bold yellow", "broken": "bold red"}


def _verdict(console: _Results, verdict: Any) -> None:
    """Whether the figures can be trusted, with the gravest reasons if not."""
    if verdict is None:
        return
    masked = "; the model masks its gradients" if verdict.masked else ""
    console.say(f"verdict: {verdict.status}{masked}", style=_STYLES[verdict.status])
    if verdict.status != "trustworthy":
        reasons = [plain(reason) for reason in verdict.reasons[:3]]
        if len(verdict.reasons) > 3:
            reasons.append(f"and {len(verdict.reasons) - 3} more, in the report")
        if not console.is_terminal:
            for reason in reasons:
                console.say(f"  - {reason}")
            return
        listed = Table.grid(padding=(0, 1, 0, 0))
        for reason in reasons:
            listed.add_row("  -", reason)
        console.print(listed)
