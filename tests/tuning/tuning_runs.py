"""What the tests of tuning share: a subject whose best values are known, runs to their end."""

import json
from pathlib import Path

import numpy as np

from robust.core.errors import RobustError
from robust.tuning import Axis, Look, TuneSpec, tune

X = Axis(name="x", low=0.0, high=1.0)
K = Axis(name="k", low=1, high=4, whole=True)
MODE = Axis(name="mode", choices=("good", "bad"))


class Known:
    """Robust accuracy is 0.9 − (x − 0.3)² − 0.05 (4 − k), half of it in the mode "bad", and comes
    to that in ten steps; clean accuracy is higher where x is. `at` is called before each step with
    the number of the trial and that of the step.
    """

    kind = "training"
    values = {"x": 0.8, "k": 2, "mode": "good"}  # noqa: RUF012

    def __init__(self, at=lambda trial, step: None):
        self.at = at

    usual = ("x", "k")

    def record(self):
        return {"name": "known", "path": "somewhere"}

    def identity(self):
        return {"name": "known"}

    def canonical(self, name):
        if name not in self.values:
            raise RobustError(f"no parameter {name!r}")
        return name

    def value(self, name):
        return self.values[name]

    def type_of(self, name):
        return type(self.values[name])

    def check(self, values):
        if values.get("x", 0) > 1 or values.get("k", 1) > 4:
            raise RobustError("too much")

    def options(self, values):
        return " ".join(f"--{name} {value}" for name, value in values.items())

    def figures(self, values):
        v = {**self.values, **values}
        robust = 0.9 - (v["x"] - 0.3) ** 2 - 0.05 * (4 - v["k"])
        return 0.5 + 0.4 * v["x"], robust * (1.0 if v["mode"] == "good" else 0.5)

    def run(self, values, folder):
        clean, robust = self.figures(values)
        number = int(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        yield Look(0.0)
        for step in range(1, 11):
            self.at(number, step)
            (folder / "state.pt").write_text(str(step))
            yield Look(step / 10, clean * step / 10, robust * step / 10, seconds=step)
        (folder / "best.pt").write_text(json.dumps({**self.values, **values}))
        yield Look(1.0, clean, robust, seconds=10.0, final=True, notes={"epoch": 10})

    def write(self, values, folder, out):
        out.write_bytes((folder / "best.pt").read_bytes())


def search(subject, folder, axes=(X, K), *, trials=12, events=list, **options):
    """The events of a run, or what is made of them."""
    how = {k: options.pop(k) for k in ("objective", "prune", "seed") if k in options}
    spec = TuneSpec.of(subject, list(axes), **how)
    return events(tune(subject, spec, trials=trials, folder=Path(folder), **options))


def told(rows):
    """What of rows must be the same however often a run was interrupted."""
    return [{k: v for k, v in vars(row).items() if k != "seconds"} for row in rows]


def blobs(path, n=90, classes=3, seed=0):
    """Feature vectors (6,) in [0, 1] around a corner of each class's own."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(7).uniform(0.2, 0.8, (classes, 6))
    x = np.clip(centres[y] + rng.normal(0, 0.12, (n, 6)), 0, 1).astype(np.float32)
    np.savez(path, x=x, y=y)
    return str(path)
