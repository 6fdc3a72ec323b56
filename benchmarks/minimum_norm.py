"""Minimum-norm attacks beside foolbox's and ART's of the same name, in one run.

    python benchmarks/minimum_norm.py --bench PATH [--n 50] [--models M,…] [--attacks A,…]

PATH holds models/*.pt, data/*.npz, archs.py and reference.json (the benchmark's own layout). All
attack the same correctly classified samples, untargeted, on one thread, the parameters of the
network requiring gradients as they do in a user's hands. A peer gets our number of steps, but EAD
9 × 200. Printed: the share of successes, the median distance (a failure counts as infinitely far),
forwards and backwards for each sample, seconds, and seconds over ours. Each success is predicted
again here. A peer's forwards are counted in its model, its backwards where the gradient reaches the
input. Peers that are not installed are left out (`pip install -e '.[peers,bench]'`).
"""

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.core.victim import Victim
from robust.registry import parse_attack

MODELS = ("mnist_natural", "cifar_cnn_a_adv")


@dataclass(frozen=True)
class Row:
    """One comparison: our attack, its norm, and how each peer calls the same; n at most so many."""

    ours: str
    norm: str
    foolbox: tuple[str, dict[str, Any]] | None = None
    art: tuple[str, dict[str, Any]] | None = None
    art_n: int = 50


ROWS = {
    "deepfool-l2": Row(
        "deepfool",
        "l2",
        ("L2DeepFoolAttack", {"steps": 50, "candidates": 10}),
        ("DeepFool", {"max_iter": 50, "nb_grads": 10, "epsilon": 0.02}),
    ),
    "deepfool-linf": Row(
        "deepfool", "linf", ("LinfDeepFoolAttack", {"steps": 50, "candidates": 10})
    ),
    "ddn": Row("ddn", "l2", ("DDNAttack", {"steps": 100})),
    "fmn-linf": Row("fmn", "linf", ("LInfFMNAttack", {"steps": 100})),
    "fmn-l2": Row("fmn", "l2", ("L2FMNAttack", {"steps": 100})),
    "fmn-l1": Row("fmn", "l1", ("L1FMNAttack", {"steps": 100})),
    "fmn-l0": Row("fmn", "l0", ("L0FMNAttack", {"steps": 100})),
    "cw": Row(
        "cw,steps=200,searches=9",
        "l2",
        ("L2CarliniWagnerAttack", {"steps": 200, "binary_search_steps": 9}),
        ("CarliniL2Method", {"max_iter": 200, "binary_search_steps": 9, "initial_const": 1e-3}),
        art_n=10,
    ),
    "fab-linf": Row("fab", "linf"),
    "fab-t-linf": Row("fab-t", "linf"),
    "fab-t-l2": Row("fab-t", "l2"),
    "fab-t-l1": Row("fab-t", "l1"),
    "pdpgd-linf": Row("pdpgd", "linf"),
    "pdpgd-l2": Row("pdpgd", "l2"),
    # No peer has these two: beside them stand EAD and FMN, which look for the same.
    "pdpgd-l1": Row(
        "pdpgd",
        "l1",
        ("EADAttack", {"steps": 200, "binary_search_steps": 9, "decision_rule": "L1"}),
        ("ElasticNet", {"max_iter": 200, "binary_search_steps": 9, "decision_rule": "L1"}),
        art_n=10,
    ),
    "sigma-zero": Row("sigma-zero,steps=100", "l0", ("L0FMNAttack", {"steps": 100})),
}


class Counted(nn.Module):
    """A network that counts the samples it is asked about and the gradients that reach them."""

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net, self.mean, self.std = net, mean, std
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self._count)
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def load(bench: Path, name: str, n: int) -> tuple[Counted, Tensor, Tensor]:
    """The model and its first n correctly classified samples."""
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
    model = Counted(net, mean, std).eval()
    data = np.load(bench / "data" / facts["data"])
    x = torch.from_numpy(data["x"][: facts["n"]]).float() / 255
    y = torch.from_numpy(data["y"][: facts["n"]]).long()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero().squeeze(1)[:n]
    return model, x[right], y[right]


def ours(row: Row, model: Counted, x: Tensor, y: Tensor) -> Tensor:
    attack, threat = parse_attack(row.ours), Threat(row.norm, 1.0)  # type: ignore[arg-type]
    with torch.no_grad():
        return attack.search(Victim(model, len(x), attack.access), x, Goal(y), threat, generator(0))


def foolbox(row: Row, model: Counted, x: Tensor, y: Tensor) -> Tensor:
    import foolbox as fb

    assert row.foolbox is not None
    name, params = row.foolbox
    wrapped = fb.PyTorchModel(model, bounds=(0, 1), device=x.device)
    found: Tensor = getattr(fb.attacks, name)(**params)(wrapped, x, y, epsilons=None)[1]
    return found


def art(row: Row, model: Counted, x: Tensor, y: Tensor) -> Tensor:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    assert row.art is not None
    name, params = row.art
    wrapped = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = getattr(evasion, name)(wrapped, batch_size=len(x), verbose=False, **params)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy())).to(x)


def measure(
    run: Callable[..., Tensor], row: Row, model: Counted, x: Tensor, y: Tensor
) -> tuple[str, float]:
    """The line of one attack, and its seconds for each sample."""
    model.forwards = model.backwards = 0
    began = time.perf_counter()
    found = run(row, model, x, y)
    seconds = time.perf_counter() - began
    forwards, backwards = model.forwards / len(x), model.backwards / len(x)
    with torch.no_grad():
        broken = model(found).argmax(1) != y
    distance = Threat(row.norm, 1.0).distance(x, found)  # type: ignore[arg-type]
    distance[~broken] = float("inf")
    return (
        f"{len(x):5}{broken.float().mean():9.2f}{np.median(distance.numpy()):12.5f}"
        f"{forwards:10.1f}{backwards:10.1f}{seconds:9.2f}"
    ), seconds / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--attacks", default=",".join(ROWS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    print(f"{'model':17}{'attack':15}{'':9}{'n':>5}{'success':>9}{'median':>12}"
          f"{'forwards':>10}{'backwards':>10}{'s':>9}{'/ ours':>9}")  # fmt: skip
    missing: set[str] = set()
    for name in options.models.split(","):
        model, x, y = load(options.bench, name, options.n)
        for key in options.attacks.split(","):
            row = ROWS[key]
            n, few = len(x), min(len(x), row.art_n)
            runs = [(ours, n), (foolbox, n), *([(ours, few)] if few < n and row.art else []),
                    (art, few)]  # fmt: skip
            base = 0.0
            for run, n in runs:
                if run is not ours and getattr(row, run.__name__) is None:
                    continue
                try:
                    line, seconds = measure(run, row, model, x[:n], y[:n])
                except ImportError as error:
                    if run.__name__ not in missing:
                        print(f"{run.__name__} is left out: {error}")
                    missing.add(run.__name__)
                    continue
                base = seconds if run is ours else base
                print(f"{name:17}{key:15}{run.__name__:9}{line}{seconds / base:9.2f}", flush=True)


if __name__ == "__main__":
    main()
