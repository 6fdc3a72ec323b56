"""Binary problems with a solution by construction, made of a network and a few samples."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Generator, Tensor, nn

from robust import chance
from robust.core.adaptive import Adaptive
from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.goal import Goal
from robust.core.rng import generator, normal
from robust.core.threat import CONVEX, COUNTS, Ball, Threat
from robust.core.victim import Victim
from robust.preflight import guarded
from robust.registry import parse_attack
from robust.verification import verify

from .binarised import Network, Readouts, binarised, groups
from .subject import Subject

_RADIUS = 0.95  # of the ball that points inside fill, as a share of eps
_CLOSE = 0.999  # where between the last of them and the solution the boundary is put
_TRIED = 16  # points on the surface, where the first cannot be told from those inside
_SPREAD = 1e-3  # of the widest feature: what varies less counts as varying by so much
_HARD = 0.9  # of the way from the sample to the furthest point that is known
_REFERENCE = "apgd,steps=50,loss=margin"
_AT_ONCE = 128


@dataclass(frozen=True)
class Problems:
    """m problems: from a sample, reach the other side of its readout's boundary.

    x           the samples (m, …)
    solution    points (m, …) of their balls that lie on the other side
    at_sample   what the readouts score at the samples: (m,)
    floor       the least that a boundary may be at, beyond all points inside: (m,)
    made_of     so many points drawn in each ball
    left_out    samples that no such problem could be made of
    """

    subject: Subject
    network: Network
    put: Callable[[Readouts, Tensor, Threat], nn.Module]
    x: Tensor
    solution: Tensor
    readouts: Readouts
    at_sample: Tensor
    floor: Tensor
    made_of: int
    left_out: int = 0

    @classmethod
    def of(cls, subject: Subject, rows: Tensor, points: int) -> "Problems":
        """Problems of the samples `rows`, int64 (m,), each made of so many points in its ball."""
        x = subject.x[rows]
        model = subject.model
        network = Network(model.model if isinstance(model, Defended) else model, x)
        put = binarised(model, lambda part: Network(part, x))
        rng = generator(subject.spec.seed, "diagnosis", "problems")
        made = [
            _make(subject, network, subject.x[row], subject.goal[row], points, rng)
            for row in torch.split(rows, 1)
        ]
        kept = [place for place, one in enumerate(made) if one is not None]
        ready = [one for one in made if one is not None]
        solution = torch.cat([x[:0], *(one.solution for one in ready)])
        readouts = Readouts.of([one.readout for one in ready], like=x)
        at_sample = torch.cat([x.new_zeros(0), *(one.at_sample for one in ready)])
        floor = torch.cat([x.new_zeros(0), *(one.floor for one in ready)])
        problems = cls(
            subject, network, put, x[kept], solution, readouts, at_sample, floor, points,
            left_out=len(x) - len(ready),
        )  # fmt: skip
        return problems._checked()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> "Problems":
        return replace(
            self,
            x=self.x[rows],
            solution=self.solution[rows],
            readouts=self.readouts[rows],
            at_sample=self.at_sample[rows],
            floor=self.floor[rows],
        )

    @property
    def goal(self) -> Goal:
        """To arrive at the second class, if the run was targeted, or else to leave the first."""
        targeted = self.subject.goal.targeted
        labels = torch.full((len(self),), int(targeted), device=self.x.device)
        return Goal(labels, targeted=targeted)

    @property
    def model(self) -> nn.Module:
        """The network with these readouts, for problems whose balls lie apart."""
        return self.put(self.readouts, self.x, self.subject.threat)

    def attacked(self, attack: Attack) -> Tensor:
        """Which of them an attack solves: bool (m,). Raises RobustError where it does not take
        binary problems.
        """
        subject = self.subject
        attack.check(subject.threat, targeted=self.goal.targeted, shape=self.x.shape[1:], classes=2)
        solved = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
        for rows in self._apart(alone=attack.minimal):
            part = self[rows]
            model = part.model
            x_adv, victim = part._search(model, attack, part.goal)
            outcome = verify(
                model, repr(attack), rows, part.x, x_adv, part.goal, subject.threat, victim,
                minimal=attack.minimal, image=False, checks=subject.spec.checks,
            )  # fmt: skip
            solved[rows] = torch.from_numpy(outcome.success).to(solved.device)
        return solved

    def by_chance(self) -> Tensor:
        """Which of them some point solves of `made_of` drawn like the solution: bool (m,)."""
        rng = generator(self.subject.spec.seed, "diagnosis", "by chance")
        return torch.tensor([self._drawn(torch.tensor([i]), rng) for i in range(len(self))]).bool()

    def rounds(self) -> tuple["Problems", "Problems"]:
        """The same with some room behind each boundary, and a harder round: boundaries at _HARD of
        the way to the furthest point that is known, of the solution and what a reference search
        reaches. Random models have no harder round, nor do threats without such a search.
        """
        subject, old = self.subject, self.readouts
        nothing = self[torch.zeros(0, dtype=torch.int64, device=self.x.device)]
        if subject.random or not len(self):
            return self, nothing
        reached = self._reference()
        at_solution = old.score(_features(self.network, self.solution)[0])
        score = torch.maximum(old.score(_features(self.network, reached)[0]), at_solution)
        hard = self.at_sample + _HARD * (score - self.at_sample)
        # Where few coordinates leave no other solution, an attack need not find it to the last bit.
        plain = torch.minimum(old.threshold, torch.maximum(hard, self.floor))
        first = self._moved(plain, self.solution)._checked()
        if subject.threat.norm not in CONVEX:
            return first, nothing
        wide = (score > at_solution).view(-1, *[1] * (reached.dim() - 1))
        solution = torch.where(wide, reached, self.solution)
        return first, self._moved(torch.maximum(hard, plain), solution)._checked()

    def _reference(self) -> Tensor:
        """What a reference search reaches of each, through defenses: points (m, …) of the balls;
        the solutions where no such search answers the threat.
        """
        subject, reached = self.subject, self.solution.clone()
        if subject.threat.norm not in CONVEX:
            return reached
        attack = parse_attack(_REFERENCE)
        if isinstance(subject.model, Defended):
            attack = Adaptive(attack=attack)
        for rows in self._apart():
            part = self[rows]
            aim = replace(part.goal, persist=True)
            x_adv, _ = part._search(part.model, attack, aim)
            inside = subject.threat.contains(part.x, x_adv)
            reached[rows[inside]] = x_adv[inside]
        return reached

    def _moved(self, threshold: Tensor, solution: Tensor) -> "Problems":
        """Other boundaries, and margins of the samples as before."""
        old = self.readouts
        scale = old.scale * (old.threshold - self.at_sample) / (threshold - self.at_sample)
        readouts = replace(old, threshold=threshold, scale=scale)
        return replace(self, readouts=readouts, solution=solution)

    def _apart(self, *, alone: bool = False) -> Iterator[Tensor]:
        """Their places, in groups whose balls lie apart. A minimal attack leaves the balls, and so
        takes one problem at a time.
        """
        places = torch.arange(len(self), device=self.x.device)
        yield from torch.split(places, 1) if alone else groups(self.x, self.subject.threat)

    def _search(self, model: nn.Module, attack: Attack, goal: Goal) -> tuple[Tensor, Victim]:
        spec = self.subject.spec
        victim = Victim(model, len(self), attack.access, self.x.device)
        rng = generator(spec.seed, "diagnosis", "problems", repr(attack), len(self))
        with torch.no_grad(), guarded(self.x):
            return attack.search(victim, self.x, goal, self.subject.threat, rng), victim

    def _checked(self) -> "Problems":
        """Those whose sample lies on one side and whose solution on the other."""
        good = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
        for rows in self._apart():
            part = self[rows]
            good[rows] = part._solved(part.solution) & ~part._solved(part.x)
        kept = good.nonzero().squeeze(1)
        return replace(self[kept], left_out=self.left_out + len(self) - len(kept))

    def _solved(self, z: Tensor) -> Tensor:
        """Whether points z solve them, one for each, or all those of a single one: bool (k,)."""
        draws = 2 * self.subject.spec.checks if self.subject.random else 1
        return self._hits(z, draws).double().mean(1) >= 0.5

    def _hits(self, z: Tensor, draws: int) -> Tensor:
        goal = self.goal if len(z) == len(self) else self.goal[torch.zeros(len(z)).long()]
        return chance.reached(goal, chance.draw(self.model, z, draws))

    def _drawn(self, place: Tensor, rng: Generator) -> bool:
        one = self[place]
        for z in _draw(self.subject, self.subject.threat, one.x, self.made_of, _surface, rng):
            hit = one._hits(z, 1)[:, 0].nonzero().squeeze(1)
            if len(hit) and (not self.subject.random or bool(one._solved(z[hit]).any())):
                return True
        return False


@dataclass(frozen=True)
class _Made:
    """One problem: see `Problems`, with m = 1."""

    solution: Tensor
    readout: Readouts
    at_sample: Tensor
    floor: Tensor


def _make(
    subject: Subject, network: Network, x: Tensor, goal: Goal, points: int, rng: Generator
) -> _Made | None:
    """A problem from the sample x (1, …), or None where no readout tells a point on the surface of
    its ball from those inside.
    """
    threat, draws = subject.threat, 2 * subject.spec.checks if subject.random else 1
    inner = replace(threat, eps=_inner_radius(threat))
    inside = torch.cat(
        [
            _features(network, z)[0]  # the sample and its solution are the others
            for z in _draw(subject, inner, x, points - 2, Ball.random, rng)
        ]
    )
    own, logits = _features(network, x.expand(draws, *x.shape[1:]))
    (surface,) = _draw(subject, threat, x, _TRIED, _surface, rng)
    inside = torch.cat([own, inside])
    # The first, and if that cannot be told from the others the one that lies furthest out.
    for place in (0, int(_outlying(_features(network, surface)[0], inside))):
        solution = surface[place : place + 1]
        there, _ = _features(network, solution.expand(draws, *x.shape[1:]))
        readout = _fit(inside, there)
        if readout is None:
            continue
        scores, at_sample, at_solution = map(readout.score, (inside, own, there))
        if subject.random:
            threshold = floor = at_solution.quantile(0.25)
            apart = threshold > at_sample.quantile(0.75)
        else:
            gap = at_solution[0] - scores.amax()
            threshold, floor = at_solution[0] - (1 - _CLOSE) * gap, at_solution[0] - gap / 2
            apart = gap > 0
        middle = at_sample.median()
        if bool(apart) and bool(threshold > middle):
            margin = -goal[torch.zeros(draws, dtype=torch.int64)].margin(logits).median()
            size = margin if bool(margin.isfinite() & (margin > 0)) else torch.ones_like(margin)
            scale = size / (threshold - middle)
            return _Made(
                solution,
                replace(readout, threshold=threshold.view(1), scale=scale.view(1)),
                middle.view(1),
                floor.view(1),
            )
    return None


def _fit(inside: Tensor, there: Tensor) -> Readouts | None:
    """A logistic regression that tells features there (m, d) from those inside (k, d), of features
    of mean 0 and deviation 1; its weights, in the units of the features. None for other numbers.
    """
    features = torch.cat([inside, there]).double().cpu().numpy()
    if not np.isfinite(features).all():
        return None
    centre, spread = features.mean(0), features.std(0)
    spread = np.maximum(spread, _SPREAD * spread.max())
    if not spread.any():
        return None
    labels = np.arange(len(features)) >= len(inside)
    # A fit this small is slower on several threads, much so where others are busy.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # any separating plane will do
        model = LogisticRegression(class_weight="balanced", max_iter=1000)
        model.fit((features - centre) / spread, labels)
    return Readouts(
        torch.from_numpy(model.coef_ / spread).to(inside),
        torch.from_numpy(centre[None]).to(inside),
        inside.new_zeros(1),
        inside.new_ones(1),
    )


def _outlying(features: Tensor, inside: Tensor) -> Tensor:
    """Which of the features (m, d) lies furthest from the mean of those inside, as they spread."""
    known = inside.double()
    spread = known.std(0)
    spread = spread.clamp(min=max(_SPREAD * float(spread.max()), torch.finfo(known.dtype).tiny))
    far: Tensor = ((features.double() - known.mean(0)) / spread).square().sum(1)
    return far.argmax()


def _features(network: Network, z: Tensor) -> tuple[Tensor, Tensor]:
    with guarded(z), torch.no_grad():
        return network.features(z)


def _surface(ball: Ball, rng: Generator) -> Tensor:
    """Random points on the surface of the balls: for L∞ corners."""
    return ball.extreme(normal(rng, ball.x))


def _inner_radius(threat: Threat) -> float:
    radius = _RADIUS * threat.eps
    return float(max(1, int(radius))) if threat.norm in COUNTS else radius


def _draw(
    subject: Subject,
    threat: Threat,
    x: Tensor,
    count: int,
    how: Callable[[Ball, Generator], Tensor],
    rng: Generator,
) -> Iterator[Tensor]:
    """So many points around the sample x (1, …), in batches of at most the run's size."""
    size = min(_AT_ONCE, count, max(_TRIED, subject.spec.batch_size))
    ball = threat.around(x.expand(size, *x.shape[1:]))  # once: its bounds cost more than a draw
    for begin in range(0, count, size):
        yield how(ball, rng)[: count - begin]
