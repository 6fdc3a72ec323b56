"""An oracle counts every answer, never asks twice, averages or votes, and takes up a journal."""

import numpy as np
import pytest
import torch
from torch import nn

from robust.core import oracle as module
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.oracle import Oracle, Remote
from robust.core.victim import Access, BudgetSpent, Victim

X = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Sums of the rows and their negatives as scores; remembers the rows it was asked about."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x):
        self.rows += [tuple(row.tolist()) for row in x]
        return torch.stack([x.sum(1), -x.sum(1), x[:, 0]], 1)


class Far(Remote):
    """Answers in parts of two rows, the last part first; stops after `good` parts."""

    def __init__(self, good=99):
        super().__init__()
        self.good, self.asked = good, 0

    def ask(self, x):
        for number, rows in enumerate(reversed(torch.arange(len(x)).split(2))):
            if number >= self.good:
                raise RobustError("the service is gone")
            self.asked += len(rows)
            yield rows, torch.stack([x[rows].sum(1), -x[rows].sum(1)], 1)


class Kept:
    """A journal in memory."""

    def __init__(self):
        self.answers = {}

    def read(self):
        return dict(self.answers)

    def append(self, keys, answers):
        for key, answer in zip(keys, answers, strict=True):
            assert key not in self.answers
            self.answers[key] = answer.copy()

    def close(self): ...


class Dice(nn.Module):
    """Class 0, 1 or 2 in turn, whatever the question."""

    def __init__(self, *turns):
        super().__init__()
        self.turns, self.number = turns, 0

    def forward(self, x):
        out = []
        for _ in x:
            out.append(self.turns[self.number % len(self.turns)])
            self.number += 1
        return torch.tensor(out)


def test_what_is_known_is_not_asked_again_and_costs_nothing():
    net = Counting()
    oracle = Oracle(net)
    mixed = torch.cat([X, X[1:3], X[:1]])
    logits, spent = oracle.answer(mixed)
    assert torch.equal(logits, Counting()(mixed))
    assert spent.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    again, spent = oracle.answer(X.flip(0))
    assert torch.equal(again, Counting()(X.flip(0)))
    assert spent.sum() == 0
    assert len(net.rows) == 5 == len(set(net.rows))
    assert (oracle.asked, oracle.repeated) == (5, 8)


def test_the_last_bit_makes_another_question():
    net = Counting()
    oracle = Oracle(net)
    oracle(X)
    near = X.clone()
    near[0, 0] = torch.nextafter(near[0, 0], torch.tensor(2.0))
    oracle(near)
    assert len(net.rows) == 6


def test_a_shard_is_forgotten_and_what_came_before_a_run_is_not():
    net = Counting()
    oracle = Oracle(net)
    oracle(X[:1])
    with oracle.remembering(None):
        oracle(X)
        oracle(X)
    assert len(net.rows) == 5
    with oracle.remembering(None):
        oracle(X)
    assert len(net.rows) == 9
    assert len(oracle.learned) == 1


def test_memory_has_a_limit_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 3 * (module._ENTRY + 12))
    net = Counting()
    oracle = Oracle(net)
    with oracle.remembering(None):
        for row in X.split(1):
            oracle(row)
        oracle(X[2:])
        assert len(net.rows) == 5
        oracle(X[:1])
        assert len(net.rows) == 6


def test_a_service_that_dies_loses_no_answer():
    journal, far = Kept(), Far(good=2)
    oracle = Oracle(far)
    with pytest.raises(RobustError, match="gone"), oracle.remembering(journal):
        oracle(X)
    assert len(journal.answers) == 3 == far.asked
    later = Oracle(Far())
    with later.remembering(journal):
        logits, spent = later.answer(X)
    assert later.model.asked == 2
    assert torch.equal(logits, Far()(X))
    assert spent.tolist() == [1] * 5  # what an earlier process paid for counts all the same
    assert later.asked == 5


def test_parts_come_in_any_order():
    assert torch.equal(Far()(X)[:, 0], X.sum(1))
    assert torch.equal(Oracle(Far())(X)[:, 0], X.sum(1))


