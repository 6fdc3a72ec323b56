"""Seconds of one PGD step on a CIFAR ResNet-18, ours beside its peers, in one run.

    python benchmarks/pgd_step.py [--arch resnet18] [--images 64] [--rounds 7] [--device cpu]
                                  [--no-bf16] [--compile] [--only bare,ours,copy]

The bare step is one forward and one gradient with respect to the input, in fp32. `ours` searches on
the network itself, `copy` on the copy that `robust attack` makes of it (`robust.models.fast`), in
bf16 where the hardware has it. A step of each library is the time of a long run less that of a
short one, over the difference in steps, so that what happens once in a run does not count. All are
interleaved; medians and the ratio to the bare step are printed. Nothing is solved: eps is too
small, and the images are those that an untrained network tells best from other classes, so that the
copy's answers need not be asked again. Peers that are not installed are left out
(`pip install -e '.[peers,bench]'`).
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
from robust.core.goal import Goal
from robust.core.rng import generator, seeded
from robust.core.threat import Linf
from robust.core.victim import Original, Victim
from robust.models import build, fast

EPS, SHORT, LONG = 1e-6, 2, 8
Run = Callable[[int], object]


class Block(nn.Module):
    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or inp != out:
            conv = nn.Conv2d(inp, out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()


def resnet18() -> nn.Module:
    """ResNet-18 (1512.03385) for 32×32 pixels: a first convolution of 3×3, and no pooling."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
    layers.append(nn.ReLU())
    for inp, out, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Block(inp, out, stride), Block(out, out, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def bare(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    def run(steps: int) -> None:
        for _ in range(steps):
            at = x.clone().requires_grad_()
            loss = nn.functional.cross_entropy(net(at), y, reduction="sum")
            torch.autograd.grad(loss, at)

    return run


def ours(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    return lambda steps: PGD(steps=steps)(net, x, y, threat=Linf(EPS))


def on_copy(made: fast.SearchCopy, net: nn.Module, x: Tensor, y: Tensor) -> Run:
    goal, threat = Goal(y), Linf(EPS)

    def run(steps: int) -> Tensor:
        original = Original(net, goal, made.band)
        victim = Victim(made.module, len(x), device=x.device, original=original)
        with torch.no_grad():
            return PGD(steps=steps).search(victim, x, goal, threat, generator(0))

    return run


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
    parser.add_argument("--arch", default="resnet18", help="resnet18, preact-resnet18, …")
    parser.add_argument("--no-bf16", action="store_true", help="a copy in fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the copy")
    parser.add_argument("--only", default="", help="names, with commas between")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    device = torch.device(options.device)
    with seeded(0):
        # With parameters that require gradients, as a user's network comes.
        arch = options.arch
        net = resnet18() if arch == "resnet18" else build(arch, (3, 32, 32), 10)
        net = net.eval().to(device)
        x = torch.rand(4 * options.images, 3, 32, 32).to(device)
    with torch.no_grad():
        logits = torch.cat([net(part) for part in x.split(64)])
    first, second = logits.topk(2).values.unbind(1)
    clear = (first - second).topk(options.images).indices
    x, y = x[clear], logits[clear].argmax(1)

    low = False if options.no_bf16 else None
    made = fast.prepare(net, x[:16], low_precision=low, compiled=options.compile)

    def copy(net: nn.Module, x: Tensor, y: Tensor) -> Run:
        assert made is not None
        return on_copy(made, net, x, y)

    only = options.only.split(",") if options.only else []
    runs: dict[str, Run] = {}
    for make in (bare, ours, copy, torchattacks, foolbox, art):
        if only and make.__name__ not in only:
            continue
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

    print(f"{arch}; copy: {made.folded} norms folded, channels_last {made.channels_last}, "
          f"bf16 {made.low_precision}")  # fmt: skip
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
