"""What the gradients say, and whether the function does what they say."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from robust.core.defended import Defended
from robust.core.goal import Goal, as_logits
from robust.core.losses import ce, margin
from robust.core.rng import generator, seeded
from robust.core.threat import CONVEX, Threat
from robust.core.victim import Loss
from robust.diagnosis.subject import Subject
from robust.preflight import guarded

# Of eps: the step by which a slope is compared with the function. Within it the kinks of a ReLU
# network hardly tell, and the jumps of k-winners-take-all do: of 100 samples its gradients mislead
# about 28 at 0.01, 58 at 0.03 and 73 at 0.1, those of networks trained by PGD about none.
STEP = 0.03
_WITHOUT_NORM = 0.01  # of the range of the data, its Euclidean length where eps counts coordinates
HALF = 0.5  # of the change that a gradient promises: what it may be off by


def probe(subject: Subject) -> dict[str, Any]:
    """Where there are gradients, whether they stay, and whether they tell the truth.

    views       of the model "deployed", as a naive attacker differentiates it, and where it has
                defenses or is random "exposed", as an adaptive one does

    Of each view, at the samples and at a random point of the ball around each:
    zero        samples whose gradient is 0 in every coordinate at both points, by the loss: "ce"
                and "margin"
    not_finite  samples with a gradient that is not finite somewhere, of either loss
    missing     the answers have no path to the input at all
    cosine      mean cosine of the gradients of the margin in two draws; 1 where nothing is random

    At the samples alone, for noise leads to steeper places:
    asked       samples whose slope could be compared with the function: the gradient of the margin
                is finite and not 0
    misleading  those of them where a step of STEP eps up the gradient changes the margin by less
                than half, or more than one and a half times of what the gradient promises. What is
                exposed may well differ from the function there: it is made to lead further
    change      median of the changes over the promises
    """
    views = {"deployed": subject.model}
    if isinstance(subject.model, Defended):
        views["exposed"] = subject.model.exposed
    return {
        "step": STEP,
        "views": {name: _seen(subject, model) for name, model in views.items()},
    }


def _seen(subject: Subject, model: nn.Module) -> dict[str, Any]:
    looks = [_look(subject, model, rows, number) for number, rows in enumerate(subject.parts())]

    def column(name: str) -> Tensor:
        return torch.cat([look[name] for look in looks], 1)

    cosine = column("cosine")
    cosine = cosine[cosine.isfinite()]
    asked, misled, change = (column(name)[0] for name in ("asked", "misled", "change"))
    change = change[asked & change.isfinite()]
    return {
        "zero": {name: int(column(f"zero {name}").all(0).sum()) for name in ("ce", "margin")},
        "not_finite": int(column("not finite").any(0).sum()),
        "missing": any(bool(look["missing"]) for look in looks),
        "cosine": float(cosine.mean()) if len(cosine) else None,
        "asked": int(asked.sum()),
        "misleading": int((misled & asked).sum()),
        "change": float(change.median()) if len(change) else None,
    }


def _look(subject: Subject, model: nn.Module, rows: Tensor, number: int) -> dict[str, Tensor]:
    """What there is to see of the samples `rows`, at themselves and at a random point: (2, k)."""
    x, goal, spec = subject.x[rows], subject.goal[rows], subject.spec
    ball = subject.threat.around(x)
    found: dict[str, list[Tensor]] = {}

    def note(name: str, value: Tensor) -> None:
        found.setdefault(name, []).append(value)

    missing = torch.zeros((), dtype=torch.bool)
    for point, z in enumerate((x, ball.random(generator(spec.seed, "gradients", number)))):
        # The same draw for a gradient and for the function that it is compared with.
        draw, other = ((spec.seed, "gradients", number, point, k) for k in range(2))
        with seeded(*draw):
            value, slope, path = _gradient(model, z, margin, goal)
        missing |= not path
        with seeded(*draw):
            _, entropy, _ = _gradient(model, z, ce, goal)
        with seeded(*other):
            _, second, _ = _gradient(model, z, margin, goal)
        flat = (slope == 0).flatten(1).all(1)
        finite = slope.flatten(1).isfinite().all(1)
        note("zero margin", flat)
        note("zero ce", (entropy == 0).flatten(1).all(1))
        note("not finite", ~(finite & entropy.flatten(1).isfinite().all(1)))
        alike = cosine_similarity(slope.flatten(1).double(), second.flatten(1).double())
        note("cosine", alike.masked_fill(flat | ~finite, torch.nan))
        after = _stepped(subject.threat, z, slope)
        with seeded(*draw), guarded(z), torch.no_grad():
            changed = goal.margin(as_logits(model(after), len(z))).double() - value
        promise = (slope.double() * (after - z).double()).flatten(1).sum(1)
        note("asked", finite & ~flat & (promise > 0))
        note("misled", (changed - promise).abs() > HALF * promise)
        note("change", changed / promise)
    return {"missing": missing, **{name: torch.stack(two).cpu() for name, two in found.items()}}


def _stepped(threat: Threat, z: Tensor, slope: Tensor) -> Tensor:
    """z after a small step up the slope, inside the box."""
    near = threat
    size = STEP * threat.eps
    if threat.norm not in CONVEX:
        near = Threat("l2", 1.0, threat.low, threat.high)
        size = _WITHOUT_NORM * (threat.high - threat.low)
    step = near.around(z).advance(z, slope.nan_to_num(0.0, 0.0, 0.0), size)
    return step.clamp(threat.low, threat.high)


def _gradient(model: nn.Module, z: Tensor, loss: Loss, goal: Goal) -> tuple[Tensor, Tensor, bool]:
    """The margin at z, float64 (n,), ∂loss/∂z (n, …) as autograd gives it, and whether there was a
    path to differentiate along; zeros where there was none.
    """
    z = z.detach().requires_grad_()
    with guarded(z), torch.enable_grad():
        logits = as_logits(model(z), len(z))
        value = loss(logits, goal).sum()
        slope = None
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value, z, allow_unused=True)
    margins = goal.margin(logits.detach()).double()
    return margins, torch.zeros_like(z) if slope is None else slope, slope is not None