def test_scores_are_averaged_as_probabilities():
    oracle = Oracle(Dice([0.0, 0.0], [2.0, 0.0], [4.0, 0.0]))
    oracle.draws = 3
    logits, spent = oracle.answer(X[:1])
    drawn = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]).softmax(1)
    assert torch.allclose(logits.softmax(1)[0], drawn.mean(0), atol=1e-6)
    assert spent.tolist() == [3]
    assert oracle.answer(X[:1])[1].tolist() == [0]


def test_labels_vote():
    oracle = Oracle(Dice([9.0, 0.0], [0.0, 0.1], [0.0, 0.1]), labels=True)
    oracle.draws = 3
    assert oracle(X[:1]).argmax(1).tolist() == [1]
    scores = Oracle(Dice([9.0, 0.0], [0.0, 0.1], [0.0, 0.1]))
    scores.draws = 3
    assert scores(X[:1]).argmax(1).tolist() == [0]


def test_the_draws_of_a_sample_are_numbered():
    dice = Dice([1.0, 0.0], [0.0, 1.0])
    oracle = Oracle(dice)
    first, spent = oracle.draw(X[:1], [0, 7])
    assert spent.tolist() == [2]
    again, spent = oracle.draw(X[:1], [7, 8])
    assert spent.tolist() == [1]
    assert torch.equal(first[0, 1], again[0, 0])
    assert dice.number == 3


def test_probabilities_become_logarithms():
    oracle = Oracle(Dice([0.25, 0.75], [1.0, 0.0]))
    oracle.probabilities = True
    answers = oracle(X[:2])
    assert torch.allclose(answers.softmax(1), torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert answers.isfinite().all()


def test_nan_reaches_no_goal_and_is_counted():
    nan = float("nan")
    oracle = Oracle(Dice([nan, 0.0], [0.0, 1.0]))
    y = torch.tensor([0, 0])
    logits = oracle(X[:2])
    assert Goal(y).reached(logits).tolist() == [False, True]
    assert Goal(y, targeted=True).reached(logits).tolist() == [False, False]
    assert oracle.not_finite == 1
    labels = Victim(oracle, 2, Access.LABELS).labels(X[:2])
    assert labels.tolist() == [-1, 1]
    assert Goal(y).satisfied(labels).tolist() == [False, True]


def test_a_budget_is_held_by_every_sample_for_itself():
    net = Counting()
    victim = Victim(Oracle(net), 5, Access.LABELS, budget=torch.tensor([1, 2, 3, 0, 9]))
    assert victim.left.tolist() == [1, 2, 3, 0, 9]
    with pytest.raises(BudgetSpent):
        victim.labels(X)
    assert not net.rows
    rows = torch.tensor([0, 1, 2, 4])
    victim[rows].labels(X[rows])
    with pytest.raises(BudgetSpent):  # known answers cost nothing, but sample 0 may not ask
        victim[rows].labels(X[rows])
    victim[rows[1:]].labels(X[rows[1:]])
    assert victim.left.tolist() == [0, 1, 2, 0, 8]


def test_a_sample_asked_several_times_at_once_pays_for_each():
    net = Counting()
    victim = Victim(Oracle(net), 5, Access.LABELS, budget=torch.tensor([1, 2, 3, 0, 9]))
    rows = torch.tensor([1, 2, 1, 4, 1])
    with pytest.raises(BudgetSpent):
        victim[rows].labels(torch.rand(5, 3))
    assert not net.rows
    rows = torch.tensor([1, 2, 1, 4])
    victim[rows].labels(torch.rand(4, 3))
    assert victim.left.tolist() == [1, 0, 2, 0, 8]


def test_limits_are_the_narrower_of_two():
    victim = Victim(Oracle(Counting()), 5, Access.LABELS, budget=torch.tensor([1, 2, 3, 4, 9]))
    part = victim.limited(3)
    assert part.left.tolist() == [1, 2, 3, 3, 3]
    part.labels(X)
    assert part.left.tolist() == [0, 1, 2, 2, 2]
    assert victim.left.tolist() == [0, 1, 2, 3, 8]
    assert victim.limited(3).left.tolist() == [0, 1, 2, 3, 3]


def test_a_question_costs_as_many_queries_as_it_takes_draws():
    oracle = Oracle(Counting())
    oracle.draws = 3
    victim = Victim(oracle, 5, Access.SCORES, budget=torch.tensor([2, 3, 5, 6, 9]))
    assert victim.left.tolist() == [0, 1, 1, 2, 3]
    rows = torch.arange(1, 5)
    victim[rows].logits(X[rows])
    assert victim.ledger.queries.tolist() == [0, 3, 3, 3, 3]
    assert victim.left.tolist() == [0, 0, 0, 1, 2]


def test_keys_do_not_depend_on_layout():
    x = torch.rand(2, 3, 4, 4)
    oracle = Oracle(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))
    oracle(x)
    oracle(x.to(memory_format=torch.channels_last))
    assert oracle.asked == 2


