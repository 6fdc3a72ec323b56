"""Feature denoising: blocks inside of a network that average over similar features."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from robust.core.defense import Defense, Frame
from robust.core.errors import RobustError

# What the layer groups of our architectures are called: where all these are, a block goes behind
# each, as in the paper behind the last residual block of each stage.
_GROUPS = (
    ("layer1", "layer2", "layer3", "layer4"),  # preact-resnet18
    ("block1", "block2", "block3"),  # wide-resnet-28-10
    ("relu1", "relu2"),  # small-cnn
)


@dataclass(frozen=True, kw_only=True)
class FeatureDenoising(Defense):
    """Train a network with denoising blocks behind its layer groups (Xie et al., 1812.03411).

    A block adds to its features the result of non-local means over all positions, through a 1×1
    convolution and BatchNorm whose scale starts at 0. Two positions i and j are as similar as

    similarity  "gaussian": softmax over j of θ(x_i) · φ(x_j) / √C, θ and φ 1×1 convolutions, which
                did best; "dot-product": x_i · x_j / positions

    The paper's networks owe their robustness to adversarial training, to which blocks add a few
    points: give `--adv pgd`. Exposed as it is, for nothing is hidden. For small-cnn,
    preact-resnet18 and wide-resnet-28-10, whose parameters keep their names: what the blocks learn
    is kept apart.

    Raises RobustError for other architectures.
    """

    family: ClassVar[str] = "denoising"
    paper: ClassVar[str] = "1812.03411"
    claims: ClassVar[str] = "features without the noise that perturbations make of them"
    broken_by: ClassVar[str] = "any gradient attack, unless adversarially trained (its own table)"
    place: ClassVar[str] = "layers"
    trained: ClassVar[bool] = True
    similarity: Literal["gaussian", "dot-product"] = "gaussian"

    def parts(self, model: nn.Module, frame: Frame) -> nn.Module:
        path, groups = _find_groups(model)
        like = next(model.parameters())
        found: dict[str, nn.Module] = {}
        training = [module for module in model.modules() if module.training]
        with ExitStack() as hooks, torch.no_grad():
            for name in groups:

                def make(layer: nn.Module, given: Any, answer: Tensor, name: str = name) -> None:
                    found[name] = _Block(answer.shape[1], self.similarity)

                layer = model.get_submodule(path).get_submodule(name)
                hooks.enter_context(layer.register_forward_hook(make))
            model.eval()
            try:
                model(torch.full((1, *frame.shape), frame.low, device=like.device))
            finally:
                for module in training:
                    module.training = True
        return nn.ModuleDict(found).to(like.device)

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        assert isinstance(parts, nn.ModuleDict)
        return _Between(model, parts)


class _Block(nn.Module):
    """x + BatchNorm(convolution(non-local means of x)), x (n, C, …)."""

    def __init__(self, channels: int, similarity: str) -> None:
        super().__init__()
        embedded = similarity == "gaussian"
        self.theta = nn.Conv1d(channels, channels, 1, bias=False) if embedded else None
        self.phi = nn.Conv1d(channels, channels, 1, bias=False) if embedded else None
        self.conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        features = x.flatten(2)
        if self.theta is not None and self.phi is not None:
            query, key = self.theta(features).transpose(1, 2), self.phi(features).transpose(1, 2)
            means = scaled_dot_product_attention(query, key, features.transpose(1, 2))
            means = means.transpose(1, 2)
        else:
            # (x xᵀ) x = x (xᵀ x): channels × channels instead of positions × positions.
            products = features @ features.transpose(1, 2)
            means = products @ features / features.shape[2]
        denoised: Tensor = x + self.norm(self.conv(means)).view_as(x)
        return denoised


class _Between(nn.Module):
    """A model in whose forward a block follows each of the layer groups that `blocks` names."""

    def __init__(self, model: nn.Module, blocks: nn.ModuleDict) -> None:
        super().__init__()
        self.model, self.blocks = model, blocks
        self.path, _ = _find_groups(model)

    def forward(self, x: Tensor) -> Any:
        # Hooks for the length of a forward: the model itself stays as it is, names included.
        net = self.model.get_submodule(self.path)
        with ExitStack() as hooks:
            for name, block in self.blocks.items():
                layer = net.get_submodule(name)
                hooks.enter_context(layer.register_forward_hook(_followed_by(block)))
            return self.model(x)


def _followed_by(block: nn.Module) -> Callable[[nn.Module, Any, Tensor], Any]:
    return lambda layer, given, answer: block(answer)


def _find_groups(model: nn.Module) -> tuple[str, tuple[str, ...]]:
    """Where in the model the network with layer groups is, and their names. Raises RobustError."""
    for path, module in model.named_modules():
        children = dict(module.named_children())
        for names in _GROUPS:
            if children.keys() >= set(names):
                return path, names
    raise RobustError(
        "feature-denoising goes into small-cnn, preact-resnet18 and wide-resnet-28-10, and this "
        "model is none of them"
    )
