"""The verdict on sound and unsound evaluations: honest models, masked ones, crippled attacks.

    python benchmarks/diagnosis.py [--bench DIR] [--only NAME …] [--diagnose subset]

DIR holds reference.json with the models, the data and archs.py; without it the honest models and
the crippled attacks are those of a small CNN trained by PGD on the embedded digits. The masked
models are naturally trained small CNNs on digits with defenses of ours. Prints, for each, robust
accuracy, the verdict, whether the model is said to mask its gradients, the checks that failed, and
the seconds that the run and its diagnosis took. One thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

import robust
from robust.attacks._loop import projected_ascent
from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import ce
from robust.core.threat import Threat
from robust.core.victim import Victim
from robust.data import DataSpec, open_data
from robust.models import describe_defense, load_model, parse_defense
from robust.registry import find
from robust.training import TrainSpec, parse_adv, train

DEFENSES = {
    "distillation": "distillation,teacher={teacher}",
    "kwta": "kwta,ratio=0.05",
    "quantisation": "quantisation,levels=4",
    "resize-pad": "resize-pad",
    "gaussian-noise": "gaussian-noise",
}
DIGITS_EPS = 0.2  # that leaves a natural small CNN on digits nothing


@dataclass(frozen=True, kw_only=True)
class NoStep(Attack):
    """Crippled: PGD whose step size is 0 asks for gradients, and stays where it starts."""

    steps: int = 40

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        start = threat.around(x).random(rng)
        for _ in range(self.steps):
            victim.gradient(start, ce, goal)
        return start


@dataclass(frozen=True, kw_only=True)
class WrongSign(Attack):
    """Crippled: PGD that descends where it should ascend."""

    steps: int = 40

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        return projected_ascent(
            victim, x, goal, threat, rng, steps=self.steps,
            step_size=threat.eps * min(1.0, 2.5 / self.steps),
            loss=lambda logits, goal: -ce(logits, goal), random_start=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model, its samples, the threat, and the attack to be diagnosed."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    attack: str | Attack
    view: str = "both"


Made = Callable[[], Subject]


def bench_subjects(bench: Path) -> Iterator[tuple[str, Made]]:
    """Published checkpoints, and crippled attacks on one of them."""
    facts = json.loads((bench / "reference.json").read_text())["models"]

    def made(name: str, attack: str | Attack, label: str) -> Subject:
        its = facts[name]
        loaded = load_model(
            bench / f"models/{name}.pt", arch=f"{bench}/archs.py:{its['arch']}",
            mean=its["mean"], std=its["std"], shape=tuple(its["shape"]),
        )  # fmt: skip
        source = open_data(DataSpec(str(bench / "data" / its["data"])))
        batch = source.batch(source.ids[: its["n"]])
        return Subject(label, loaded.module, batch.x, batch.y, robust.Linf(its["eps"]), attack)

    for name in ("cifar_cnn_a_adv", "cifar_cnn_a_mix4", "mnist_cnn_a_adv", "mnist_fgsm"):
        yield f"{name}, auto", lambda name=name: made(name, "auto", f"{name}, auto")
    for attack, label in CRIPPLED.items():
        title = f"cifar_cnn_a_adv, {label}"
        yield title, lambda attack=attack, title=title: made("cifar_cnn_a_adv", attack, title)


CRIPPLED: dict[str | Attack, str] = {
    "pgd,steps=100": "pgd,steps=100",
    "pgd,steps=1": "1 step",
    NoStep(): "step size 0",
    WrongSign(): "gradient of the wrong sign",
}


def fit(out: Path, adv: str, defense: str) -> Path:
    """A small CNN on digits, trained with that defense if one is named; the file it is in."""
    if not out.exists():
        spec = TrainSpec(
            adv=parse_adv(adv),
            defenses=[describe_defense(*parse_defense(defense))] if defense else [],
            threat=asdict(Threat("linf", 0.1 if adv == "pgd" else DIGITS_EPS)),
            epochs=15, optimizer="adam", lr=2e-3, weight_decay=0.0, eps_scale=1.0, val_limit=100,
        )  # fmt: skip
        for _ in train(spec, folder=out.with_suffix(""), out=out):
            pass
    return out


def digits_subjects(work: Path, *, honest: bool) -> Iterator[tuple[str, Made]]:
    """Masked models and, if so wanted, an honest one with the crippled attacks."""
    source = open_data(DataSpec("digits", "test"))
    batch = source.batch(source.ids)

    natural = work / "natural.pt"
    fit(natural, "none", "")

    def defended(text: str) -> nn.Module:
        if "{teacher}" in text:
            teacher = fit(work / "teacher.pt", "none", "distillation")
            text = text.format(teacher=teacher)
        name, defense = parse_defense(text)
        cls = find("defenses", name)
        if cls.trained or cls.freezes or defense.trains:
            return load_model(fit(work / f"{text.split(',')[0]}.pt", "none", text)).module
        return load_model(natural, defenses=[text]).module

    for name, text in DEFENSES.items():
        for attack, view in (("pgd", "naive"), ("auto", "both")):
            title = f"{name}, {attack} {view}"

            def made(
                text: str = text, attack: str = attack, view: str = view, title: str = title
            ) -> Subject:
                threat = robust.Linf(DIGITS_EPS)
                return Subject(title, defended(text), batch.x, batch.y, threat, attack, view)

            yield title, made
    if not honest:
        return
    for attack, label in ({"auto": "auto"} | CRIPPLED).items():
        title = f"digits by PGD, {label}"

        def made(attack: str | Attack = attack, title: str = title) -> Subject:
            model = load_model(fit(work / "pgd.pt", "pgd", "")).module
            return Subject(title, model, batch.x, batch.y, robust.Linf(0.1), attack)

        yield title, made


def show(subject: Subject, diagnose: str) -> None:
    began = time.perf_counter()
    report = robust.evaluate(
        subject.model, subject.x, subject.y, threat=subject.threat, attacks=subject.attack,
        view=subject.view, curve=False, diagnose=diagnose,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    diagnosis = sum(facts["seconds"] for facts in report.diagnosis.values())
    failed = ", ".join(check.key for check in report.checks if check.failed) or "–"
    verdict = report.verdict
    status = verdict.status if verdict else "–"
    masked = {True: "masked", False: "not masked", None: "–"}[verdict.masked if verdict else None]
    print(
        f"| {subject.name} | {100 * report.robust_accuracy:.1f} | {status} | {masked} | {failed} | "
        f"{seconds - diagnosis:.1f} | {diagnosis:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    parser.add_argument("--diagnose", default="subset", choices=["subset", "full"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | robust | verdict | | failed checks | run s | diagnosis s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        found: list[tuple[str, Any]] = []
        if options.bench:
            found += bench_subjects(options.bench)
        found += digits_subjects(Path(folder), honest=options.bench is None)
        for name, made in found:
            if not options.only or any(part in name for part in options.only):
                show(made(), options.diagnose)


if __name__ == "__main__":
    main()
