"""AutoAttack stage by stage on real models: ours, torchattacks' port and the official figures.

    python benchmarks/autoattack.py --bench DIR [--models cifar_cnn_a_adv …] [--n 200]
        [--norm l2 --eps 0.5] [--attack auto …] [--seeds 0 1 2] [--batch-size 128] [--peer 100 10]

DIR holds reference.json with the official implementation's figures, the models, the data and
archs.py. All methods attack the same samples in the same batches in one run, the peer only those
that the model predicts correctly, as the official code does. The peer is torchattacks' port of the
official code, with the published 100 steps in the gradient stages; its own default, 10, is a weaker
and cheaper protocol, shown where --peer asks for it. Forwards and backwards are per sample of the
data; seconds are of the clock and of the processor, which a busy machine disturbs less. The ratio
is to the processor time that the first peer takes in the same run, of a stage to the same stage.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust import api
from robust.core.threat import Threat
from robust.data import DataSpec, Source, from_arrays, open_data
from robust.evaluation import AttackDone, AttackStarted, Evaluation
from robust.models import Loaded, load_model
from robust.registry import parse_attacks
from robust.store import MemoryStore

STAGES = {"apgd": "APGD", "apgd-t": "APGDT", "fab-t": "FAB", "square": "Square"}


@dataclass
class Row:
    """A stage, or the sum of a method's: what it left of n samples, and what it took."""

    method: str
    stage: str
    robust: int
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    def add(self, forwards: int, backwards: int, seconds: float, cpu: float) -> None:
        self.forwards += forwards
        self.backwards += backwards
        self.seconds += seconds
        self.cpu += cpu


class Counted(nn.Module):
    """The model, counting the samples of every forward and of every backward through it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def ours(
    loaded: Loaded, source: Source, threat: Threat, text: str, size: int, seed: int
) -> list[Row]:
    """A cascade through the engine."""
    attacks = parse_attacks([text], threat.norm)
    spec = api.plan(
        loaded, source, {"source": "bench"}, threat, attacks,
        device=torch.device("cpu"), curve=False, batch_size=size, seed=seed,
    )  # fmt: skip
    rows: dict[str, Row] = {}
    ledger, wall, cpu = None, 0.0, 0.0
    store = MemoryStore()
    for event in Evaluation(spec, loaded.module, source, attacks).run(store):
        if isinstance(event, AttackStarted):
            ledger, wall, cpu = event.ledger, time.perf_counter(), time.process_time()
        elif isinstance(event, AttackDone):
            took = time.perf_counter() - wall, time.process_time() - cpu
            row = rows.setdefault(event.attack, Row(text, event.attack, 0))
            row.robust += event.given - event.broken
            row.add(int(ledger.forwards.sum()), int(ledger.backwards.sum()), *took)
    return list(rows.values())


def torchattacks(
    loaded: Loaded, source: Source, threat: Threat, size: int, seed: int, steps: int
) -> list[Row]:
    """torchattacks' AutoAttack, each of its attacks on what the former ones left of a batch."""
    import torchattacks as ta

    model = Counted(loaded.module)
    asked = {"norm": {"linf": "Linf", "l2": "L2"}[threat.norm], "eps": threat.eps, "seed": seed}
    stages = [
        ta.APGD(model, steps=steps, **asked),
        ta.APGDT(model, steps=steps, n_classes=10, **asked),
        ta.FAB(model, steps=steps, multi_targeted=True, n_classes=10, **asked),
        ta.Square(model, n_queries=5000, **asked),
    ]
    method = f"torchattacks, {steps} steps"
    rows = [Row(method, type(stage).__name__, 0) for stage in stages]
    torch.manual_seed(seed)
    for x, y in batches(source, size):
        x, y = still_correct(loaded.module, x, x, y)
        for stage, row in zip(stages, rows, strict=True):
            if len(x):
                before = model.forwards, model.backwards
                wall, cpu = time.perf_counter(), time.process_time()
                x_adv = stage(x, y)
                took = time.perf_counter() - wall, time.process_time() - cpu
                row.add(model.forwards - before[0], model.backwards - before[1], *took)
                x, y = still_correct(loaded.module, x_adv, x, y)
            row.robust += len(x)
    return rows


