"""Small networks and helpers that the tests of models share."""

from pathlib import Path

import torch
from torch import Tensor, nn

SHAPE = (1, 8, 8)
FACTORY = """
import torch
from torch import nn
from sibling import WIDTH

class Net(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = x.view(x.shape[0], x.shape[1], -1)
        return self.head(x.mean(2))

def net(shape, num_classes):
    return Net(shape[0], num_classes)

def fixed():
    return Net(1, 10)

def by_classes(classes=3):
    return Net(1, classes)

def needs_more(depth):
    return Net(1, depth)

def fails():
    raise ValueError("no such width\\nand more")

def exits():
    raise SystemExit("bye")

def no_module():
    return [1]

class Branching(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(x) * 2

def branching(shape, num_classes):
    return Branching(shape[0], num_classes)
"""


def small(seed: int = 0) -> nn.Sequential:
    """A network in eval mode, with the layers that tell the modes and formats apart."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64, 10),
    )
    net(torch.rand(16, *SHAPE))
    return net.eval()


def write_factories(folder: Path) -> str:
    """FACTORY and the sibling that it imports; the path of the file."""
    (folder / "sibling.py").write_text("WIDTH = 4\n")
    (folder / "archs.py").write_text(FACTORY)
    return str(folder / "archs.py")


def answers(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a function of them to the input."""
    x = x.clone().requires_grad_()
    logits = module(x)
    logits.square().sum().backward()
    assert x.grad is not None
    return logits.detach(), x.grad


def assert_same(a: nn.Module, b: nn.Module, x: Tensor, atol: float = 0.0) -> None:
    for u, v in zip(answers(a, x), answers(b, x), strict=True):
        assert v.abs().max() > 0
        torch.testing.assert_close(u, v, atol=atol, rtol=0)
