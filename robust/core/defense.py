"""The base of every defense, and its three faces: how it trains, what it puts around a model, and
how an adaptive attacker sees through that."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from .attack import Attack
from .errors import RobustError
from .goal import as_logits
from .intercept import Intercepting
from .threat import Threat

# (logits (n, K), y (n,)) → loss of each sample (n,), weighted by its class where the run asks so.
Criterion = Callable[[Tensor, Tensor], Tensor]

PLACES = ("input", "layers", "output")


@dataclass(frozen=True)
class Frame:
    """What a defense is put around: a model of samples of this shape in [low, high]."""

    shape: tuple[int, ...]
    num_classes: int
    low: float = 0.0
    high: float = 1.0

    @property
    def image(self) -> bool:
        """Whether samples have the shape of images (C, H, W) with 1 or 3 channels."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    def unit(self, x: Tensor) -> Tensor:
        """Values of the data's range as values in [0, 1]."""
        return (x - self.low) / (self.high - self.low)

    def own(self, u: Tensor) -> Tensor:
        """The reverse of `unit`."""
        return self.low + u * (self.high - self.low)


class Task(NamedTuple):
    """One batch and what is to be learned from it.

    x, y    (n, …) in the threat's box, and its labels, int64 (n,)
    threat  that of this batch: its eps grows while a run warms up
    rng     where all randomness comes from, but that of the model's own layers
    loss    the run's criterion
    """

    x: Tensor
    y: Tensor
    threat: Threat
    rng: Generator
    loss: Criterion


@dataclass(frozen=True)
class Step:
    """What a defense makes of one batch of training data.

    loss        scalar, to be differentiated with respect to the parameters
    logits      (n, K), of the samples that were trained on, without gradient
    x_adv       (n, …), these samples: adversarial, or as they came
    after       to be called once the loss is differentiated, before the optimiser's step
    """

    loss: Tensor
    logits: Tensor
    x_adv: Tensor
    after: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):  # noqa: B024  # no face is required of every defense
    """One way to make a model more robust. Subclasses are frozen dataclasses.

    The fields are the configuration. A subclass states

    family      "adversarial training", "gradient masking", "randomization" or "denoising"
    paper       arXiv id
    claims      what it promises, in a few words
    broken_by   what is known to break it, with the paper; "" where nothing does
    place       what it changes of a deployed model: its "input", "layers" or "output"; "" nothing
    trained     a model must be trained with it: around another one it does not work
    freezes     while it trains the network keeps its weights, and only its own `parts` learn
    """

    family: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    claims: ClassVar[str] = ""
    broken_by: ClassVar[str] = ""
    place: ClassVar[str] = ""
    trained: ClassVar[bool] = False
    freezes: ClassVar[bool] = False

    def check(self, frame: Frame) -> None:  # noqa: B027  # most take whatever comes
        """Raise RobustError where it cannot handle such samples."""

    def frame_behind(self, frame: Frame) -> Frame:
        """What the model behind it takes: the same, unless it changes the shape of samples."""
        return frame

    # How it trains

    @property
    def attacks(self) -> bool:
        """Whether it trains on adversarial examples: such a run is judged by robust accuracy."""
        return False

    def step(self, model: nn.Module, seen: nn.Module, task: Task) -> Step:
        """How it trains: the loss of a batch.

        The engine differentiates it and steps the optimiser. `model` has every defense of the run
        around it; `seen` is the same network as an adaptive attacker sees it, for inner attacks.
        Both are in training mode, but for what is frozen, and are left so; parameters get no
        gradient here.
        """
        logits = as_logits(model(task.x), len(task.x))
        return Step(task.loss(logits, task.y).mean(), logits.detach(), task.x)

    def updates(
        self, model: nn.Module, seen: nn.Module, task: Task, memory: dict[str, Tensor]
    ) -> Iterator[Step]:
        """The updates that one batch is worth: one `step`, or more where it is replayed. The engine
        asks for the next one when the optimiser has made its step.

        memory  what the batch before left, to be changed in place; empty when an epoch begins
        """
        yield self.step(model, seen, task)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the models that its training asks: see `opened`."""
        return ()

    def opened(self, open_model: Callable[[str], nn.Module], frame: Frame) -> "Defense":
        """What trains, with its `files` opened: asked once, before a run begins.

        open_model(path) gives logits, in eval mode and without gradients for its parameters; frame
        is that of the samples. Raises RobustError where such a model does not fit the run.
        """
        return self

    @property
    def trains(self) -> bool:
        """Whether it trains in a way of its own; others stand around what adversarial or natural
        training trains."""
        own, plain = type(self), Defense
        return own.step is not plain.step or own.against is not plain.against

    def against(self, attack: Attack | None) -> "Defense":
        """What trains where the run has this inner attack (`--adv`; None: it has none). Asked only
        of a defense that `trains`. Raises RobustError for what it has no use for.
        """
        if attack is not None:
            raise RobustError("it trains in its own way, without an inner attack: drop --adv")
        return self

    # What it puts around a model, and how an attacker sees through it

    def parts(self, model: nn.Module, frame: Frame) -> nn.Module | None:
        """What it learns: modules with parameters of their own, made once, trained with the network
        and kept in its checkpoint. None: nothing.
        """
        return None

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        """The model with this defense around it, sharing its parameters. `frame` is that of what
        comes in. Random defenses draw from torch's global generator, anew with every forward.
        """
        return model

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        """What an adaptive attacker differentiates in place of `wrap`, given what he differentiates
        of the model behind: it has the same predictions, draw by draw, and gradients that help.
        """
        return self.wrap(model, frame, parts)

    @property
    def draws(self) -> int:
        """Draws that an attacker averages his gradient over (EOT): 1 unless it is random."""
        return 1

    @property
    def params(self) -> dict[str, Any]:
        """The configuration, by field name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True, kw_only=True)