def still_correct(net: nn.Module, at: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The samples x, y whose class is predicted for the points `at`."""
    with torch.no_grad():
        correct = net(at).argmax(1) == y
    return x[correct], y[correct]


def batches(source: Source, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(source), size):
        batch = source.batch(source.ids[start : start + size])
        yield batch.x, batch.y


def official(facts: dict[str, Any], n: int) -> list[Row]:
    """What the official implementation left and took, as the reference has it; none for fewer n."""
    rows, before = [], 0.0
    if n == facts["n"]:
        for name, (accuracy, so_far) in facts.get("stages", {}).items():
            rows.append(Row("official", name, round(accuracy * n), seconds=so_far - before))
            before = so_far
        if not rows and "autoattack" in facts:
            rows.append(Row("official", "all", round(facts["autoattack"] * n)))
    return rows


def total(rows: list[Row]) -> Row:
    end = Row(rows[-1].method, "total", rows[-1].robust)
    for row in rows:
        end.add(row.forwards, row.backwards, row.seconds, row.cpu)
    return end


def show(name: str, methods: list[list[Row]], n: int) -> None:
    """One line for each stage and each sum of stages."""
    first = [rows for rows in methods if rows[0].method.startswith("torchattacks")][:1]
    peer = {row.stage: row.cpu for rows in first for row in [*rows, total(rows)]}
    for rows in methods:
        for row in [*rows, *([total(rows)] if len(rows) > 1 else [])]:
            same = row.stage.partition(",")[0]
            other = peer.get("total" if len(rows) == 1 else STAGES.get(same, same))
            spent = (
                f"{row.forwards / n:10.0f}{row.backwards / n:10.0f}" if row.forwards else " " * 20
            )
            cpu = f"{row.cpu:10.1f}" if row.cpu else " " * 10
            ratio = f"{row.cpu / other:8.3f}" if other and row.cpu else ""
            print(
                f"{name:18}{row.method:25}{row.stage:25}{100 * row.robust / n:8.1f}{spent}"
                f"{row.seconds:10.1f}{cpu}{ratio}",
                flush=True,
            )


def load(bench: Path, name: str, facts: dict[str, Any], n: int | None) -> tuple[Loaded, Source]:
    loaded = load_model(
        bench / "models" / f"{name}.pt",
        arch=f"{bench / 'archs.py'}:{facts['arch']}",
        shape=facts["shape"], mean=facts["mean"], std=facts["std"],
    )  # fmt: skip
    whole = open_data(DataSpec(str(bench / "data" / facts["data"])))
    batch = whole.batch(whole.ids[: min(n or facts["n"], facts["n"])])
    return loaded, from_arrays(batch.x, batch.y, channels_last=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--n", type=int, help="so many samples of each model's data")
    parser.add_argument("--attack", nargs="+", default=["autoattack"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--peer", nargs="*", type=int, default=[100], metavar="STEPS")
    parser.add_argument("--norm", help="instead of the reference's threat; with --eps")
    parser.add_argument("--eps", type=float)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not (options.bench / "reference.json").exists():
        print(f"skipped: {options.bench} holds no reference.json, models and data to measure on")
        return
    facts = json.loads((options.bench / "reference.json").read_text())["models"]
    names = options.models or [name for name in facts if "arch" in facts[name]]

    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, accuracies in percent")
    print(f"{'model':18}{'method':25}{'stage':25}{'robust':>8}{'forwards':>10}{'backwards':>10}"
          f"{'seconds':>10}{'cpu':>10}{'ratio':>8}")  # fmt: skip
    for name in names:
        loaded, source = load(options.bench, name, facts[name], options.n)
        known = Threat(facts[name]["norm"], facts[name]["eps"])
        threat = Threat(options.norm or known.norm, options.eps or known.eps)
        size, n = options.batch_size, len(source)
        if threat == known and (reference := official(facts[name], n)):
            show(name, [reference], n)
        for seed in options.seeds:
            methods = []
            if threat.norm in ("linf", "l2"):
                methods += [
                    torchattacks(loaded, source, threat, size, seed, steps)
                    for steps in options.peer
                ]
            methods += [ours(loaded, source, threat, text, size, seed) for text in options.attack]
            show(f"{name}" + (f" #{seed}" if seed else ""), methods, n)


if __name__ == "__main__":
    main()
