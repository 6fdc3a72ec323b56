"""The victim: the model as an attacker sees it, with a ledger of what was asked."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from .errors import RobustError
from .goal import Goal, as_logits
from .grid import Grid
from .oracle import Oracle
from .progress import Progress
from .recorder import Recorder

CONFIRM = 10  # further draws of an answer that would end a search

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Goal], Tensor]


class Access(IntEnum):
    """What an attacker may ask of the model; each level includes those before it."""

    LABELS = 1
    SCORES = 2
    GRADIENT = 3

    def __str__(self) -> str:
        return self.name.lower()


class Ledger:
    """Per sample of a batch of n: forwards, backwards and queries (answers given), int64 (n,)."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self.forwards, self.backwards, self.queries = torch.zeros(
            3, n, dtype=torch.int64, device=device
        )


class Watch:
    """The best goal margin that each sample of a batch has shown so far: float (n,)."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self.margin = torch.full((n,), float("-inf"), device=device)


class BudgetSpent(RobustError):
    """A sample was asked about that has no query left: see `Victim.left`."""


@dataclass(frozen=True)
class Pool:
    """Samples of the data, x (m, …), and the classes that the model is known or believed to put
    them into, int64 (m,): where a search for the boundary can start from the other side.
    """

    x: Tensor
    labels: Tensor


@dataclass
class Original:
    """The model itself, where a victim answers from a search copy of it.

    goal    what the search is to reach, for all samples of the victim
    band    the copy's goal margins are trusted where they are below −band; it grows with the
            errors that are seen
    """

    model: Model
    goal: Goal
    band: float


class Victim:
    """A model that answers for the samples of one batch, each answer entered in the ledger.

    victim[rows] is the same victim for those samples only: a search that drops solved samples
    narrows its victim with them. A sample that `rows` repeats is asked so often in one call. Every
    call needs one row of x per sample (n, …) and raises RobustError where `access` does not allow
    it.

    surrogates  the number of networks in `model` that stand in for the one under attack: what each
                of them computes is entered, and no query, for nothing is asked of that one
    original    `model` is a search copy of this one, which is asked too wherever the copy comes
                near the goal (a forward more, no query); its logits are the answer there, so that
                no sample counts as solved, or as unsolved by a hair, on the copy's word
    budget      int64 (n,), queries that each sample may take in all; to ask more about one than
                it has left raises BudgetSpent
    pool        samples of other classes to start from
    progress    is told every answer
    grid        the values that the model can be sent; what is asked is moved onto it, towards x
    recorder    keeps what every answer showed, step by step

    `model` may be an Oracle: then an answer that is known already is no query, and one that takes
    several draws is as many.
    """

    def __init__(
        self,
        model: Model,
        n: int,
        access: Access = Access.GRADIENT,
        device: torch.device | str = "cpu",
        surrogates: int = 0,
        original: Original | None = None,
        *,
        budget: Tensor | None = None,
        pool: Pool | None = None,
        progress: Progress | None = None,
        grid: Grid | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.model, self.access, self.pool = model, access, pool
        self._networks, self._asked = max(1, surrogates), int(not surrogates)
        self.ledger = Ledger(n, device)
        self.marks: dict[str, Tensor] = {}
        self.remarks: dict[str, Tensor] = {}
        self._rows = torch.arange(n, device=device)
        self._watch: tuple[Watch, Goal, Tensor] | None = None
        self._original = original
        self._budget, self._progress, self._grid = budget, progress, grid
        self._recorder = recorder

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor) -> "Victim":
        part = copy.copy(self)  # one model, ledger and record of stages for all parts
        part._rows = self._rows[rows]
        if self._watch is not None:
            watch, goal, places = self._watch
            part._watch = watch, goal[rows], places[rows]
        return part

    def mark(self, stage: str) -> None:
        """Record that the search takes these samples into the stage of that name.

        `marks` has one bool (n,) per stage, in the order of their first use; it is stored with the
        outcomes, and the last stage that a broken sample entered is the one that broke it.
        """
        self._record(self.marks, stage)

    def remark(self, text: str) -> None:
        """Record something that is true of these samples, for the report: "10 samples" + text.

        `remarks` has one bool (n,) per text, stored with the outcomes like `marks`.
        """
        self._record(self.remarks, text)

    def _record(self, columns: dict[str, Tensor], name: str) -> None:
        if not len(self):
            return
        if name not in columns:
            columns[name] = torch.zeros_like(self.ledger.forwards, dtype=torch.bool)
        columns[name][self._rows] = True

    def watched(self, goal: Goal) -> tuple["Victim", Watch]:
        """The same victim, and a record of the margins that its answers show from now on."""
        watch = Watch(len(self), self._rows.device)
        seen = self[torch.arange(len(self), device=self._rows.device)]
        seen._watch = watch, goal, torch.arange(len(self), device=self._rows.device)
        return seen, watch

    def limited(self, queries: int) -> "Victim":
        """The same victim, of which each sample may take at most so many queries from now on."""
        part = copy.copy(self)
        spent = self.ledger.queries
        budget = torch.full_like(spent, queries) + spent
        part._budget = budget if self._budget is None else torch.minimum(budget, self._budget)
        return part

    @property
    def left(self) -> Tensor:
        """How many more questions each sample can surely pay for: int64 (n,). A question whose
        answer is known takes nothing off it, but none may be asked once this is 0.
        """
        if self._budget is None:
            return torch.full_like(self._rows, torch.iinfo(torch.int64).max)
        left: Tensor = self._budget[self._rows] - self.ledger.queries[self._rows]
        return left.clamp(min=0) // self._price

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, K) at x. One forward and one query each. Needs access to scores.

        Raises BudgetSpent, and asks nothing, where a sample has no query left.
        """
        self._require(Access.SCORES)
        return self._answer(x)

    def labels(self, x: Tensor) -> Tensor:
        """Predicted classes, int64 (n,), at x; −1 where the answer is NaN. One forward and one
        query each.

        Raises BudgetSpent, and asks nothing, where a sample has no query left.
        """
        answer = self._answer(x)
        return answer.argmax(1).masked_fill(answer.isnan().any(1), -1)

    def _answer(self, x: Tensor) -> Tensor:
        if self._budget is not None:
            asks = torch.bincount(self._rows, minlength=len(self.ledger.queries))[self._rows]
            if bool((self.left < asks).any()):
                raise BudgetSpent("the budget of queries is spent")
        if self._grid is not None:
            x = self._grid.snap(x, self._rows)
        with torch.no_grad():
            return self._settled(x, self._confirmed(x, self._forward(x)))

    def _confirmed(self, x: Tensor, logits: Tensor) -> Tensor:
        """A success inside eps of an oracle that answers at random is asked for again, if there are
        queries for that: a search must not end on one lucky answer.
        """
        oracle, progress = self.model, self._progress
        if not isinstance(oracle, Oracle) or oracle.draws == 1 or progress is None:
            return logits
        rows = progress.inside(self._rows, x, logits).nonzero().squeeze(1)
        asked = self._rows[rows]
        if self._budget is not None:
            spent = torch.bincount(asked, minlength=len(self._budget)) * CONFIRM
            rows = rows[(self.ledger.queries + spent <= self._budget)[asked]]
            asked = self._rows[rows]
        if not len(rows):
            return logits
        answers, more = oracle.draw(x[rows], range(oracle.draws + CONFIRM))
        self.ledger.forwards.index_add_(0, asked, more)
        self.ledger.queries.index_add_(0, asked, more)
        return logits.index_copy(0, rows, oracle.combine(answers))

    @property
    def step(self) -> float:
        """The distance of neighbouring values of the grid that questions are moved to, in the units
        of the data; 0 where there is none.
        """
        return 0.0 if self._grid is None else self._grid.step

    @property
    def _price(self) -> int:
        return self.model.draws if isinstance(self.model, Oracle) else 1

    def gradient(self, x: Tensor, loss: Loss, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, K), loss (n,) and ∂loss/∂x (n, …) at x: one forward and one backward each.

        Only the path to the input is differentiated: parameters get no gradient. NaN in a gradient
        counts as flat. From a search copy come gradient and loss, and the logits too where the goal
        persists, for then nothing counts as solved.
        """
        victim = self
        if goal.persist and self._original is not None:
            victim = copy.copy(self)
            victim._original = None
        logits, values, gradients = victim.jacobian(
            x, lambda logits: loss(logits, goal).unsqueeze(1)
        )
        return logits, values[:, 0], gradients[:, 0]

    def jacobian(
        self, x: Tensor, values: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Several numbers of the same answer: logits (n, K), v = values(logits) (n, m), ∂v/∂x
        (n, m, …). One forward and m backwards each.
        """
        self._require(Access.GRADIENT)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._forward(x)
            found = values(logits)
            last = found.shape[1] - 1
            try:
                gradients = [
                    torch.autograd.grad(column.sum(), x, retain_graph=number < last)[0]
                    for number, column in enumerate(found.unbind(1))
                ]
            except RuntimeError as error:
                raise RobustError(
                    "the model gives no gradient with respect to its input "
                    f"({str(error).splitlines()[0]})"
                ) from error
        self.ledger.backwards.index_add_(0, self._rows, self._each(last + 1))
        # One tensor, in the layout of x whatever that of the model.
        gradient = torch.stack(gradients, 1) if last else gradients[0].contiguous().unsqueeze(1)
        settled = self._settled(x.detach(), logits.detach())
        return settled, found.detach(), gradient.nan_to_num_(nan=0.0)

    def differentiable(self, x: Tensor) -> Tensor:
        """Logits (n, K) at x for code that takes gradients itself, by autograd: one forward each,
        and one backward each whenever a gradient passes through. Parameters get none.
        """
        self._require(Access.GRADIENT)
        return _Through.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def _forward(self, x: Tensor) -> Tensor:
        if len(x) != len(self):
            raise ValueError(f"{len(x)} rows for a victim of {len(self)} samples")
        if isinstance(self.model, Oracle):
            answer, spent = self.model.answer(x)
            self.ledger.forwards.index_add_(0, self._rows, spent)
            self.ledger.queries.index_add_(0, self._rows, spent)
            return answer
        self.ledger.forwards.index_add_(0, self._rows, self._each(1))
        self.ledger.queries.index_add_(0, self._rows, torch.full_like(self._rows, self._asked))
        return as_logits(self.model(x), len(x))

    def _settled(self, x: Tensor, logits: Tensor) -> Tensor:
        """The answer as it is given: the original's where a copy's is too near the goal."""
        original = self._original
        if original is not None:
            goal = original.goal[self._rows]
            margin = goal.margin(logits)
            rows = (~(margin <= -original.band)).nonzero().squeeze(1)  # NaN is near, too
            if len(rows):
                with torch.no_grad():
                    own = as_logits(original.model(x[rows]), len(rows))
                self.ledger.forwards.index_add_(0, self._rows[rows], torch.ones_like(rows))
                off = (goal[rows].margin(own) - margin[rows]).abs()
                seen = float(off.nan_to_num(nan=0.0, posinf=0.0).amax())
                original.band = max(original.band, 2 * seen)
                logits = logits.index_copy(0, rows, own.to(logits.dtype))
        self._see(x, logits)
        if self._progress is not None:
            self._progress.see(self._rows, x, logits, self.ledger.queries[self._rows])
        return logits

    def _see(self, x: Tensor, logits: Tensor) -> None:
        """Enter an answer at x in the records of who watches."""
        if self._recorder is not None:
            self._recorder.see(self._rows, x, logits)
        if self._watch is not None:
            watch, goal, places = self._watch
            margin = goal.margin(logits).to(watch.margin.dtype).nan_to_num(nan=-float("inf"))
            watch.margin.scatter_reduce_(0, places, margin, "amax")

    def _each(self, passes: int) -> Tensor:
        """So many passes through every network, as entered for each sample: int64 (n,)."""
        return torch.full_like(self._rows, passes * self._networks)

    def _require(self, needed: Access) -> None:
        if self.access < needed:
            raise RobustError(
                f"this attack needs access to {needed}; the victim gives {self.access}"
            )


class _Through(torch.autograd.Function):
    """A victim's logits as one step of somebody else's graph; its own graph ends at the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, victim: Victim) -> Tensor:
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.logits = victim._forward(ctx.x)
        ctx.victim = victim
        return victim._settled(ctx.x.detach(), ctx.logits.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        victim = ctx.victim
        if not ctx.logits.requires_grad:
            raise RobustError("the model gives no gradient with respect to its input")
        victim.ledger.backwards.index_add_(0, victim._rows, victim._each(1))
        (found,) = torch.autograd.grad(ctx.logits, ctx.x, gradient, retain_graph=True)
        return found.nan_to_num(nan=0.0), None
