"""What recipes of training reach, and cost, on MNIST; and what the engine itself costs.

    python benchmarks/training.py table --bench ../shared/bench [--recipes reference,fast,strong]
                                  [--seeds 0,1,2,3,4] [--images 500] [--attack autoattack]
                                  [--folder /tmp/training] [--options "--augment crop:1"]
    python benchmarks/training.py print --folder /tmp/training
    python benchmarks/training.py overhead --bench ../shared/bench [--batches 60] [--rounds 5]
                                  [--adv pgd] [--options "--ema 0.998"]

`table` trains CNN-A (16 and 32 filters of 4×4, 100 units) on MNIST, L∞ 0.3, as `robust train` with
these options does, and attacks best.pt on the first test images. `reference` is plain adversarial
training, PGD-7 for 10 epochs, with Adam and a warm-up, without which it stays at chance. Times are
processor seconds of the whole run on one thread, validation and files included, which a busy
machine changes less than the clock. Every run is resumable and adds a line to FOLDER/results.jsonl;
`print` makes the table of them, times as shares of the reference's mean.

`overhead` trains on a few batches and sets the engine's processor time of an epoch, looks for
overfitting included and its validation not, beside that of a bare loop of the same forwards,
backwards and steps of the optimiser; both by turns in one process, and medians.
"""

import argparse
import dataclasses
import json
import shlex
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import robust
from robust.cli.train import train as command
from robust.commands.train import train_spec
from robust.models import load_model
from robust.training import Alarm, Progress, TrainDone, TrainSpec, TrainStarted, train

EPS = 0.3
RECIPES = {
    "reference": "--adv pgd --epochs 10 --optimizer adam --eps-warmup 3",
    "fast": "--recipe fast",
    "strong": "--recipe strong",
}


def spec_of(bench: Path, options: str, data: Path | None = None) -> TrainSpec:
    """What `robust train` with these options asks for."""
    words = ["--data", str(data or bench / "data/mnist-train.npz"), "--eps", str(EPS)]
    words += ["--arch", f"{bench / 'archs.py'}:mnist_cnn_a", "--device", "cpu"]
    words += shlex.split(options)
    context = command.make_context("train", words)
    default = click.core.ParameterSource.DEFAULT
    found = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in found.items() if source is not default}
    return train_spec(context.params, given)