class InputDefense(Defense):
    """A defense that changes samples before the model sees them.

    gradient    of `transform`, as an attacker sees it: "own": autograd goes through it as deployed;
                "exact": deployed, it is a step outside of the graph, as image libraries are, but an
                attacker differentiates it exactly; "stand-in": it has no useful gradient, and
                an attacker takes that of `stand_in`
    """

    place: ClassVar[str] = "input"
    gradient: ClassVar[Literal["own", "exact", "stand-in"]] = "stand-in"

    @abstractmethod
    def transform(self, x: Tensor, frame: Frame, parts: nn.Module | None = None) -> Tensor:
        """What the model sees of x (n, …), in the range of frame."""

    def stand_in(self, x: Tensor, frame: Frame) -> Tensor:
        """A differentiable function near `transform`: the identity, unless there is a better one
        (BPDA, 1802.00420)."""
        return x

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Before(model, self, frame, parts)

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Before(model, self, frame, parts, exposed=True)


class Before(nn.Module):
    """model(transform(x)). Exposed, the gradient goes through the transform or its stand-in."""

    def __init__(
        self,
        model: nn.Module,
        defense: InputDefense,
        frame: Frame,
        parts: nn.Module | None = None,
        *,
        exposed: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.parts = model, parts
        self.defense, self.frame, self.exposed = defense, frame, exposed

    def forward(self, x: Tensor) -> Any:
        return self.model(self._changed(x))

    def _changed(self, x: Tensor) -> Tensor:
        kind = self.defense.gradient
        known = self.exposed or (self.training and self.parts is not None)  # those must learn
        if kind == "own" or (kind == "exact" and known):
            return self.defense.transform(x, self.frame, self.parts)
        with torch.no_grad():
            changed = self.defense.transform(x, self.frame, self.parts)
        if not (x.requires_grad and self.exposed):
            return changed
        near = self.defense.stand_in(x, self.frame)
        return near + (changed - near).detach()

    def extra_repr(self) -> str:
        return repr(self.defense)


@dataclass(frozen=True, kw_only=True)
class LayerDefense(Defense):
    """A defense that changes what happens inside of a network, without new parameters.

    It takes the place of functions that the network calls, by whatever name (see `intercept`).
    """

    place: ClassVar[str] = "layers"

    @abstractmethod
    def functions(self, *, exposed: bool) -> dict[str, Callable[..., Tensor]]:
        """By the kind of function ("relu", "linear"), what is called in its place, deployed or as
        an attacker differentiates it: `new(old, number, training, *args, **kwargs)`, see
        `Intercepting`.
        """

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Intercepting(model, self.functions(exposed=False))

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return Intercepting(model, self.functions(exposed=True))


@dataclass(frozen=True, kw_only=True)
class OutputDefense(Defense):
    """A defense that changes logits."""

    place: ClassVar[str] = "output"

    @abstractmethod
    def change(self, logits: Tensor) -> Tensor:
        """What is answered in place of logits (n, K); the predicted class stays."""

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return After(model, self)

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return model


class After(nn.Module):
    """change(model(x))."""

    def __init__(self, model: nn.Module, defense: OutputDefense) -> None:
        super().__init__()
        self.model, self.defense = model, defense

    def forward(self, x: Tensor) -> Tensor:
        return self.defense.change(as_logits(self.model(x), len(x)))


def refuse_order(names: Sequence[str], places: Sequence[str]) -> None:
    """RobustError unless defenses stand in the order in which a sample meets them."""
    last = ""
    for name, place in zip(names, places, strict=True):
        if not place:
            raise RobustError(f"{name} changes how a model is trained, and nothing around it")
        if last and PLACES.index(place) < PLACES.index(places[names.index(last)]):
            raise RobustError(
                f"{name} changes the {place} and {last} the {places[names.index(last)]}: name them "
                "in the order in which a sample meets them, input, layers, output"
            )
        last = name
