"""A recorder keeps what a search saw, sample by sample, in the order of its answers."""

import torch
from torch import Tensor, nan

from robust.attacks import PGD
from robust.core.eot import EOT
from robust.core.goal import Goal
from robust.core.recorder import Recorder
from robust.core.threat import Linf
from robust.core.victim import Victim

X = torch.full((3, 1), 0.5)
GOAL = Goal(torch.zeros(3, dtype=torch.int64))
THREAT = Linf(0.2)


def model(x: Tensor) -> Tensor:
    """The margin of class 1 is 10·(x − 0.6)."""
    return torch.cat([torch.zeros_like(x), 10 * (x - 0.6)], 1)


def recorded(calls):
    """A recorder of a search that asks about (rows, values) after each other."""
    recorder = Recorder(X, GOAL, THREAT)
    victim = Victim(model, 3, recorder=recorder)
    for rows, values in calls:
        victim[torch.tensor(rows)].logits(torch.tensor(values).view(-1, 1))
    return recorder


def same(found: Tensor, wanted) -> bool:
    return torch.allclose(found, torch.tensor(wanted).to(found), equal_nan=True, atol=1e-5)


def test_margins_stand_by_sample_and_answer_those_outside_of_the_ball_apart():
    seen = recorded([([0, 2], [0.5, 0.4]), ([2, 1], [0.65, 0.9]), ([0], [0.3])])
    assert same(seen.margins, [[-1, nan, -3], [nan, 3, nan], [-2, 0.5, nan]])
    assert same(seen.inside, [[-1, nan, -3], [nan, nan, nan], [-2, 0.5, nan]])
    assert same(seen.distances, [[nan, nan, nan], [nan, 0.4, nan], [nan, 0.15, nan]])
    assert seen.asked.tolist() == [2, 1, 2]


def test_a_success_counts_inside_of_ball_and_box_alone():
    low = Recorder(X - 0.55, GOAL, THREAT)
    low.see(torch.tensor([0]), torch.tensor([[-0.1]]), torch.tensor([[0.0, 1.0]]))
    assert not low.reached.any()
    seen = recorded([([0, 1, 2], [0.9, 0.65, 0.5])])
    assert seen.reached.tolist() == [False, True, False]
    assert seen.first.tolist() == [0, 1, 0]
    assert same(seen.best, [[0.5], [0.65], [0.5]])


def test_the_first_success_is_counted_and_the_best_is_kept():
    seen = recorded([([0, 1], [0.5, 0.5]), ([1], [0.68]), ([1, 0], [0.62, 0.66]), ([0], [0.69])])
    assert seen.first.tolist() == [2, 2, 0]
    assert same(seen.best, [[0.69], [0.68], [0.5]])


def test_a_sample_that_is_asked_several_times_at_once_has_one_answer_the_best():
    seen = recorded([([1, 0, 1, 1, 1], [0.62, 0.5, 0.68, 0.66, 0.9])])
    assert seen.asked.tolist() == [1, 1, 0]
    assert same(seen.margins[:2], [[-1], [3]])
    assert same(seen.inside[:2], [[-1], [0.8]])
    assert same(seen.distances[:2], [[nan], [0.12]])  # the nearest
    assert same(seen.best[1], [0.68])
    assert seen.first.tolist() == [0, 1, 0]


def test_answers_that_are_nan_count_as_none():
    recorder = Recorder(X, GOAL, THREAT)
    recorder.see(torch.arange(2), X[:2], torch.tensor([[0.0, nan], [0.0, 1.0]]))
    assert recorder.reached.tolist() == [False, True, False]
    assert same(recorder.margins, [[nan], [1], [nan]])


def test_of_draws_the_mean_is_an_answer_and_no_single_one():
    draws = iter([1.0, -2.0, -2.0, 1.0] * 3)

    def coin(x: Tensor) -> Tensor:
        return model(x) + torch.tensor([0.0, next(draws)])

    recorder = Recorder(X, GOAL, THREAT)
    attack = EOT(attack=PGD(steps=1, step_size=1e-9, random_start=False), eot=4)
    attack.search(Victim(coin, 3, recorder=recorder), X, GOAL, THREAT, torch.Generator())
    assert recorder.margins.shape == (3, 2)
    assert same(recorder.margins[:, 0], [-1.5] * 3)
    assert not recorder.reached.any()


def test_nothing_seen_leaves_empty_traces():
    recorder = Recorder(X, GOAL, THREAT)
    for columns in (recorder.margins, recorder.inside, recorder.distances):
        assert columns.shape == (3, 0)
    assert recorder.asked.tolist() == [0, 0, 0]
