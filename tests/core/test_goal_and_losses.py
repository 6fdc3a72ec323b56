"""Goals and losses against values worked out by hand."""

import math

import pytest
import torch

from robust.core.errors import RobustError
from robust.core.goal import Goal, as_logits
from robust.core.losses import LOSSES, ce, dlr, margin

Z = torch.tensor([[5.0, 1.0, 3.0, 0.0], [1.0, 2.0, 0.0, -1.0]])
Y = torch.tensor([0, 0])


def test_margin_is_positive_exactly_where_the_goal_is_reached():
    assert Goal(Y).margin(Z).tolist() == [-2, 1]
    assert Goal(Y).reached(Z).tolist() == [False, True]
    aim = Goal(torch.tensor([2, 1]), targeted=True)
    assert aim.margin(Z).tolist() == [-2, 1]
    assert aim.reached(Z).tolist() == [False, True]


def test_random_logits_agree_on_margin_and_reached():
    z = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(500) % 5
    for targeted in (False, True):
        goal = Goal(labels, targeted)
        assert torch.equal(goal.margin(z) > 0, goal.reached(z))


def test_goal_narrows_with_all_it_knows():
    goal = Goal(torch.tensor([0, 1, 2]), persist=True, towards=torch.tensor([1, 2, 0]))
    part = goal[torch.tensor([True, False, True])]
    assert part.labels.tolist() == [0, 2]
    assert part.towards.tolist() == [1, 0]
    assert part.persist


def test_cross_entropy_by_hand():
    z, goal = torch.tensor([[0.0, math.log(3.0)]]), Goal(torch.tensor([0]))
    assert ce(z, goal).item() == pytest.approx(math.log(4))
    assert ce(z, Goal(torch.tensor([1]), targeted=True)).item() == pytest.approx(-math.log(4 / 3))
    towards = Goal(torch.tensor([0]), towards=torch.tensor([1]))
    assert ce(z, towards).item() == pytest.approx(-math.log(4 / 3))


def test_dlr_by_hand():
    goal = Goal(Y)
    assert dlr(Z, goal).tolist() == pytest.approx([-2 / 4, 1 / 2])
    towards = Goal(Y, towards=torch.tensor([1, 2]))
    assert dlr(Z, towards).tolist() == pytest.approx([-4 / 4.5, -1 / 2.5])
    aimed = Goal(torch.tensor([2, 1]), targeted=True)
    assert dlr(Z, aimed).tolist() == pytest.approx([-2 / 4.5, 1 / 2.5])


def test_dlr_with_three_classes_and_with_two():
    three = Z[:, :3]
    assert dlr(three, Goal(Y)).tolist() == pytest.approx([-2 / 4, 1 / 2])
    assert dlr(three, Goal(Y, towards=torch.tensor([1, 1]))).tolist() == pytest.approx([-1, 1 / 2])
    two = Z[:, :2]
    assert dlr(two, Goal(Y)).tolist() == margin(two, Goal(Y)).tolist() == [-4, 1]


def test_dlr_ignores_shift_and_scale():
    goal = Goal(Y, towards=torch.tensor([1, 1]))
    assert torch.allclose(dlr(7 * Z - 3, goal), dlr(Z, goal))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_per_sample(name):
    loss, goal = LOSSES[name], Goal(Y)
    apart = torch.cat([loss(Z[i : i + 1], goal[torch.tensor([i])]) for i in range(2)])
    assert torch.allclose(loss(Z, goal), apart)


def test_one_logit_becomes_two():
    two = as_logits(torch.tensor([2.0, -1.0]), 2)
    assert two.tolist() == [[0, 2], [0, -1]]
    assert as_logits(torch.tensor([[2.0], [-1.0]]), 2).argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.zeros(2, 4, 1), torch.zeros(2, 0), "no"])
def test_what_is_no_batch_of_logits_is_refused(bad):
    with pytest.raises(RobustError, match="the model returned"):
        as_logits(bad, 2)
