"""A network with a readout in place of its last linear layer, one for each of a few samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.defended import Defended, answer_of
from robust.core.goal import as_logits
from robust.core.intercept import Intercepting
from robust.core.threat import Threat
from robust.preflight import guarded

_P = {"linf": torch.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0, "patch": 0.0}


@dataclass(frozen=True)
class Readouts:
    """A linear readout for each of m samples: scale·(⟨weight, features − centre⟩ − threshold).

    weight, centre (m, d); threshold, scale (m,). What it says is the margin of a binary problem:
    below 0 the sample's own side, above 0 the other.
    """

    weight: Tensor
    centre: Tensor
    threshold: Tensor
    scale: Tensor

    def __getitem__(self, rows: Tensor) -> "Readouts":
        return Readouts(
            self.weight[rows], self.centre[rows], self.threshold[rows], self.scale[rows]
        )

    @classmethod
    def of(cls, parts: Sequence["Readouts"], *, like: Tensor) -> "Readouts":
        """Those of several samples together; none has the device and dtype of `like`."""
        if not parts:
            none = like.new_zeros(0)
            return cls(like.new_zeros(0, 1), like.new_zeros(0, 1), none, none)
        columns = zip(*((p.weight, p.centre, p.threshold, p.scale) for p in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def score(self, features: Tensor) -> Tensor:
        """⟨weight, features − centre⟩, one row for each readout: (m, d) → (m,)."""
        return ((features - self.centre) * self.weight).sum(1)

    def margin(self, features: Tensor) -> Tensor:
        return self.scale * (self.score(features) - self.threshold)


@dataclass(frozen=True)
class _Head:
    """The last linear layer: by its weight, or where that is new in each forward (noise on it, say)
    by the number of its call among those of linear and convolutional layers.
    """

    number: int
    weight: Tensor
    fixed: bool

    def called(self, number: int, weight: Tensor | None) -> bool:
        return _same(weight, self.weight) if self.fixed else number == self.number


class Network:
    """A model, and where in it the features are that its last linear layer reads.

    `head` is that layer; None where none can be seen that makes the logits, as in TorchScript: then
    its logits are the features. It is looked for in a forward about x (n, …) from which gradients
    are asked, for there defenses may ask two networks.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model = model
        self.head = _find_head(model, x)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the last linear layer reads, (n, d), and what it makes of it, logits (n, K)."""
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(u: Tensor, out: Tensor) -> Tensor:
            seen.append((u, out))
            return out

        answer = self.answer(x, keep)
        u, out = seen[-1] if seen else (answer, answer)
        return u if seen else as_logits(u, len(u)), as_logits(out, len(out))

    def answer(self, x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Any:
        """The model's answer to x with change(u, out) in place of what its last linear layer makes
        of u, which is `out`.
        """
        head = self.head
        if head is None:
            return answer_of(self.model, x)

        def new(old: Any, number: int, training: bool, u: Tensor, *rest: Any, **how: Any) -> Any:
            out = old(u, *rest, **how)
            return change(u, out) if head.called(number, _weight(rest, how)) else out

        return answer_of(Intercepting(self.model, {"linear": new}), x)

    def with_readouts(self, readouts: Readouts, anchors: Tensor, threat: Threat) -> nn.Module:
        """The network as a binary one for points near the samples `anchors` (m, …)."""
        return _Binarised(self, readouts, anchors, threat)


class _Binarised(nn.Module):
    """Answers each point with the readout of the anchor that is nearest to it, as two logits.

    What the network does to the output of its last linear layer it does to theirs.
    """

    def __init__(
        self, network: Network, readouts: Readouts, anchors: Tensor, threat: Threat
    ) -> None:
        super().__init__()
        self.network, self.readouts, self.anchors = network, readouts, anchors
        self.p = _P[threat.norm]

    def forward(self, x: Tensor) -> Any:
        readouts = self.readouts[self._nearest(x)]
        if self.network.head is None:
            logits, _ = self.network.features(x)
            return _pair(readouts.margin(logits), like=logits)
        return self.network.answer(x, lambda u, out: _pair(readouts.margin(u), like=out))

    def _nearest(self, x: Tensor) -> Tensor:
        if len(self.anchors) == 1:
            return torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with torch.no_grad():
            far = torch.cdist(x.flatten(1), self.anchors.flatten(1).to(x.dtype), p=self.p)
            return far.argmin(1)


def _pair(margin: Tensor, *, like: Tensor) -> Tensor:
    """Logits of two classes whose difference is the margin; of a network with one logit, one."""
    if like.shape[1] == 1:
        return margin.unsqueeze(1).to(like.dtype)
    return torch.stack([-margin / 2, margin / 2], 1).to(like.dtype)


def binarised(
    model: nn.Module, make: Callable[[nn.Module], Network]
) -> Callable[[Readouts, Tensor, Threat], nn.Module]:
    """What puts readouts into a model: where it has defenses, into what is deployed and into what
    they expose. `make` finds the last linear layer.
    """
    if not isinstance(model, Defended):
        return make(model).with_readouts
    deployed, exposed = make(model.model), make(model.exposed)

    def both(readouts: Readouts, anchors: Tensor, threat: Threat) -> nn.Module:
        return Defended(
            deployed.with_readouts(readouts, anchors, threat),
            exposed.with_readouts(readouts, anchors, threat),
            draws=model.draws,
        )

    return both


def groups(x: Tensor, threat: Threat) -> list[Tensor]:
    """The samples x (n, …) in groups whose balls lie apart, so that a point tells its sample.

    APGD's searches in L1 begin in balls of three times the radius: so far apart they are.
    """
    reach = 2 * threat.eps * (3 if threat.norm == "l1" else 1)
    near = torch.cdist(x.flatten(1).double(), x.flatten(1).double(), p=_P[threat.norm]) <= reach
    found: list[list[int]] = []
    for sample in range(len(x)):
        fits = (
            group for group in found if threat.norm != "patch" and not near[sample, group].any()
        )
        group = next(fits, None)
        if group is None:
            found.append([sample])
        else:
            group.append(sample)
    return [torch.tensor(group, device=x.device) for group in found]


def _find_head(model: nn.Module, x: Tensor) -> _Head | None:
    first, second = _last_call(model, x), _last_call(model, x)
    if first is None or second is None:
        return None
    return replace(first, fixed=_same(first.weight, second.weight))


def _last_call(model: nn.Module, x: Tensor) -> _Head | None:
    calls: list[tuple[int, Tensor, Tensor | None, Tensor]] = []

    def new(old: Any, number: int, training: bool, u: Tensor, *rest: Any, **how: Any) -> Any:
        out = old(u, *rest, **how)
        calls.append((number, u, _weight(rest, how), out))
        return out

    with guarded(x), torch.enable_grad():
        asked = x.detach().clone().requires_grad_()
        answer = as_logits(answer_of(Intercepting(model, {"linear": new}), asked), len(x))
    if not calls:
        return None
    number, u, weight, out = calls[-1]
    flat = u.dim() == out.dim() == 2 and len(u) == len(out) == len(x)
    if weight is None or not flat or as_logits(out, len(x)).shape != answer.shape:
        return None
    return _Head(number, weight.detach(), fixed=False)


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and (one.data_ptr(), one.shape) == (other.data_ptr(), other.shape)


def _weight(rest: Sequence[Any], named: dict[str, Any]) -> Tensor | None:
    found = rest[0] if rest else named.get("weight")
    return found if isinstance(found, Tensor) else None
