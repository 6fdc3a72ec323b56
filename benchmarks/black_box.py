"""Query attacks beside foolbox's, ART's and torchattacks', in one run: what their answers cost.

    python benchmarks/black_box.py --bench PATH [--table queries robust l2] [--quick]
        [--attack A …] [--peer P …] [--n 300] [--peer-n 50] [--limit 2000] [--threads 1]

PATH holds models/*.pt, data/*.npz, archs.py and reference.json (the benchmark's own layout). Only
samples that the model predicts correctly are attacked, untargeted.

queries   mnist_natural, L∞ 0.3: the successes within --limit queries a sample, and the queries up
          to the first point inside eps that the model answered wrongly, over the successes. Peers
          are run on the first --peer-n samples; ours are shown for these, too
robust    cifar_cnn_a_adv, L∞ 8/255, 5,000 queries: robust accuracy, in percent of all samples, and
          the rows that reached the model, for Square here and in torchattacks
l2        the median distance of the nearest wrong answer after a quarter, a half and all of --limit
          queries, attacks by labels; a sample without one counts as infinitely far

A query is a row that reaches the model, entered for its sample, whoever asks: checks, starts and
rows asked in vain included. As in `robust attack`, our searches along the boundary may start at
other samples of the data, where noise does not lead to the other side. calls are those of the
model, each with a batch of rows. Peers of foolbox and ART run as `foolbox:NAME` and `art:NAME` do
in the CLI; a row of theirs in a call of another size than the batch is entered for the nearest
sample. torchattacks' Square gets the samples of table `queries` one at a time, so that its rows are
known apart, those of `robust` all together.
Seconds are divided by those of the first attack of the table, for as many samples, in this run. A
peer that fails is shown with its error, one that is not installed likewise.
"""

import argparse
import contextlib
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robust.core.goal import Goal
from robust.core.progress import Progress
from robust.core.rng import generator
from robust.core.threat import Linf, Threat
from robust.core.victim import Access, BudgetSpent, Pool, Victim
from robust.peers.oracle import Oracle
from robust.peers.shield import quiet
from robust.registry import names, parse_attack

PEERS = {
    "queries": (
        "torchattacks:Square",
        "art:SquareAttack,max_iter=100000",
        "art:HopSkipJump",
        "foolbox:HopSkipJumpAttack",
    ),
    "robust": ("torchattacks:Square",),
    "l2": ("foolbox:HopSkipJumpAttack", "foolbox:BoundaryAttack", "art:HopSkipJump"),
}
_ROUNDING = 1e-5  # of eps: peers compute x ± eps in float32, and end outside by a hair
# Attacks of --table robust; each runs to the end of 5,000 queries on what it cannot break.
ROBUST = ("square", "guided-square")


class Counted(nn.Module):
    """A network that counts how often it is called, and with how many rows."""

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net, self.mean, self.std = net, mean, std
        self.calls = self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits


@dataclass
class Task:
    """Samples, all of a class that the model predicts, and what may be done to them."""

    model: Counted
    x: Tensor
    y: Tensor
    threat: Threat

    def first(self, n: int) -> "Task":
        return Task(self.model, self.x[:n], self.y[:n], self.threat)


@dataclass
class Run:
    """What an attack did: the improvements of its answers, and what it took."""

    progress: Progress
    calls: int
    rows: int
    seconds: float

    def spent(self, n: int, limit: int) -> Tensor:
        """Queries up to the first success inside eps of the first n samples; −1: none in time."""
        first = torch.full((len(self.progress.x),), -1, dtype=torch.int64)
        trace, eps = self.progress.trace, self.progress.threat.eps
        columns = trace.rows.tolist(), trace.queries.tolist(), trace.distance.tolist()
        for row, queries, distance in zip(*columns, strict=True):
            if distance <= eps and first[row] < 0 and queries <= limit:
                first[row] = queries
        return first[:n]

    def nearest(self, queries: int) -> Tensor:
        """Each sample's distance after so many queries, ∞ where none was found."""
        found = torch.full((len(self.progress.x),), float("inf"), dtype=torch.float64)
        trace = self.progress.trace
        early = trace.queries <= queries
        return found.scatter_reduce(0, trace.rows[early], trace.distance[early], "amin")


