"""Every defense that hides gradients, answers at random or cleans its input, and what it gave.

    python benchmarks/defenses.py [--bench PATH] [--data digits mnist] [--only NAME …]
        [--again | --kept] [--cache runs/defenses] [--write docs/defenses.md]

For each data set a small-cnn is trained naturally. Each registered defense of the families gradient
masking, randomization and denoising is put around it, or, where it needs that, trained with it for
as many epochs. Then PGD-40 on cross-entropy attacks the model as it is deployed (naive), and an
attacker who knows the defense what it exposes (adaptive): as `robust attack` does it, random models
on fewer samples. Both figures are robust accuracy, in percent of all samples; "undefended" is that
of the plain network, adaptively.

The eps of each data set is the least, in tenths, at which PGD-40 leaves the plain network nothing.

What was measured is kept in --cache, a file for each row, and not measured again unless --again
says so. PATH holds data/mnist-train.npz and data/mnist-test.npz; without it digits are measured.
--write puts the tables between the markers of that file. One thread.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import robust
from robust.core.defended import Defended
from robust.core.threat import Threat
from robust.data import DataSpec, open_data
from robust.models import describe_defense, load_model, parse_defense
from robust.registry import find, names
from robust.training import TrainSpec, parse_adv, train

FAMILIES = ("gradient masking", "randomization", "denoising")
NATURAL = "none"  # the row of the plain network
BEGIN, END = "<!-- begin: benchmarks/defenses.py -->", "<!-- end: benchmarks/defenses.py -->"


@dataclass(frozen=True)
class Case:
    """A row of the table, where it is not a defense with its defaults."""

    text: str
    norm: str = "linf"
    adv: str = "none"
    teacher: str = ""  # the defense that {teacher} is trained with


@dataclass(frozen=True)
class Setting:
    """One data set. `cases` replaces the defaults of the defenses that it names, `eps` by norm."""

    epochs: int
    samples: int
    random_samples: int
    eps: dict[str, float]
    cases: dict[str, list[Case]] = field(default_factory=dict)


SETTINGS = {
    "digits": Setting(
        epochs=15,
        samples=300,
        random_samples=100,
        eps={"linf": 0.2, "l2": 1.0},
        cases={
            "kwta": [Case("kwta,ratio=0.05")],
            "quantisation": [Case("quantisation,levels=4")],
            "distillation": [Case("distillation,teacher={teacher}", teacher="distillation")],
            "gradient-regularisation": [Case("gradient-regularisation,strength=2")],
            "smoothing": [Case("smoothing"), Case("smoothing", norm="l2")],
            "denoiser": [Case("denoiser", adv="pgd")],
            "feature-denoising": [Case("feature-denoising", adv="pgd")],
        },
    ),
    "mnist": Setting(
        epochs=3,
        samples=100,
        random_samples=30,
        eps={"linf": 0.2, "l2": 2.0},
        cases={
            "quantisation": [Case("quantisation,levels=4"), Case("quantisation")],
            "distillation": [Case("distillation,teacher={teacher}", teacher="distillation")],
            "gradient-regularisation": [Case("gradient-regularisation,strength=2")],
            "smoothing": [Case("smoothing"), Case("smoothing", norm="l2")],
            "denoiser": [Case("denoiser", adv="pgd")],
            "feature-denoising": [Case("feature-denoising", adv="pgd")],
        },
    ),
}
VISIBLE, CLOSE = 5.0, 5.0  # points
TRAINED_ON = 10_000  # of the 60,000 training images of MNIST


@dataclass(frozen=True)
class Row:
    """What was measured of one defense, accuracies in percent."""

    name: str
    text: str
    family: str
    how: str
    norm: str
    eps: float
    samples: int
    random: bool
    clean: float
    naive: float
    adaptive: float
    train_seconds: float
    attack_seconds: float
    adv: str = "none"  # what it was trained against


class Bench:
    """The rows of one data set, measured or read from the cache."""

    def __init__(self, data: str, setting: Setting, cache: Path, bench: Path | None) -> None:
        self.data, self.setting, self.cache = data, setting, cache / data
        self.cache.mkdir(parents=True, exist_ok=True)
        if data == "digits":
            self.train = DataSpec("digits", "train")
            test = DataSpec("digits", "test")
        else:
            assert bench is not None
            some = self.cache / "train.npz"
            if not some.exists():
                with np.load(bench / "data/mnist-train.npz") as arrays:
                    np.savez(some, x=arrays["x"][:TRAINED_ON], y=arrays["y"][:TRAINED_ON])
            self.train = DataSpec(str(some))
            test = DataSpec(str(bench / "data/mnist-test.npz"))
        source = open_data(test)
        batch = source.batch(source.ids[: setting.samples])
        self.x, self.y = batch.x, batch.y
        self.natural = self.cache / "natural.pt"

    def cases(self, only: Sequence[str]) -> list[tuple[str, Case]]:
        """(name, case) of each row, the plain networks first, then by family and name."""
        found = [(NATURAL, Case(NATURAL, norm)) for norm in self.setting.eps]
        if not only or "feature-denoising" in only:
            found.append((NATURAL, Case(NATURAL, adv="pgd")))  # what that one stands beside
        for family in FAMILIES:
            for name in names("defenses"):
                if find("defenses", name).family == family and (not only or name in only):
                    given = self.setting.cases.get(name, [Case(name)])
                    found += [(name, case) for case in given]
        return found

    def row(self, name: str, case: Case, *, again: bool, kept: bool) -> Row | None:
        """The row of a case; where only what is kept shall be shown, None if it is not."""
        text = case.text.replace("{teacher}", "…")
        file = self.cache / f"{text} {case.norm}{against(case)}.json"
        if file.exists() and not again:
            return Row(**json.loads(file.read_text()))
        if kept:
            return None
        began = time.perf_counter()
        path, how = self.model(name, case)
        trained = time.perf_counter()
        found = self.measured(path, case, how == "around")
        family = "" if name == NATURAL else find("defenses", name).family
        row = Row(
            name=name,
            text=text,
            family=family,
            how=how,
            norm=case.norm,
            eps=self.setting.eps[case.norm],
            adv=case.adv,
            train_seconds=trained - began,
            attack_seconds=time.perf_counter() - trained,
            **found,
        )
        file.write_text(json.dumps(asdict(row), indent=1))
        return row

    def model(self, name: str, case: Case) -> tuple[Path, str]:
        """The model file to attack, and how the defense gets there: "trained" or "around"."""
        if name == NATURAL:
            out = self.natural.with_stem(f"natural{against(case)}")
            return self.trained(out, [], case), "trained"
        self.trained(self.natural, [], Case(NATURAL))
        cls = find("defenses", name)
        text = case.text
        if case.teacher:
            teacher = self.cache / f"teacher of {name}.pt"
            self.trained(teacher, [record(case.teacher)], case)
            text = text.replace("{teacher}", str(teacher))
        if not (cls.trained or cls.freezes or parse_defense(text)[1].trains):
            return self.natural, "around"
        out = self.cache / f"{name}{against(case)}.pt"
        return self.trained(out, [record(text)], case, cls.freezes), "trained"

    def trained(
        self, out: Path, defenses: list[dict[str, Any]], case: Case, frozen: bool = False
    ) -> Path:
        if out.exists():
            return out
        spec = TrainSpec(
            data=self.train.to_dict(),
            adv=parse_adv(case.adv),
            defenses=defenses,
            init=str(self.natural) if frozen else None,
            threat=asdict(Threat("linf", self.setting.eps["linf"])),
            epochs=self.setting.epochs,
            # What defenses leave of a gradient differs by orders of magnitude, and Adam minds not.
            optimizer="adam",
            lr=2e-3,
            weight_decay=0.0,
            eps_scale=1.0,
            # Without it MNIST stays at chance. A frozen classifier needs none.
            eps_warmup=0.0 if frozen or case.adv == "none" else 0.3 * self.setting.epochs,
            val_limit=100,
        )
        for _ in train(spec, folder=out.with_suffix(""), out=out, resume=True):
            pass
        return out

    def measured(self, path: Path, case: Case, around: bool) -> dict[str, Any]:
        """Clean, naive and adaptive accuracy of the model in that file."""
        loaded = load_model(path, defenses=[case.text] if around else [])
        model = loaded.module
        eps = self.setting.eps[case.norm]
        threat = robust.Linf(eps) if case.norm == "linf" else robust.L2(eps)
        random = isinstance(model, Defended) and model.draws > 1
        count = self.setting.random_samples if random else self.setting.samples
        x, y = self.x[:count], self.y[:count]
        if isinstance(model, Defended):
            report = attacked(model, x, y, threat, ("auto",))
            naive = report.naive_accuracy
        else:
            naive = attacked(model, x, y, threat, ("pgd",)).robust_accuracy
            report = attacked(model, x, y, threat, ("pgd", "auto"))
        assert naive is not None
        return {
            "samples": count,
            "random": random,
            "clean": 100 * report.clean_accuracy,
            "naive": 100 * naive,
            "adaptive": 100 * report.robust_accuracy,
        }


def against(case: Case) -> str:
    return "" if case.adv == "none" else f" against {case.adv}"


def record(text: str) -> dict[str, Any]:
    """A defense as a training run and a checkpoint name it."""
    return describe_defense(*parse_defense(text))


def attacked(
    model: torch.nn.Module, x: Tensor, y: Tensor, threat: Threat, attacks: Sequence[str]
) -> Any:
    return robust.evaluate(model, x, y, threat=threat, attacks=attacks, curve=False, seed=0)


def table(rows: Sequence[Row]) -> str:
    """The rows of one data set as a table in Markdown."""
    plain = {row.norm: row for row in rows if row.name == NATURAL and row.adv == "none"}
    lines = [
        "| defense | family | clean | naive | adaptive | undefended | false security | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        seconds = f"{row.attack_seconds:.0f}"
        if row.train_seconds >= 0.5:
            seconds = f"{row.train_seconds:.0f} + {seconds}"
        about = ["the plain network"] if row.name == NATURAL else [f"`{row.text}`"]
        if row.adv != "none":
            about.append(f"trained against {row.adv}")
        elif row.how == "trained" and row.name != NATURAL:
            about.append("trained")
        about += ["random"] if row.random else []
        about += [f"L2 {row.eps:g}"] if row.norm == "l2" else []
        figures = [row.clean, row.naive, row.adaptive, plain[row.norm].adaptive]
        shown = " | ".join(f"{figure:.1f}" for figure in figures)
        gap = f"{row.naive - row.adaptive:.1f}"
        lines.append(f"| {', '.join(about)} | {row.family} | {shown} | {gap} | {seconds} |")
    return "\n".join(lines)


def misses(rows: Sequence[Row]) -> list[str]:
    """What does not do as its paper says against PGD-40, or stands up to the adaptive attack."""
    plain = {row.norm: row for row in rows if row.name == NATURAL and row.adv == "none"}
    found = []
    for row in rows:
        if row.name != NATURAL:
            below = plain[row.norm]
            if row.naive - below.naive < VISIBLE:
                found.append(f"{row.text}: naive {row.naive:.1f}, undefended {below.naive:.1f}")
            if row.adaptive - below.adaptive > CLOSE and row.adv == "none":
                found.append(
                    f"{row.text}: adaptive {row.adaptive:.1f}, undefended {below.adaptive:.1f}"
                )
    return found


def title(data: str, rows: Sequence[Row], setting: Setting) -> str:
    counts, fewer = (
        " or ".join(str(n) for n in sorted({row.samples for row in rows if row.random is random}))
        for random in (False, True)
    )
    return (
        f"**{data}, L∞ {setting.eps['linf']:g}**, {setting.epochs} epochs, {counts} test samples"
        + (f", {fewer} where random:" if fewer else ":")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", choices=names("defenses"))
    parser.add_argument("--again", action="store_true", help="measure what is in the cache, too")
    parser.add_argument("--kept", action="store_true", help="only show what is in the cache")
    parser.add_argument("--cache", type=Path, default=Path("runs/defenses"))
    parser.add_argument("--write", type=Path, help="a file with the two markers in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = []
    for data in options.data:
        if data != "digits" and (options.bench is None or not options.bench.is_dir()):
            print(f"skipped: {data}, for there is no --bench that holds it")
            continue
        bench = Bench(data, SETTINGS[data], options.cache, options.bench)
        rows = []
        for name, case in bench.cases(options.only):
            again = options.again and name != NATURAL
            last = bench.row(name, case, again=again, kept=options.kept)
            if last is None:
                continue
            rows.append(last)
            print(
                f"{data:8}{last.text:38}{last.norm:6}clean {last.clean:5.1f}  naive "
                f"{last.naive:5.1f}  adaptive {last.adaptive:5.1f}  "
                f"{last.train_seconds:.0f} + {last.attack_seconds:.0f} s",
                flush=True,
            )
        parts += [title(data, rows, SETTINGS[data]), table(rows)]
        print(*(f"  beside the bar: {miss}" for miss in misses(rows)), sep="\n")
    if options.write is not None:
        text = options.write.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        made = "\n\n".join([BEGIN, *parts, END])
        options.write.write_text(before + made + after, encoding="utf-8")


if __name__ == "__main__":
    main()
