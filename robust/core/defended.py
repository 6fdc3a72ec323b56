"""A model with defenses around it: as it is deployed, and as an adaptive attacker sees it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .defense import Defense, Frame, refuse_order
from .errors import RobustError
from .intercept import Intercepting

GUESSED_DRAWS = 20  # of a model that is found to answer at random


class Defended(nn.Module):
    """A model with its defenses; called, it answers as it is deployed.

    model       what is deployed: pixels in [low, high] to logits
    exposed     what an adaptive attacker differentiates: same predictions, gradients that help
    draws       draws to average a gradient over, 1 where nothing is random
    guessed     nobody declared how to attack it: `exposed` and `draws` are guesses
    records     {"name", "params"} of each defense, in the order in which a sample meets them
    frame       of the samples that come in
    behind      of what reaches the model: another one where a defense changes their shape
    parts       what each defense has learned, by its number
    """

    def __init__(
        self,
        model: nn.Module,
        exposed: nn.Module,
        *,
        draws: int = 1,
        guessed: bool = False,
        records: Sequence[dict[str, Any]] = (),
        frame: Frame | None = None,
        behind: Frame | None = None,
        parts: nn.ModuleDict | None = None,
    ) -> None:
        super().__init__()
        self.model, self.exposed = model, exposed
        self.parts = nn.ModuleDict() if parts is None else parts
        self.draws, self.guessed, self.records = draws, guessed, list(records)
        self.frame, self.behind = frame, behind or frame

    def forward(self, x: Tensor) -> Any:
        output = answer_of(self.model, x)
        if x.requires_grad and isinstance(output, Tensor):
            # Without a path to the input, an attacker who does not know better sees zeros.
            nothing = 0 * x.flatten(1).sum(1)
            output = output + (nothing if output.dim() == 1 else nothing.unsqueeze(1))
        return output


def answer_of(model: nn.Module, x: Tensor) -> Any:
    """model(x), also where its code refuses what requires a gradient, as x.numpy() does.

    Any other error is one: memory that was too small for the graph must not look like a model
    without gradients.
    """
    try:
        return model(x)
    except RuntimeError as error:
        if not x.requires_grad or "requires grad" not in str(error):
            raise
        return model(x.detach())


def frames_of(defenses: Sequence[Defense], names: Sequence[str], frame: Frame) -> list[Frame]:
    """The frame that each defense is put around, and last that of what the model itself takes.

    Raises RobustError for an order that makes no sense, and where a defense cannot handle such
    samples.
    """
    refuse_order(names, [defense.place for defense in defenses])
    frames = [frame]
    for defense, name in zip(defenses, names, strict=True):
        try:
            defense.check(frames[-1])
        except RobustError as error:
            raise RobustError(f"{name}: {error}") from error
        frames.append(defense.frame_behind(frames[-1]))
    return frames


def compose(
    model: nn.Module,
    defenses: Sequence[Defense],
    names: Sequence[str],
    frame: Frame,
    *,
    guessed: bool = False,
    records: Sequence[dict[str, Any]] | None = None,
) -> Defended:
    """The model with these defenses around it, in the order in which a sample meets them.

    names    of the defenses, for messages
    records  of the defenses; None: of their names and params

    Raises RobustError for an order that makes no sense, and where a defense cannot handle such
    samples or such a model, which is asked about one.
    """
    frames = frames_of(defenses, names, frame)
    made = list(zip(defenses, frames, strict=False))
    inner = [number for number, defense in enumerate(defenses) if defense.place != "input"]
    outer = [number for number, defense in enumerate(defenses) if defense.place == "input"]
    deployed = exposed = model
    parts = nn.ModuleDict()
    for number in [*inner, *reversed(outer)]:
        defense, before = made[number]
        own = defense.parts(model, before)
        if own is not None:
            parts[str(number)] = own
        exposed = defense.expose(exposed, before, own)
        deployed = defense.wrap(deployed, before, own)
    if records is None:
        records = [
            {"name": name, "params": defense.params}
            for name, defense in zip(names, defenses, strict=True)
        ]
    draws = max((defense.draws for defense in defenses), default=1)
    defended = Defended(
        deployed,
        exposed,
        draws=draws,
        guessed=guessed,
        records=records,
        frame=frame,
        behind=frames[-1],
        parts=parts,
    )
    _test(defended, frame, " + ".join(names))
    return defended


def _test(defended: Defended, frame: Frame, names: str) -> None:
    """Ask about one sample: what does not fit is found here."""
    modes = [(module, module.training) for module in defended.modules()]
    like = next((p for p in defended.parameters()), torch.empty(0))
    x = torch.full((1, *frame.shape), frame.low, device=like.device)
    try:
        defended.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            defended(x)
    except RobustError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RobustError(f"{names} does not fit the model: {line}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    replacing = [m for m in defended.model.modules() if isinstance(m, Intercepting)]
    for module in replacing:
        for kind, calls in module.calls.items():
            if not calls:
                if any(other.calls.get(kind) for other in replacing):
                    raise RobustError(
                        f"{names}: two of them replace the same functions of the model, and "
                        "nothing is left for the second: name one, once"
                    )
                what = {"relu": "no ReLU", "linear": "no convolution or linear layer"}[kind]
                raise RobustError(
                    f"{names}: {what} was seen in the model, so that there is nothing to "
                    "replace (TorchScript hides what it calls)"
                )