def load(bench: Path, name: str, n: int | None = None) -> tuple[Counted, Tensor, Tensor]:
    """The model, and its first n samples (as many as the reference has), right or wrong."""
    spec = importlib.util.spec_from_file_location("archs", bench / "archs.py")
    assert spec is not None
    assert spec.loader is not None
    archs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(archs)
    facts = json.loads((bench / "reference.json").read_text())["models"][name]
    net = getattr(archs, facts["arch"])()
    net.load_state_dict(
        torch.load(bench / f"models/{name}.pt", map_location="cpu", weights_only=True)
    )
    mean, std = (torch.tensor(facts[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    model = Counted(net.requires_grad_(False), mean, std).eval()
    data = np.load(bench / "data" / facts["data"])
    n = facts["n"] if n is None else n
    return model, torch.from_numpy(data["x"][:n]).float() / 255, torch.from_numpy(data["y"][:n])


def task(bench: Path, name: str, threat: Threat, n: int | None = None) -> tuple[Task, int]:
    """The correctly classified of the first n samples, and how many n is."""
    model, x, y = load(bench, name, n)
    with torch.no_grad():
        right = model(x).argmax(1) == y
    return Task(model, x[right], y[right].long(), threat), len(x)


def run(text: str, given: Task, limit: int, *, alone: bool = False) -> Run:
    """One attack within so many queries a sample; torchattacks gets the samples `alone` or not."""
    model, x, y, threat = given.model, given.x, given.y, given.threat
    model.calls = model.rows = 0
    progress = Progress(x, Goal(y), replace(threat, eps=threat.eps * (1 + _ROUNDING)))
    began = time.perf_counter()
    if text.startswith("torchattacks:"):
        parts = torch.arange(len(x)).split(1 if alone else max(1, len(x)))
        whole = victim(given, Access.SCORES, limit, progress)
        for rows in parts:
            torchattacks_square(whole[rows], x[rows], y[rows], threat, limit)
    else:
        attack = parse_attack(text)
        if "queries" in attack.params and "queries=" not in text:
            attack = parse_attack(f"{text},queries={limit}")
        attack.check(threat, shape=x.shape[1:])
        with torch.no_grad():
            attack.search(
                victim(given, attack.access, limit, progress), x, Goal(y), threat, generator(0)
            )
    return Run(progress, model.calls, model.rows, time.perf_counter() - began)


def victim(given: Task, access: Access, limit: int, progress: Progress) -> Victim:
    n = len(given.x)
    return Victim(
        given.model,
        n,
        access,
        budget=torch.full((n,), limit),
        pool=Pool(given.x, given.y),
        progress=progress,
    )


def torchattacks_square(asked: Victim, x: Tensor, y: Tensor, threat: Threat, limit: int) -> None:
    import torchattacks as ta

    oracle = Oracle(asked, x, threat, x, 0)
    with quiet(), contextlib.suppress(BudgetSpent):  # it may ask once more about its last point
        ta.Square(oracle, norm="Linf", eps=threat.eps, n_queries=limit, seed=0)(x, y)


def default_attacks(norm: str, most: Access) -> list[str]:
    """Ours that spend queries, ask no more of the model than that, and answer the norm."""
    found = []
    for name in names("attacks"):
        attack = parse_attack(name)
        if "queries" in attack.params and attack.access <= most and norm in attack.norms:
            found.append(name)
    return sorted(found, key=lambda name: (name != "square", parse_attack(name).access, name))


class Table:
    """Lines of one table; seconds are over those of its first line."""

    def __init__(self, title: str, head: str) -> None:
        print(
            f"\n{title}\n{'attack':34}{'n':>5}{head}{'calls':>10}{'rows':>10}{'s':>9}{'ratio':>8}"
        )
        self._base: float | None = None

    def attempt(self, text: str, go: Callable[[], Run], shown: Callable[[Run], list[str]]) -> None:
        """Run one attack and print its lines, or what it failed with."""
        try:
            done = go()
        except Exception as error:  # a peer may fail in any way, or not be there
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"{text:34}{'':5} failed: {reason[:60]}", flush=True)
            return
        n = len(done.progress.x)
        each = done.seconds / max(1, n)
        self._base = each if self._base is None else self._base
        for number, line in enumerate(shown(done)):
            cost = f"{done.calls:10}{done.rows:10}{done.seconds:9.1f}{each / self._base:8.2f}"
            print(f"{text:34}{line}{'' if number else cost}", flush=True)


def within(done: Run, n: int, limit: int) -> str:
    """Success and queries of the first n samples."""
    spent = done.spent(n, limit)
    hit = spent[spent >= 0].double()
    figures = f"{n:5}{len(hit) / max(1, n):9.3f}"
    if not len(hit):
        return figures + " " * 27
    points = torch.quantile(hit, torch.tensor([0.5, 0.9], dtype=hit.dtype))
    return figures + f"{hit.mean():9.1f}{points[0]:9.0f}{points[1]:9.0f}"


def queries_table(options: argparse.Namespace) -> None:
    given, _ = task(options.bench, "mnist_natural", Linf(0.3), options.n)
    few, limit = min(options.peer_n, len(given.x)), options.limit
    table = Table(
        f"mnist_natural, linf 0.3, {limit} queries",
        f"{'success':>9}{'mean':>9}{'median':>9}{'90 %':>9}",
    )
    for text in options.attack or default_attacks("linf", Access.SCORES):
        table.attempt(
            text,
            lambda text=text: run(text, given, limit),
            lambda done: [within(done, n, limit) for n in dict.fromkeys((len(given.x), few))],
        )
    for text in PEERS["queries"] if options.peer is None else options.peer:
        table.attempt(
            text,
            lambda text=text: run(text, given.first(few), limit, alone=True),
            lambda done: [within(done, few, limit)],
        )


def robust_table(options: argparse.Namespace) -> None:
    limit = 500 if options.quick else 5000
    given, total = task(
        options.bench, "cifar_cnn_a_adv", Linf(8 / 255), 40 if options.quick else None
    )
    table = Table(f"cifar_cnn_a_adv, linf 8/255, {limit} queries", f"{'robust':>9}")

    def line(done: Run) -> list[str]:
        left = int((done.progress.distance > done.progress.threat.eps).sum())
        return [f"{total:5}{100 * left / total:9.1f}"]

    for text in (*(options.attack or ROBUST), *(options.peer or PEERS["robust"])):
        table.attempt(text, lambda text=text: run(text, given, limit), line)


def l2_table(options: argparse.Namespace) -> None:
    marks = [options.limit // 4, options.limit // 2, options.limit]
    for name in ("mnist_natural", "cifar_cnn_a_adv"):
        # No point is inside this eps: a search that would end there goes on.
        given, _ = task(options.bench, name, Threat("l2", 1e-9), options.n)
        given = given.first(options.peer_n)
        table = Table(f"{name}, l2, median distance", "".join(f"{f'at {m}':>9}" for m in marks))

        def line(done: Run) -> list[str]:
            found = "".join(f"{done.nearest(m).median():9.3f}" for m in marks)
            return [f"{len(done.progress.x):5}{found}"]

        ours = options.attack or default_attacks("l2", Access.LABELS)
        for text in (*ours, *(PEERS["l2"] if options.peer is None else options.peer)):
            table.attempt(text, lambda text=text: run(text, given, options.limit), line)  # noqa: B023


TABLES = {"queries": queries_table, "robust": robust_table, "l2": l2_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--table", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--attack", nargs="+", help="ours, instead of each table's own")
    parser.add_argument("--peer", nargs="*", help="instead of each table's own; none: no peers")
    parser.add_argument("--n", type=int, default=300, help="samples of mnist_natural")
    parser.add_argument("--peer-n", type=int, default=50, help="of these for peers, and for l2")
    parser.add_argument("--limit", type=int, default=2000, help="queries for each sample")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few samples and queries")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.quick:
        options.n, options.peer_n, options.limit = 40, 10, 300
    if not (options.bench / "reference.json").exists():
        print(f"skipped: {options.bench} holds no reference.json, models and data to measure on")
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in options.table:
        TABLES[name](options)


if __name__ == "__main__":
    main()