def test_journal_answers_are_the_raw_ones():
    journal = Kept()
    oracle = Oracle(Dice([0.25, 0.75]))
    oracle.probabilities = True
    with oracle.remembering(journal):
        oracle(X[:1])
    assert np.array_equal(next(iter(journal.answers.values())), np.float32([0.25, 0.75]))


def test_draws_with_nan_do_not_vote():
    nan = float("nan")
    for labels in (True, False):
        oracle = Oracle(Dice([nan, 0.0], [0.0, 3.0], [nan, 1.0]), labels=labels)
        oracle.draws = 3
        assert oracle(X[:1]).argmax(1).tolist() == [1]
        assert oracle(X[:1]).isfinite().all()
        lost = Oracle(Dice([nan, nan]), labels=labels)
        lost.draws = 3
        assert Victim(lost, 2, Access.LABELS).labels(X[:2]).tolist() == [-1, -1]


def test_what_was_forgotten_is_in_the_journal_still(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2 * (module._ENTRY + 12))

    class Twice(Kept):
        def append(self, keys, answers):
            self.answers.update(zip(keys, answers.copy(), strict=True))

    class Service(Far):
        def ask(self, x):
            for rows, answers in super().ask(x):
                yield rows, torch.cat([answers, answers[:, :1]], 1)

    journal, first = Twice(), Oracle(Service())
    with first.remembering(journal):
        for rows in (X[:1], X[1:2], X[2:3], X[:1]):  # the first is forgotten, and asked again
            first(rows)
    assert first.asked == 4
    later = Oracle(Service())
    with later.remembering(journal):
        for rows in (X[:1], X[1:2], X[2:3], X[:1]):
            later(rows)
    assert later.model.asked == 0
    assert later.asked == 4


def test_what_is_sent_in_8_bits_is_one_question():
    net = Counting()
    oracle = Oracle(net, box=(0.0, 1.0))
    oracle(X)
    oracle((X * 255).round() / 255)
    assert len(net.rows) == 5
    oracle(X + 1 / 255)
    assert len(net.rows) == 10


def test_labels_are_all_that_attackers_see():
    oracle = Oracle(Counting(), labels=True)
    seen, _ = oracle.answer(X)
    assert set(seen.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(seen.argmax(1), Counting()(X).argmax(1))
    assert torch.equal(oracle(X), Counting()(X))  # what the engine measures


def test_an_attack_begins_as_if_it_were_alone():
    net = Counting()
    oracle = Oracle(net)
    with oracle.remembering(None):
        oracle(X[:1])
        base = oracle.known
        oracle(X)
        oracle.begin(base)
        _, spent = oracle.answer(X)
        assert spent.tolist() == [0, 1, 1, 1, 1]
        assert oracle.answer(X)[1].sum() == 0
    assert len(net.rows) == 5 == oracle.asked


def test_nan_is_no_margin_to_remember():
    nan = float("nan")
    victim, watch = Victim(Oracle(Dice([nan, nan], [1.0, 0.0])), 1).watched(Goal(torch.tensor([0])))
    victim.logits(X[:1])
    victim.logits(X[1:2])
    assert watch.margin.tolist() == [-1.0]