def one_run(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train, attack, and say what came of it."""
    spec = spec_of(args.bench, f"{RECIPES[name]} --seed {seed} {args.options}")
    folder = args.folder / f"{name}-{seed}"
    began, done, alarms = time.process_time(), None, []
    for event in train(spec, folder=folder, resume=True):
        if isinstance(event, Alarm):
            alarms.append(event.text)
        if isinstance(event, TrainStarted) and event.rows:
            raise SystemExit(f"{folder} holds a part of a run, whose time is lost: remove it")
        if isinstance(event, TrainDone):
            done = event
    seconds = time.process_time() - began
    assert done is not None
    loaded = load_model(folder / "best.pt", arch=spec.arch)
    file = np.load(args.bench / "data/mnist-test.npz")
    x = torch.from_numpy(file["x"][: args.images]).float().div(255)
    y = torch.from_numpy(file["y"][: args.images]).long()
    threat = robust.Linf(EPS)
    report = robust.evaluate(loaded.module, x, y, threat=threat, attacks=[args.attack], curve=False)
    return {
        "recipe": name,
        "options": args.options,
        "seed": seed,
        "seconds": seconds,
        "epochs": done.epochs,
        "best_epoch": done.row["epoch"],
        "val_robust": done.row["val_robust_accuracy"],
        "alarms": alarms,
        "clean": report.clean_accuracy,
        args.attack: report.robust_accuracy,
        "images": len(x),
    }


def table(args: argparse.Namespace) -> None:
    """Run what is asked and not yet there."""
    args.folder.mkdir(parents=True, exist_ok=True)
    results = args.folder / "results.jsonl"
    results.touch()
    there = [json.loads(line) for line in results.read_text().splitlines()]
    known = {(row["recipe"], row["options"], row["seed"]) for row in there}
    for seed in map(int, args.seeds.split(",")):
        for name in args.recipes.split(","):
            if (name, args.options, seed) in known:
                continue
            row = one_run(args, name, seed)
            print(json.dumps(row), flush=True)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
    show(args)


def show(args: argparse.Namespace) -> None:
    """The table of the runs that are there."""
    rows = [json.loads(line) for line in (args.folder / "results.jsonl").read_text().splitlines()]
    groups = defaultdict(list)
    for row in rows:
        groups[(row["recipe"], row["options"])].append(row)
    plain = [row["seconds"] for row in rows if row["recipe"] == "reference"]
    print("| recipe | seeds | processor s | share | clean | robust, mean (each) | collapses |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (name, options), members in groups.items():
        seconds = statistics.mean(row["seconds"] for row in members)
        share = f"{seconds / statistics.mean(plain):.2f}" if plain else "–"
        found = [row.get("autoattack", row.get("auto")) for row in members]
        each = ", ".join(f"{100 * value:.1f}" for value in found)
        print(
            f"| {name} {options} | {', '.join(str(row['seed']) for row in members)} "
            f"| {seconds:.0f} | {share} "
            f"| {100 * statistics.mean(row['clean'] for row in members):.1f} "
            f"| {100 * statistics.mean(found):.1f} ({each}) "
            f"| {sum(len(row['alarms']) for row in members)} |"
        )


class Bare:
    """An epoch of adversarial training by PGD, and nothing else: what it cannot do without."""

    def __init__(self, spec: TrainSpec, x: Tensor, y: Tensor) -> None:
        from robust.models import build
        from robust.models.wrappers import Standardise

        net = build(spec.arch, x.shape[1:], 10)
        self.model = Standardise(net, [float(x.mean())], [float(x.std())])
        self.optimizer = self._optimizer(spec, list(net.parameters()))
        self.spec, self.x, self.y = spec, x, y
        self.steps = int(spec.adv["params"]["steps"])

    def _optimizer(self, spec: TrainSpec, free: list[nn.Parameter]) -> torch.optim.Optimizer:
        if spec.optimizer == "sgd":
            return torch.optim.SGD(
                free, spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
            )
        return torch.optim.Adam(free, spec.lr, weight_decay=spec.weight_decay)

    def epoch(self) -> None:
        eps, size = EPS, 2.5 * EPS / self.steps
        for rows in torch.split(torch.randperm(len(self.x)), self.spec.batch_size):
            x, y = self.x[rows], self.y[rows]
            low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
            x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
            for _ in range(self.steps):
                x_adv.requires_grad_()
                loss = cross_entropy(self.model(x_adv), y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, x_adv)
                x_adv = (x_adv.detach() + size * gradient.sign()).clamp(low, high)
            loss = cross_entropy(self.model(x_adv), y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


def overhead(args: argparse.Namespace) -> None:
    """Processor time of the engine's epochs beside those of a bare loop."""
    file = np.load(args.bench / "data/mnist-train.npz")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = spec_of(args.bench, f"--adv {args.adv} {args.options}")
        count = args.batches * spec.batch_size
        np.savez(folder / "train.npz", x=file["x"][:count], y=file["y"][:count])
        np.savez(folder / "val.npz", x=file["x"][-500:], y=file["y"][-500:])
        given = f"--adv {args.adv} --epochs {args.rounds + 1} {args.options} --val-attack fgsm"
        spec = spec_of(args.bench, given, folder / "train.npz")
        spec = dataclasses.replace(
            spec, validation={**spec.data, "source": str(folder / "val.npz")}
        )
        x = torch.from_numpy(file["x"][:count]).float().div(255)
        bare = Bare(spec, x, torch.from_numpy(file["y"][:count]).long())
        times: dict[str, list[float]] = {"engine": [], "bare": []}
        began = time.process_time()
        for event in train(spec, folder=folder / "run"):
            if isinstance(event, Progress) and event.step == event.steps:
                times["engine"].append(time.process_time() - began)
                began = time.process_time()
                bare.epoch()
                times["bare"].append(time.process_time() - began)
            elif not isinstance(event, Progress):
                began = time.process_time()
    engine, plain = (statistics.median(values[1:]) for values in times.values())
    print(
        f"{args.adv} {args.options}: engine {engine:.2f} s, bare {plain:.2f} s an epoch of "
        f"{args.batches} batches of {spec.batch_size}: {100 * (engine / plain - 1):+.1f} %"
    )
    print({name: [round(value, 2) for value in values] for name, values in times.items()})


def main() -> None:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("what", choices=["table", "print", "overhead"])
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--recipes", default="reference,fast,strong")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--attack", default="autoattack")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/training"))
    parser.add_argument("--options", default="")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--adv", default="pgd")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.bench = args.bench.resolve()
    {"table": table, "print": show, "overhead": overhead}[args.what](args)


if __name__ == "__main__":
    main()
