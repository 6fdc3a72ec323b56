"""An oracle: a model that can only be asked. It counts, and never asks twice what it knows."""

import hashlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .goal import as_logits

_MOST = 256 * 2**20  # bytes of answers that are remembered; the oldest are forgotten first
_AT_ONCE = 128  # rows in one call of a model that is here
_ENTRY = 200  # bytes that an answer takes besides its scores
CHECKS = 1 << 20  # draws from this number on are repeated checks, and never part of an answer

Key = bytes  # 16 bytes of the sample's digest, 4 of the draw's number


class Remote(nn.Module):
    """A model elsewhere, whose answers come in parts and may stop coming."""

    @abstractmethod
    def ask(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Answers to the rows of x (n, …) as they arrive: (int64 (k,) which rows, logits (k, K)).

        Each row comes once, in any order. Raises RobustError where no answer can be had; what was
        yielded before stays good.
        """

    def forward(self, x: Tensor) -> Tensor:
        rows, parts = zip(*self.ask(x), strict=True)
        order = torch.cat(rows).argsort()
        return torch.cat(parts)[order]


class Journal(Protocol):
    """Where answers are kept as they arrive, so that a later process need not ask again."""

    def read(self) -> dict[Key, np.ndarray]: ...

    def append(self, keys: Sequence[Key], answers: np.ndarray) -> None: ...

    def close(self) -> None: ...


class Oracle(nn.Module):
    """A model whose every answer is counted and remembered; called, it gives logits (n, K).

    model       pixels to logits; a `Remote` hands its answers over as they arrive
    labels      only the class counts: several draws vote, where those of scores are averaged as
                probabilities
    scores      whether the model gives scores, even if nobody may see them
    probabilities   the answers are probabilities, of which the logarithm is given
    box         (low, high) where values are sent in 8 bits: what is the same then is one question
    draws       answers that make one: more than 1 where the model answers at random. The draws of
                a sample are numbered, and each is asked for once
    random      whether the model answers at random; None where nobody has looked
    asked       answers that the model gave, or had given to an earlier process that kept them
    repeated    answers that needed no question, for the same had been asked before
    not_finite  answers with NaN, which reach no goal
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: bool = False,
        scores: bool = True,
        box: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.labels, self.scores, self.box = model, labels, scores, box
        self.probabilities, self.draws = False, 1
        self.random: bool | None = None
        self.asked = self.repeated = self.not_finite = 0
        self._lasting: OrderedDict[Key, bytes] = OrderedDict()
        self._known, self._bytes = self._lasting, 0
        self._earlier: dict[Key, np.ndarray] = {}
        self._paid: dict[Key, bytes] = {}
        self._journal: Journal | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, K) as who runs the attack may see them: scores, if there are any."""
        answers, _ = self.draw(x, range(self.draws))
        return answers[:, 0] if self.draws == 1 else self.combine(answers)

    def answer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) at x as attackers see them, and the queries that each row took, int64 (n,):
        none where all of its draws are known.
        """
        answers, spent = self.draw(x, range(self.draws))
        return self.combine(answers), spent

    def combine(self, answers: Tensor) -> Tensor:
        """One answer (n, K) from several draws (n, d, K): votes for labels, else the logarithm of
        the mean probability. Draws with NaN do not count; where all have it, so has the answer.
        """
        lost = answers.isnan().any(2, keepdim=True)
        if self.labels:
            votes = nn.functional.one_hot(answers.argmax(2), answers.shape[2]) * ~lost
            return votes.to(answers.dtype).sum(1) / (~lost).sum(1)
        if answers.shape[1] == 1:
            return answers[:, 0]
        logs = answers.log_softmax(2).masked_fill(lost, -torch.inf).logsumexp(1)
        return logs.masked_fill(lost.all(1), torch.nan)

    def draw(self, x: Tensor, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The draws of these numbers at x: logits (n, d, K), and queries taken, int64 (n,)."""
        keys = self._keys(x, numbers)
        flat = [key for row in keys for key in row]
        wanted: dict[Key, int] = {}  # those to be asked for, and their row
        fresh = torch.zeros(len(flat), dtype=torch.int64)
        found: dict[Key, bytes] = {}
        asked = self.asked
        for place, key in enumerate(flat):
            if key in found or key in wanted:
                continue
            if key in self._known or key in self._lasting:
                found[key] = self._known.get(key) or self._lasting[key]
                continue
            fresh[place] = 1
            if key in self._paid:
                found[key] = self._keep(key, self._paid[key])
            elif key in self._earlier:
                found[key] = self._keep(key, self._earlier[key].tobytes())
                self.asked += 1
                self.not_finite += int(np.isnan(self._earlier[key]).any())
            else:
                wanted[key] = place // len(numbers)
        self._ask(x, wanted, found)
        spent = fresh.view(len(x), len(numbers)).sum(1).to(x.device)
        self.asked += len(wanted)
        self.repeated += len(flat) - (self.asked - asked)
        answers = np.frombuffer(b"".join(found[key] for key in flat), dtype=np.float32)
        classes = answers.size // max(1, len(flat))
        shaped = torch.from_numpy(answers.reshape(len(x), len(numbers), classes).copy())
        if self.probabilities:
            shaped = shaped.clamp_min(torch.finfo(torch.float32).tiny).log()
        return shaped.to(x.device), spent

    @contextmanager
    def remembering(self, journal: Journal | None) -> Iterator[None]:
        """Forget at the end what is learned meanwhile; what the journal holds is not asked again.

        What was learned outside of this (before a run) is remembered as long as the oracle.
        """
        self._known, self._bytes, self._paid = OrderedDict(), 0, {}
        self._journal = journal
        self._earlier = {} if journal is None else journal.read()
        try:
            yield
        finally:
            self._known, self._earlier, self._journal, self._paid = self._lasting, {}, None, {}

    def begin(self, base: frozenset[Key]) -> None:
        """Count from now on as if only the answers in `base` were known: what an earlier attack
        asked is not sent again, and is a query of this one all the same.
        """
        self._paid.update((key, kept) for key, kept in self._known.items() if key not in base)
        self._known = OrderedDict((key, kept) for key, kept in self._known.items() if key in base)

    @property
    def known(self) -> frozenset[Key]:
        """Whatever costs nothing now."""
        return frozenset(self._known)

    def recall(self, answers: dict[Key, np.ndarray]) -> None:
        """Take over what an earlier process learned before its run."""
        self._earlier = answers

    @property
    def learned(self) -> dict[Key, np.ndarray]:
        """What was learned outside of `remembering`: before a run."""
        return {key: np.frombuffer(kept, dtype=np.float32) for key, kept in self._lasting.items()}

    def _ask(self, x: Tensor, wanted: dict[Key, int], found: dict[Key, bytes]) -> None:
        if not wanted:
            return
        keys = list(wanted)
        rows = x[torch.tensor([wanted[key] for key in keys], device=x.device)]
        parts: Iterator[tuple[Tensor, Tensor]]
        if isinstance(self.model, Remote):
            parts = self.model.ask(rows)
        else:
            chunks = torch.split(torch.arange(len(rows)), _AT_ONCE)
            parts = ((chunk, self.model(rows[chunk.to(rows.device)])) for chunk in chunks)
        for places, output in parts:
            answers = as_logits(output, len(places)).detach().float().cpu().numpy()
            theirs = [keys[int(place)] for place in places]
            if self._journal is not None:
                self._journal.append(theirs, answers)
            self.not_finite += int(np.isnan(answers).any(1).sum())
            for key, answer in zip(theirs, answers, strict=True):
                found[key] = self._keep(key, answer.tobytes())

    def _keep(self, key: Key, kept: bytes) -> bytes:
        self._known[key] = kept
        self._bytes += len(kept) + _ENTRY
        while self._bytes > _MOST and self._known is not self._lasting:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= len(oldest) + _ENTRY
        return kept

    def _keys(self, x: Tensor, numbers: Sequence[int]) -> list[list[Key]]:
        if self.box is not None:
            low, high = self.box
            x = ((x - low) / (high - low) * 255).round().to(torch.uint8)
        rows = np.ascontiguousarray(x.detach().cpu().numpy()).reshape(len(x), -1)
        ends = [number.to_bytes(4, "little") for number in numbers]
        digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        return [[digest + end for end in ends] for digest in digests]
