"""Seconds of one PGD step on a CIFAR ResNet-18, ours beside its peers, in one run.

    python benchmarks/pgd_step.py [--images 64] [--rounds 7] [--device cpu]

The bare step is one forward and one gradient with respect to the input, in fp32. A step of each
library is the time of a long run less that of a short one, over the difference in steps, so that
what happens once in a run does not count. All are interleaved; medians and the ratio to the bare
step are printed. Nothing is solved: eps is too small. Peers that are not installed are left out
(`pip install -e '.[peers]'`).
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from robust.attacks.pgd import PGD
from robust.core.rng import seeded
from robust.core.threat import Linf
from robust.models import build

EPS, SHORT, LONG = 1e-6, 2, 8
Run = Callable[[int], object]


def bare(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    def run(steps: int) -> None:
        for _ in range(steps):
            at = x.clone().requires_grad_()
            loss = nn.functional.cross_entropy(net(at), y, reduction="sum")
            torch.autograd.grad(loss, at)

    return run


def ours(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    return lambda steps: PGD(steps=steps)(net, x, y, threat=Linf(EPS))


def foolbox(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    import foolbox as fb

    model = fb.PyTorchModel(net, bounds=(0, 1), device=x.device)
    return lambda steps: fb.attacks.LinfPGD(steps=steps).run(model, x, y, epsilon=EPS)


def art(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    device = "gpu" if x.is_cuda else "cpu"
    model = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type=device
    )
    pixels, labels = x.cpu().numpy(), np.asarray(y.cpu())

    def run(steps: int) -> object:
        attack = ProjectedGradientDescent(
            model, eps=EPS, eps_step=EPS / 4, max_iter=steps, batch_size=len(x), verbose=False
        )
        return attack.generate(pixels, labels)

    return run


def torchattacks(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    import torchattacks as ta

    return lambda steps: ta.PGD(net, eps=EPS, alpha=EPS / 4, steps=steps)(x, y)


def seconds(run: Run, steps: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    device = torch.device(options.device)
    with seeded(0):
        # With parameters that require gradients, as a user's network comes.
        net = build("preact-resnet18", (3, 32, 32), 10).eval().to(device)
        x = torch.rand(options.images, 3, 32, 32).to(device)
    y = net(x).argmax(1).detach()
    runs: dict[str, Run] = {}
    for make in (bare, ours, torchattacks, foolbox, art):
        try:
            runs[make.__name__] = make(net, x, y)
        except ImportError as error:
            print(f"{make.__name__} is left out: {error}")
    steps: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(1)
        net.zero_grad(set_to_none=True)
    for _ in range(options.rounds):
        for name, run in runs.items():
            short, long = (seconds(run, n, device) for n in (SHORT, LONG))
            steps[name].append((long - short) / (LONG - SHORT))

    print(f"{options.images} images, {device}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}, {options.rounds} rounds")  # fmt: skip
    print(f"{'':14}{'s per step':>12}{'min':>10}{'max':>10}{'to bare':>10}")
    for name, times in steps.items():
        ratio = statistics.median(
            mine / base for mine, base in zip(times, steps["bare"], strict=True)
        )
        print(
            f"{name:14}{statistics.median(times):12.4f}{min(times):10.4f}{max(times):10.4f}"
            f"{ratio:10.3f}"
        )


if __name__ == "__main__":
    main()
