"""The floating-point operations of a forward and a backward of a model, by torch's counter."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .core.defended import Defended, answer_of
from .core.goal import as_logits
from .core.oracle import Oracle
from .core.rng import seeded
from .evaluation import Evaluation
from .preflight import frozen

_SAMPLES = 2


def of(run: Evaluation) -> dict[str, Any]:
    """What run.json keeps of a run, measured once on a sample or two of its data.

    model       as it is deployed; `exposed`, where it has defenses, as adaptive attacks see it
    surrogates  a list, where attacks search on these instead

    Each is {"forward", "backward"} for one sample, or {"why"}: a sentence on why nobody knows.
    Nothing here can fail or change a run: torch's generators are as they were afterwards.
    """
    x = run.source.batch(run.source.ids[:_SAMPLES]).x.to(run.device)
    model = run.model
    if isinstance(model, Oracle):  # whose every answer is counted, and may cost money
        found: dict[str, Any] = {"model": {"why": "The model can only be asked."}}
    else:
        found = {"model": count(model, x)}
    if isinstance(model, Defended) and model.exposed is not model.model:
        found["exposed"] = count(model.exposed, x)
    if run.surrogates:
        found["surrogates"] = [count(one, x) for one in run.surrogates]
    return found


def count(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Operations for one sample of x (n, …): multiplications and additions count one each, those of
    matrix products, convolutions and attention alone, as torch counts them.

    `backward` is a gradient with respect to the input; None where there is none.
    """
    try:
        with seeded(0, "flops"), frozen(model):
            forward, behind = _passes(model, x)
    except Exception as error:  # whatever a model does that a counter cannot take
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {"why": f"torch's counter fails on the model ({line[:200]})."}
    if not forward:
        return {"why": "The model does nothing that torch's counter knows."}
    return {"forward": forward // len(x), "backward": None if behind is None else behind // len(x)}


def _passes(model: nn.Module, x: Tensor) -> tuple[int, int | None]:
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        logits = as_logits(answer_of(model, x), len(x))
    forward = int(counter.get_total_flops())
    if not logits.requires_grad:
        return forward, None
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(logits.sum(), x, allow_unused=True)
    return forward, int(counter.get_total_flops())
